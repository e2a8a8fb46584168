"""What a batch of sequences is: a padded array with lengths or a mask, or a ragged list, becomes one `Batch`; and
back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from cgru.checks import as_array, shape_of
from cgru.typing import AnyArray, BoolArray, IntArray, Shape

Number = TypeVar("Number", bound=np.generic)


class Batch(NamedTuple):
    """Sequences of one batch, batch-major: (N, T) or (N, T, F), or vectors (N, F) with neither lengths nor mask.

    At most one of `lengths` and `mask` is set. What lies outside them is padding: nobody reads it. `resets` (N, T) are
    set where there are any: rows start anew before those steps (`acting`). Made by `as_batch`.
    """

    data: AnyArray
    lengths: NDArray[np.intp] | None = None
    mask: BoolArray | None = None
    resets: BoolArray | None = None

    @property
    def valid(self) -> BoolArray | None:
        """Bool array (N, T), True where a row takes a step; None where all do."""
        if self.lengths is None:
            return self.mask
        return np.arange(self.data.shape[1]) < self.lengths[:, None]

    def with_data(self, data: AnyArray) -> Batch:
        """The same lengths or mask, and resets, around other data, (N, T, ...)."""
        return self._replace(data=data)

    def with_vectors(self, data: AnyArray) -> Batch:
        """A batch of vectors (N, F), one for each sequence."""
        return Batch(data)

    def part(self, rows: slice | IntArray) -> Batch:
        """The batch of these rows, of as many steps as there are here; views for a slice."""
        fields: Any = (None if field is None else field[rows] for field in self)
        return Batch(*fields)

    def take(self, rows: IntArray) -> Batch:
        """The batch of these rows, cut to the last valid step among them."""
        lengths, mask, end = self.lengths, self.mask, None
        if lengths is not None:
            lengths = lengths[rows]
            end = lengths.max(initial=0)
        elif mask is not None:
            mask = mask[rows]
            steps = np.flatnonzero(mask.any(axis=0))
            end = steps[-1] + 1 if len(steps) else 0
            mask = mask[:, :end]
        resets = None if self.resets is None else self.resets[:, :end][rows]
        return Batch((self.data if end is None else self.data[:, :end])[rows], lengths, mask, resets)


def with_mask(batch: Batch, mask: BoolArray) -> Batch:
    """The batch without the steps at which `mask` (N, T) is False; with lengths, if what is left ends where they do."""
    valid = batch.valid
    if valid is not None:
        mask = mask & valid
    lengths = mask.sum(axis=1)
    if (mask == (np.arange(mask.shape[1]) < lengths[:, None])).all():
        full = batch.lengths is None and batch.mask is None and bool((lengths == mask.shape[1]).all())
        return batch if full else batch._replace(lengths=lengths.astype(np.intp), mask=None)
    return batch._replace(lengths=None, mask=mask)


def acting(resets: BoolArray, valid: BoolArray | None) -> BoolArray:
    """Where resets act, (N, T): one at a step that is not valid before the row's next valid step, if there is one."""
    if valid is None:
        return resets
    count = resets.cumsum(axis=1)
    before = np.zeros_like(count)  # the resets up to the last valid step
    before[:, 1:] = np.maximum.accumulate(np.where(valid, count, 0), axis=1)[:, :-1]
    return valid & (count > before)


def last_segments(batch: Batch) -> Batch:
    """The batch without resets, and without the steps that come before the last one of each row."""
    if batch.resets is None:
        return batch
    count = acting(batch.resets, batch.valid).cumsum(axis=1)
    return with_mask(batch._replace(resets=None), count == count[:, -1:])


