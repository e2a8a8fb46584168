"""Random numbers of training, each a pure function of what it is for: the seed, the update, the example's index in the
data, the layer, the direction, the step and the unit. So they depend on no thread, on no order of a batch, on nothing
that was drawn before, and a run that is resumed has those of one that was not.

The generator is Philox4x32-10 (J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: Parallel random numbers: as easy as
1, 2, 3. SC 2011): a block of four 32-bit words for each counter of four words and key of two. A first block, whose key
is the seed and whose counter says update, layer, cell, direction and use, gives the key of all others; their counters
say step and example, and of four units which four. `philox` is the plain form, kernels/random.pxi the compiled one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from cgru import kernels
from cgru.checks import check_int
from cgru.typing import Array, BoolArray, IntArray, Shape

_WORD = 0xFFFFFFFF
_KINDS = {np.dtype("uint32"): 0, np.dtype("bool"): 1, np.dtype("float32"): 2, np.dtype("float64"): 3}  # jobs.pxd
# What the numbers are for; two uses share none.
USES = {"elements": 0, "input": 1, "layers": 2, "recurrent": 3, "zoneout": 4}


class Key(NamedTuple):
    """What the random numbers of one pass are drawn from.

    Attributes
    ----------
    seed : int
        From 0 to 2^64 - 1; `seed_of` makes one of any other seed.
    update : int
        Number of the update, from 0 to 2^64 - 1: each has numbers of its own.
    examples : ndarray of N ints, optional
        Index in the data of each row of the batch; None is 0 .. N - 1.
    layer : int
        Which layer of the model, from 0 to 2^32 - 1.
    step : int
        Number of the first step of the data, where a sequence is cut into pieces.

    Examples
    --------
    Rows of a batch have the numbers of their examples, in any company:

    >>> import numpy as np
    >>> from cgru import masks
    >>> whole = masks.keep(masks.Key(seed=1), (5, 3), 0.5)
    >>> part = masks.keep(masks.Key(seed=1, examples=np.array([4, 2])), (2, 3), 0.5)
    >>> bool((part == whole[[4, 2]]).all())
    True
    """

    seed: int
    update: int = 0
    examples: IntArray | None = None
    layer: int = 0
    step: int = 0


def seed_of(seed: int | np.random.SeedSequence | None) -> int:
    """Return the seed of a `Key` for any seed of NumPy's; None draws one from the operating system."""
    sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return int(sequence.generate_state(1, np.uint64)[0])


def as_key(seed: SupportsIndex | Key | None) -> Key | None:
    """Return the key of a seed that a user gives; None stays None.

    Raises
    ------
    TypeError, ValueError
        If it is neither an integer of at least 0 nor a `Key`.
    """
    if seed is None or isinstance(seed, Key):
        return seed
    return Key(seed_of(check_int(seed, "seed")))


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any], rounds: int = 10) -> tuple[Any, Any, Any, Any]:
    """Return the block of four words for a counter and a key; ints of 32 bits, or uint64 arrays of such."""
    a, b, c, d = counter
    k, m = key
    for _ in range(rounds):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (right >> 32) ^ b ^ k, right & _WORD, (left >> 32) ^ d ^ m, left & _WORD
        k, m = (k + 0x9E3779B9) & _WORD, (m + 0xBB67AE85) & _WORD
    return a, b, c, d


def uniform(
    key: Key, shape: Shape, use: str = "elements", cell: int = 0, direction: int = 0, steps: IntArray | None = None
) -> Array:
    """Return numbers from [0, 1), multiples of 2^-32, of `shape`.

    Parameters
    ----------
    key : Key
    shape : tuple
        (N, F): a number for each example and unit, and none of a step; or (N, T, F): for each step as well.
    use : str
        One of `USES`.
    cell, direction : int
        Which layer of a stack, from 0 to 2^24 - 1; 1 is the direction from the end to the start.
    steps : ndarray of shape (N, T), optional
        Number of each step; None is 0 .. T - 1. That of the key is added to it.

    Returns
    -------
    ndarray of `shape`, float64
    """
    return _drawn(np.dtype("uint32"), 0, 0, key, shape, use, cell, direction, steps) * 2.0**-32


def keep(
    key: Key, shape: Shape, rate: float, use: str = "elements", cell: int = 0, direction: int = 0,
    steps: IntArray | None = None,
) -> BoolArray:  # fmt: skip
    """Return bools of `shape`, False with probability `rate`, which counts in parts of 2^-32: where `uniform` is less.

    See `uniform` for the other parameters.
    """
    return _drawn(np.dtype("bool"), rate, 0, key, shape, use, cell, direction, steps)


def scales(
    key: Key, shape: Shape, rate: float, dtype: np.dtype[Any], use: str = "elements", cell: int = 0, direction: int = 0,
    steps: IntArray | None = None,
) -> Array:  # fmt: skip
    """Return `keep` as factors of this dtype, whose mean is 1: 1 / (1 - rate), or 0.

    See `uniform` for the other parameters.
    """
    if dtype not in _KINDS:  # half precision
        return keep(key, shape, rate, use, cell, direction, steps) * dtype.type(1 / (1 - rate))
    return _drawn(dtype, rate, 1 / (1 - rate), key, shape, use, cell, direction, steps)


def subkey(key: Key, use: str, cell: int = 0, direction: int = 0) -> tuple[int, int]:
    """The key of the blocks of one use.

    Raises
    ------
    ValueError
        If a number of the key is out of range.
    """
    for name, bits in (("seed", 64), ("update", 64), ("layer", 32)):
        if not 0 <= getattr(key, name) < 1 << bits:
            raise ValueError(f"key: expected a {name} from 0 to 2^{bits} - 1, got {getattr(key, name)}")
    counter = (key.update & _WORD, key.update >> 32, key.layer, USES[use] | direction << 7 | cell << 8)
    return philox(counter, (key.seed & _WORD, key.seed >> 32))[:2]


def threshold(rate: float) -> int:
    """What a word must reach to be kept."""
    return min(math.ceil(rate * 2**32), _WORD)


def examples_of(key: Key, count: int) -> IntArray:
    """The index in the data of each of `count` rows.

    Raises
    ------
    ValueError
        If the key has another number of them.
    """
    if key.examples is None:
        return np.arange(count)
    if key.examples.shape != (count,):
        raise ValueError(f"key: expected an index for each of {count} examples, got shape {key.examples.shape}")
    return np.ascontiguousarray(key.examples, np.intp)


def steps_of(mask: BoolArray | None) -> IntArray | None:
    """The number of each step, (N, T), where those at which the mask is False do not count; None is 0 .. T - 1."""
    return None if mask is None else mask.cumsum(axis=1) - 1


def _drawn(
    dtype: np.dtype[Any], rate: float, scale: float, key: Key, shape: Shape, use: str, cell: int, direction: int,
    steps: IntArray | None,
) -> Any:  # fmt: skip
    out = np.empty(shape, dtype)
    if out.ndim == 2:
        first, per_example = -1, 1
    else:
        first, per_example = key.step, shape[1]
    kernels.random_rows(
        *subkey(key, use, cell, direction), examples_of(key, shape[0]), per_example, first,
        None if steps is None else np.ascontiguousarray(steps, np.intp).reshape(-1),
        out.reshape(-1, shape[-1]), _KINDS[dtype], threshold(rate), scale, kernels.get_num_threads(),
    )  # fmt: skip
    return out
