"""Small weights: float32 matrices that are kept in 16 or 8 bits, in the form that the kernels read.

"float16" and "bfloat16" round each weight to the nearest such number, ties to even; "int8" makes integers from -127 to
127 of a column's weights, with one scale for the column (of a table: for the row). Everything else stays float32.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru import aligned, kernels
from cgru.locks import owned
from cgru.typing import AnyArray, Array, IntArray, SmallKind

if TYPE_CHECKING:
    from typing_extensions import Self

KINDS: dict[SmallKind, int] = {"float16": 2, "bfloat16": 3, "int8": 4}  # routes of kernels/jobs.pxd
STORED: dict[SmallKind, str] = {"float16": "F16", "bfloat16": "BF16", "int8": "I8"}  # what files call the types
PIECE_ROWS = 4096  # of an int8 matrix: so many of its inputs share a scale
_CODES: dict[SmallKind, np.dtype[Any]] = {"float16": np.dtype("f2"), "bfloat16": np.dtype("u2"), "int8": np.dtype("i1")}
_LEVELS = np.float32(127)
_TINY = np.finfo(np.float32).tiny  # the least scale, so that a column of zeros has one
_LARGEST = np.nextafter(np.finfo(np.float32).max / _LEVELS, np.float32(0))  # of a scale: 127 times it is finite
_HALF_TINY = 2.0**-14  # below which float16 has fewer than 11 bits
_NO_CHANCE = 8  # so many weights are not by chance all small beside others; one or two of a row are, in many rows


class QuantizationWarning(UserWarning):
    """A kind of small weights keeps next to nothing of a column of them, or nothing of a row."""


class Codes(NamedTuple):
    """Numbers in few bits."""

    codes: AnyArray  # float16; of "bfloat16" the upper halves of float32 as uint16; int8
    scales: Array | None  # (columns,) of "int8"; of a table (rows,)


def narrow(array: Array, kind: SmallKind, axis: int = 0) -> Codes:
    """The codes of a float32 matrix of finite numbers; `axis` is the one along which numbers share a scale."""
    if kind == "float16":
        with np.errstate(over="ignore"):
            return Codes(array.astype(np.float16), None)
    if kind == "bfloat16":
        bits = np.ascontiguousarray(array).view(np.uint32)
        return Codes(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16), None)
    scales = np.clip(np.abs(array).max(axis) / _LEVELS, _TINY, _LARGEST)
    codes = np.rint(array / np.expand_dims(scales, axis))
    return Codes(codes.clip(-_LEVELS, _LEVELS).astype(np.int8), scales)


def widen(codes: Codes, axis: int = 0) -> Array:
    """The float32 numbers of codes."""
    if codes.scales is not None:
        return codes.codes.astype(np.float32) * np.expand_dims(codes.scales, axis)
    if codes.codes.dtype == np.uint16:
        return (codes.codes.astype(np.uint32) << 16).view(np.float32)
    return codes.codes.astype(np.float32)


def check_finite(array: Array, name: str) -> None:
    """ValueError that names the parameter and the place of the first number that is not finite."""
    wrong = ~np.isfinite(array)
    if wrong.any():
        place = _first(wrong)
        raise ValueError(f"{name}: expected finite weights, got {array[place]} at {place}")


def _first(wrong: AnyArray) -> tuple[int, ...]:
    return tuple(np.argwhere(wrong)[0].tolist())


def checked_narrow(array: Array, kind: SmallKind, name: str, axis: int = 0) -> Codes:
    """`narrow`, but ValueError for numbers that the kind does not have, and warnings where it flattens some."""
    codes = narrow(array, kind, axis)
    line, other = ("column", "row") if axis == 0 else ("row", "column")
    size = np.abs(array)
    if kind != "int8":
        wrong = ~np.isfinite(widen(codes))
        if wrong.any():
            place = _first(wrong)
            hint = "; bfloat16 has the range of float32" if kind == "float16" else ""
            raise ValueError(f"{name}: expected weights in the range of {kind}, got {array[place]} at {place}{hint}")
    if kind == "float16":
        flat = array.any(axis) & (size.max(axis) < _HALF_TINY)
        what = f"rounds all weights of a {line} to fewer than 11 bits, or to 0"
        advice = "bfloat16 has the range of float32"
    elif kind == "int8":
        some = np.count_nonzero(array, axis)
        flat = 2 * np.count_nonzero((codes.codes == 0) & (array != 0), axis) > some
        what = f"makes 0 of more than half of the weights of a {line}, beside a far larger one or as denormals"
        advice = "bfloat16 keeps them, and float16 those from 6e-5 to 65504"
    else:
        return codes
    gone = (np.count_nonzero(array, 1 - axis) >= _NO_CHANCE) & ~codes.codes.any(1 - axis) & (not flat.all())
    for lines, called, said in (flat, line, what), (gone, other, f"makes 0 of all weights of a {other}"):
        if lines.any():
            first, count = int(lines.argmax()), np.count_nonzero(lines)
            _warn(f"{name}: {kind} {said}, in {count} of {lines.size}, the first {called} {first}, whose largest is "
                  f"{size.max(axis if lines is flat else 1 - axis)[first]:.3g}; {advice}")  # fmt: skip
    return codes


def _warn(message: str) -> None:
    """Warn at the line outside of the library that called."""
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "cgru":
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, QuantizationWarning, stacklevel=depth)


def check_codes(codes: Codes, kind: SmallKind, name: str) -> None:
    """ValueError for codes, read from a file, that `narrow` does not make."""
    if kind != "int8" or codes.scales is None:
        check_finite(widen(codes), name)
        return
    wrong = codes.codes == -128
    if wrong.any():
        place = _first(wrong)
        raise ValueError(f"{name}: expected codes from -127 to 127, got -128 at {place}")
    bad = ~((codes.scales >= _TINY) & (codes.scales <= _LARGEST))
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(f"{name}_scale: expected scales from {_TINY:.3g} to {_LARGEST:.3g}, got {codes.scales[first]} "
                         f"at ({first},)")  # fmt: skip


class SmallMatrix:
    """A matrix (K, blocks * n) in few bits: the panels of the kernels, never written again, so threads may share them.

    Parameters
    ----------
    kind : {"float16", "bfloat16", "int8"}
    codes : Codes
    blocks : int
        Blocks of columns, which are padded to whole vectors each: the gates of a cell, or one.

    Notes
    -----
    `blob` holds, for each block, its panels of the tile's width, the last one narrower: of 16 bits row after row; of
    int8 four rows at a time, the four codes of a column beside each other, zero beyond the last row. Behind them stand
    of int8 the float32 scale of every column and, for each piece of 4096 rows, the int32 sum of its codes.
    """

    __slots__ = ("_columns", "blob", "blocks", "kind", "shape")
    dtype = np.dtype("float32")  # of the numbers that they stand for

    def __init__(self, kind: SmallKind, codes: Codes, blocks: int = 1) -> None:
        K, columns = codes.codes.shape
        self.kind, self.blocks, self.shape = kind, blocks, (K, columns)
        n = columns // blocks
        self._columns = kernels.padded_units(n, 4)
        pieces = range(0, K, PIECE_ROWS)
        tail = 1 + len(pieces) if kind == "int8" else 0  # rows of four bytes a column
        self.blob = aligned.zeros(
            ((self._rows * _CODES[kind].itemsize + 4 * tail) * blocks * self._columns // 4,), self.dtype
        )
        padded = np.zeros((self._rows, blocks, self._columns), _CODES[kind])
        padded[:K, :, :n] = codes.codes.reshape(K, blocks, n)
        for panel, part in self._panels(padded):
            panel[...] = part
        if codes.scales is not None:
            scales, sums = self._tail()
            scales[:, :n] = codes.scales.reshape(blocks, n)
            sums[...] = [padded[k : k + PIECE_ROWS].sum(0, np.int32) for k in pieces]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def route(self) -> int:
        return KINDS[self.kind]

    @property
    def nbytes(self) -> int:
        return self.blob.nbytes

    @property
    def _rows(self) -> int:
        """Rows in memory: those of int8 come in fours."""
        return -(-self.shape[0] // 4) * 4 if self.kind == "int8" else self.shape[0]

    def _panels(self, padded: AnyArray) -> Iterator[tuple[AnyArray, AnyArray]]:
        """Yield each panel of the blob and the part of a matrix (rows, blocks, padded columns) that belongs there, both
        (row groups, rows of a group, columns)."""
        codes, rows, group = self.blob.view(padded.dtype), len(padded), 4 if self.kind == "int8" else 1
        width, start = kernels.panel_width(4), 0
        for block in range(self.blocks):
            for first in range(0, self._columns, width):
                part = padded[:, block, first : first + width]
                panel = codes[start : start + part.size].reshape(rows // group, part.shape[1], group)
                start += part.size
                yield panel.swapaxes(1, 2), part.reshape(rows // group, group, part.shape[1])

    def _tail(self) -> tuple[Array, IntArray]:
        """Scales (blocks, padded columns), and sums (pieces, blocks, padded columns)."""
        size = self.blocks * self._columns
        tail = self.blob[self._rows // 4 * size :]
        return tail[:size].reshape(self.blocks, -1), tail[size:].view(np.int32).reshape(-1, self.blocks, self._columns)

    def codes(self) -> Codes:
        """What this was made of, to the bit."""
        (K, columns), n = self.shape, self.shape[1] // self.blocks
        padded = np.empty((self._rows, self.blocks, self._columns), _CODES[self.kind])
        for panel, part in self._panels(padded):
            part[...] = panel
        scales = self._tail()[0][:, :n].reshape(columns).copy() if self.kind == "int8" else None
        return Codes(padded[:K, :, :n].reshape(K, columns).copy(), scales)

    def values(self) -> Array:
        """The float32 matrix that this stands for, made anew."""
        return widen(self.codes())

    def __reduce__(self) -> Any:  # panels are another machine's as well, where vectors may be wider
        return type(self), (self.kind, self.codes(), self.blocks)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self


class SmallTable:
    """Rows in few bits that are looked up, with a scale for each of int8; never written again."""

    __slots__ = ("_codes", "kind", "shape")

    def __init__(self, kind: SmallKind, codes: Codes) -> None:
        self._codes = Codes(owned(codes.codes), None if codes.scales is None else owned(codes.scales))
        self.kind, self.shape = kind, codes.codes.shape

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._codes if part is not None)

    def take(self, ids: IntArray) -> Array:
        """The float32 rows of ids of any shape."""
        codes, scales = self._codes
        return widen(Codes(codes[ids], None if scales is None else scales[ids]), axis=-1)

    def codes(self) -> Codes:
        """What this was made of."""
        return self._codes

    def values(self) -> Array:
        """The float32 table that this stands for, made anew."""
        return widen(self._codes, axis=1)

    def __reduce__(self) -> Any:
        return type(self), (self.kind, self._codes)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self