def as_batch(
    x: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: Any = None,
    *,
    dtype: DTypeLike | None = None,
    time_major: bool = False,
    name: str = "x",
    prefix: str = "",
) -> Batch:
    """Return the `Batch` of an array with lengths or a mask, or of a ragged list.

    Parameters
    ----------
    x : array_like of shape (N, ...), or list of arrays (T_i, ...) of unequal lengths
        A list, or an object array, of arrays, data frames or lists is padded, and its lengths are theirs. Arrays are
        viewed, not copied, unless the dtype changes. A masked array whose mask hides whole steps brings that mask.
    lengths : array_like of N ints from 0 to T, optional
    mask : array_like of bool, or of 0 and 1, of shape (N, T), or (T, N) with time_major; optional
    resets : the same, or for a ragged list a list of arrays (T_i,); optional
    dtype : dtype, optional
        Of the data; complex, text and objects are refused.
    time_major : bool
        x is (T, N, ...). Ragged lists are never time-major.
    name : str
        What error messages call `x`.
    prefix : str
        What they put before "lengths" and "mask".

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.
    """
    if lengths is not None and mask is not None:
        raise ValueError("lengths, mask: give one of the two, got both")
    if isinstance(x, Batch):
        raise TypeError(f"{name}: expected an array or a list of arrays, got a Batch")
    if isinstance(x, np.ma.MaskedArray):
        x, mask = _without_mask(x, lengths, mask, name)
    sequences, x = _sequences(x)
    if sequences is not None:
        if lengths is not None or mask is not None:
            raise ValueError(f"{prefix}lengths, mask: a ragged list {name} brings its own lengths, got another")
        data, lengths = pad(sequences, dtype, name=name)
        return Batch(data, lengths, None, _as_resets(resets, data, False, lengths))
    data = as_numeric(x, dtype, name)
    if time_major:
        if data.ndim < 2:
            raise ValueError(f"{name}: expected (T, N, ...), got shape {data.shape}")
        data = data.swapaxes(0, 1)
    if lengths is None and mask is None and resets is None:
        return Batch(data)
    if data.ndim < 2:
        beside = "resets" if resets is not None else "lengths or mask"
        raise ValueError(f"{name}: expected (N, T, ...) beside {beside}, got shape {data.shape}")
    N, T = data.shape[:2]
    resets = _as_resets(resets, data, time_major)
    if lengths is not None:
        return Batch(data, as_lengths(lengths, N, T, f"{prefix}lengths"), None, resets)
    if mask is not None:
        mask = as_mask(mask, (T, N) if time_major else (N, T))
        mask = mask.T if time_major else mask
    return Batch(data, None, mask, resets)


def _as_resets(resets: Any, data: AnyArray, time_major: bool, listed: IntArray | None = None) -> BoolArray | None:
    """Checked resets, (N, T), for data that may come from a list of such lengths; None where there are none."""
    if resets is None:
        return None
    N, T = data.shape[:2]
    rows, resets = (None, resets) if listed is None else _sequences(resets)
    if rows is None or listed is None:
        array = as_mask(resets, (T, N) if time_major else (N, T), "resets")
        array = array.T if time_major else array
    elif len(rows) != N:
        raise ValueError(f"resets: expected a list of {N} arrays (T_i,), as x, got {len(rows)}")
    else:
        array = np.zeros((N, T), bool)
        for i, (row, n) in enumerate(zip(rows, listed, strict=True)):
            array[i, :n] = as_mask(row, (int(n),), f"resets[{i}]")
    return array if array.any() else None


def as_numeric(x: ArrayLike, dtype: DTypeLike | None = None, name: str = "x") -> AnyArray:
    """x as an aligned array of real numbers, of `dtype` where it is given."""
    if type(x) is np.ndarray and x.dtype == dtype and x.flags.aligned:  # the usual case needs no more
        return x
    data = as_array(x, name)
    if data.dtype.kind not in "fiub":
        holding = f" with {data.flat[0]!r}" if data.dtype == object and data.size and data.ndim else ""
        got = type(x).__name__ if data.dtype == object and not data.ndim else f"dtype {data.dtype}{holding}"
        advice = "; text has to become numbers first" if data.dtype.kind == "U" else ""
        raise TypeError(f"{name}: expected real numbers, got {got}{advice}")
    data = np.asarray(data, data.dtype.newbyteorder("=") if dtype is None else dtype)
    return data if data.flags.aligned else data.copy()


def as_lengths(lengths: ArrayLike, N: int, T: int, name: str = "lengths") -> NDArray[np.intp]:
    """Checked lengths as an (N,) array of intp."""
    array = as_array(lengths, name)
    if array.dtype.kind not in "iu" and not (array.dtype.kind == "f" and array.size == 0):
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if array.shape != (N,):
        raise ValueError(f"{name}: expected shape ({N},), one for each row, got {array.shape}")
    wrong = (array < 0) | (array > T)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"{name}: expected values from 0 to T = {T}, got {array[row]} in row {row}")
    return array.astype(np.intp)


