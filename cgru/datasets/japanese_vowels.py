"""The Japanese Vowels recordings: nine speakers, one utterance each a short sequence of cepstrum coefficients.

`japanese_vowels.npz` is made by tests/data/pack_japanese_vowels.py. It holds the values, which have six decimals, as
integers of a millionth: three planes of bytes, least significant first, of v + 2**23, each plane one coefficient after
the other over the frames of all utterances. Division by 10**6 gives back the very float64 that the text of the original
reads as.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import pathlib
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgru.typing import AnyArray

# Of the file; the packing tool prints it.
_SHA256 = "dfce1a283fe3dadf17a68bbb30a49175cc71f6757ae65ce0b984f3db3a2876dc"
_TRAIN = 270
_OFFSET = 1 << 23


class JapaneseVowels(NamedTuple):
    """Training and test examples: lists of float64 arrays (T_i, 12), and labels 0 to 8 as intp arrays."""

    x_train: list[NDArray[np.float64]]
    y_train: NDArray[np.intp]
    x_test: list[NDArray[np.float64]]
    y_test: NDArray[np.intp]


def load_japanese_vowels() -> JapaneseVowels:
    """Return the Japanese Vowels recordings: 270 training and 370 test utterances of /ae/ by nine male speakers.

    Returns
    -------
    JapaneseVowels
        Named tuple x_train, y_train, x_test, y_test. An x is a list of float64 arrays (T_i, 12), 7 to 29 frames of 12
        LPC cepstrum coefficients, one frame each 6.4 ms, not standardised. A y holds the speakers, 0 to 8; the original
        counts from 1. Each call returns new arrays.

    Raises
    ------
    OSError
        If the data file is missing or cannot be read.
    ValueError
        If the data file is damaged.

    Notes
    -----
    Source: UCI Machine Learning Repository, "Japanese Vowels", doi:10.24432/C5NS47, in the unchanged, unequal-length
    version that aeon 1.6.0 carries. Licence: aeon is BSD-3-Clause; for the data, UCI's general terms are CC BY 4.0,
    which was not checked against the data set's own page (japanese_vowels.LICENSE.txt has the notices). To cite:

    M. Kudo, J. Toyama and M. Shimbo (1999), "Multidimensional Curve Classification Using Passing-Through Regions",
    Pattern Recognition Letters 20 (11-13), 1103-1111.

    Examples
    --------
    >>> from cgru.datasets import load_japanese_vowels
    >>> data = load_japanese_vowels()
    >>> len(data.x_train), len(data.x_test), data.x_train[0].shape
    (270, 370, (20, 12))
    """
    with importlib.resources.as_file(importlib.resources.files(__package__) / "japanese_vowels.npz") as path:
        planes, lengths, labels = _read(path)
    coefficients = unpack(planes) / 1e6
    ends = np.cumsum(lengths, dtype=np.intp)
    utterances = [np.ascontiguousarray(x.T) for x in np.split(coefficients, ends[:-1], axis=1)]
    y = labels.astype(np.intp)
    return JapaneseVowels(utterances[:_TRAIN], y[:_TRAIN], utterances[_TRAIN:], y[_TRAIN:])


def pack(values: ArrayLike) -> NDArray[np.uint8]:
    """Return uint8 (3, *shape), the byte planes of integers (*shape) of absolute value less than 2**23."""
    shifted = np.asarray(values, np.int64) + _OFFSET
    return np.stack([(shifted >> shift & 0xFF).astype(np.uint8) for shift in (0, 8, 16)])


def unpack(planes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the int32 array (*shape) that `pack` made into `planes`, uint8 (3, *shape)."""
    low, middle, high = planes.astype(np.int32)
    return (low | middle << 8 | high << 16) - _OFFSET


def _read(path: pathlib.Path) -> tuple[NDArray[np.uint8], AnyArray, AnyArray]:
    """Return planes, lengths and labels from the file at `path`; ValueError if it is not the one that was packed."""
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != _SHA256:
        raise ValueError(f"{path}: damaged data file (its checksum is another); install cgru again")
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        return file["planes"], file["lengths"], file["labels"]