def as_mask(mask: ArrayLike, shape: Shape, name: str = "mask") -> BoolArray:
    """Checked truth values as a bool array of this shape, a copy: tapes keep it."""
    array = as_array(mask, name)
    if array.dtype.kind in "iuf":
        wrong = (array != 0) & (array != 1)
        if wrong.any():
            raise ValueError(f"{name}: expected True and False, or 1 and 0, got {array[wrong].flat[0]}")
    elif array.dtype != bool:
        raise TypeError(f"{name}: expected dtype bool, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    return array.astype(bool)


def _without_mask(x: Any, lengths: ArrayLike | None, mask: ArrayLike | None, name: str) -> tuple[AnyArray, Any]:
    """Return (data, mask) of a masked array: its own mask where that hides whole steps, (N, T) of (N, T, D)."""
    hidden: BoolArray = np.ma.getmaskarray(x)
    if not hidden.any():
        return x.data, mask
    if x.ndim != 3:
        got = f"a masked array of shape {x.shape}"
        raise ValueError(f"{name}: expected no masked values, got {got}: give {name}.data and mask=~{name}.mask")
    if lengths is not None or mask is not None:
        raise ValueError(f"lengths, mask: the masked array {name} brings its own mask, got another; give {name}.data")
    steps: Any = hidden.all(axis=-1)
    if (hidden != steps[..., None]).any():
        raise ValueError(
            f"{name}: expected a mask that hides whole steps, got one that hides single features; fill them, as "
            f"{name}.filled(0) does, or leave those steps out: {name}.data and mask=~{name}.mask.any(axis=-1)"
        )
    return x.data, ~steps


def _sequences(x: Any) -> tuple[list[Any] | tuple[Any, ...] | None, Any]:
    """Return (list of sequences, None) for a list or object array of arrays or of lists of unequal lengths, else (None,
    x), where nested lists may be an array already."""
    if isinstance(x, np.ndarray) and x.dtype == object and x.ndim == 1:
        x = list(x)
    if not isinstance(x, (list, tuple)) or not x:
        return None, x
    if all(hasattr(v, "__array__") and len(shape_of(v)) >= 1 for v in x):
        return x, None
    try:
        return None, np.asarray(x)
    except ValueError:
        return (x, None) if all(isinstance(v, (list, tuple)) or hasattr(v, "__array__") for v in x) else (None, x)


def pad(
    sequences: Sequence[ArrayLike], dtype: DTypeLike | None = None, *, name: str = "x"
) -> tuple[AnyArray, NDArray[np.intp]]:
    """Return (padded, lengths) of a list of arrays (T_i, ...) with equal trailing sizes; the padding is zero.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru.sequences import pad
    >>> pad([np.array([1, 2]), np.array([3])])
    (array([[1, 2],
           [3, 0]]), array([2, 1]))
    """
    if not sequences:
        raise ValueError(f"{name}: expected at least one sequence, got an empty list")
    check_columns(sequences, name)
    arrays = [as_numeric(s, dtype, f"{name}[{i}]") for i, s in enumerate(sequences)]
    first = next((i for i, array in enumerate(arrays) if array.shape != (0,)), 0)  # [] is a sequence of any kind
    if arrays[first].ndim < 1:
        raise ValueError(f"{name}[{first}]: expected an array of time steps, got a number")
    trailing = arrays[first].shape[1:]
    arrays = [np.zeros((0, *trailing), arrays[first].dtype) if a.shape == (0,) else a for a in arrays]
    for i, array in enumerate(arrays):
        if array.shape[1:] != trailing or array.ndim != arrays[first].ndim:
            expected = ", ".join(map(str, ("T_i", *trailing)))
            raise ValueError(f"{name}[{i}]: expected shape ({expected}) as {name}[{first}], got {array.shape}")
    lengths = np.array([len(array) for array in arrays], np.intp)
    common = np.result_type(*{array.dtype for array in arrays})
    padded = np.zeros((len(arrays), lengths.max(), *trailing), common)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


def unpad(data: NDArray[Number], lengths: Any, padding_first: bool = False) -> list[NDArray[Number]]:
    """Return the list of arrays (T_i, ...) that are the first lengths[i] steps of data[i], or the last ones; views."""
    return [row[len(row) - n :] if padding_first else row[:n] for row, n in zip(data, lengths, strict=True)]


def check_columns(sequences: Sequence[Any], name: str) -> None:
    """ValueError unless all data frames among the sequences have the same columns in the same order."""
    first = None
    for i, frame in enumerate(sequences):
        columns = getattr(frame, "columns", None)
        if columns is None:
            continue
        columns = list(columns)
        if first is not None and columns != first[1]:
            raise ValueError(f"{name}[{i}]: expected the columns {first[1]}, as {name}[{first[0]}], got {columns}")
        first = first or (i, columns)
