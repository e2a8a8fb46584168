"""What a batch of sequences is: a padded array with lengths or a mask, or a ragged list, becomes one `Batch`; and
back."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Sequences of one batch, batch-major: (N, T) or (N, T, F), or vectors (N, F) with neither lengths nor mask.

    At most one of `lengths` and `mask` is set. What lies outside them is padding: nobody reads it. Made by `as_batch`.
    """

    data: np.ndarray
    lengths: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def valid(self):
        """Bool array (N, T), True where a row takes a step; None where all do."""
        if self.lengths is None:
            return self.mask
        return np.arange(self.data.shape[1]) < self.lengths[:, None]

    def with_data(self, data):
        """The same lengths or mask around other data, (N, T, ...)."""
        return self._replace(data=data)

    def with_vectors(self, data):
        """A batch of vectors (N, F), one for each sequence."""
        return Batch(data)

    def take(self, rows):
        """The batch of these rows, cut to the last valid step among them."""
        data = self.data[rows]
        if self.lengths is not None:
            lengths = self.lengths[rows]
            return Batch(data[:, : lengths.max(initial=0)], lengths)
        if self.mask is not None:
            mask = self.mask[rows]
            steps = np.flatnonzero(mask.any(axis=0))
            end = steps[-1] + 1 if len(steps) else 0
            return Batch(data[:, :end], None, mask[:, :end])
        return Batch(data)


def as_batch(x, lengths=None, mask=None, *, dtype=None, time_major=False, name="x"):
    """Return the `Batch` of an array with lengths or a mask, or of a ragged list.

    Parameters
    ----------
    x : array_like of shape (N, ...), or list of arrays (T_i, ...) of unequal lengths
        A list is padded, and its lengths are those of its arrays. Arrays are viewed, not copied, unless the dtype
        changes.
    lengths : array_like of N ints from 0 to T, optional
    mask : array_like of bool, shape (N, T), or (T, N) with time_major; optional
    dtype : dtype, optional
        Of the data; complex, text and objects are refused.
    time_major : bool
        x is (T, N, ...). Ragged lists are never time-major.
    name : str
        What error messages call `x`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what was expected and what came.
    """
    if lengths is not None and mask is not None:
        raise ValueError("lengths, mask: give one of the two, got both")
    if isinstance(x, Batch):
        raise TypeError(f"{name}: expected an array or a list of arrays, got a Batch")
    if _is_ragged(x):
        if lengths is not None or mask is not None:
            raise ValueError(f"lengths, mask: a ragged list {name} brings its own lengths, got another")
        data, lengths = pad(x, dtype, name=name)
        return Batch(data, lengths)
    data = as_numeric(x, dtype, name)
    if time_major:
        if data.ndim < 2:
            raise ValueError(f"{name}: expected (T, N, ...), got shape {data.shape}")
        data = data.swapaxes(0, 1)
    if lengths is None and mask is None:
        return Batch(data)
    if data.ndim < 2:
        raise ValueError(f"{name}: expected (N, T, ...) beside lengths or mask, got shape {data.shape}")
    N, T = data.shape[:2]
    if lengths is not None:
        return Batch(data, as_lengths(lengths, N, T))
    return Batch(data, None, _as_mask(mask, N, T, time_major))


def _as_array(value, name):
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: expected an array or list of arrays, got nested lists of unequal lengths") from None


def as_numeric(x, dtype=None, name="x"):
    """x as an aligned array of real numbers, of `dtype` where it is given."""
    if type(x) is np.ndarray and x.dtype == dtype and x.flags.aligned:  # the usual case needs no more
        return x
    data = _as_array(x, name)
    if data.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected real numbers, got dtype {data.dtype}")
    if dtype is not None:
        data = np.asarray(data, dtype)
    return data if data.flags.aligned else data.copy()


def as_lengths(lengths, N, T):
    """Checked lengths as an (N,) array of intp."""
    array = _as_array(lengths, "lengths")
    if array.dtype.kind not in "iu" and not (array.dtype.kind == "f" and array.size == 0):
        raise TypeError(f"lengths: expected integers, got dtype {array.dtype}")
    if array.shape != (N,):
        raise ValueError(f"lengths: expected shape ({N},), one for each row, got {array.shape}")
    wrong = (array < 0) | (array > T)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"lengths: expected values from 0 to T = {T}, got {array[row]} in row {row}")
    return array.astype(np.intp)


def _as_mask(mask, N, T, time_major):
    array = _as_array(mask, "mask").copy()  # tapes keep it
    if array.dtype != bool:
        raise TypeError(f"mask: expected dtype bool, got {array.dtype}")
    expected = (T, N) if time_major else (N, T)
    if array.shape != expected:
        raise ValueError(f"mask: expected shape {expected}, got {array.shape}")
    return array.T if time_major else array


def _is_ragged(x):
    """Whether x is a list or tuple of arrays (sequences), as opposed to an array or nested lists of numbers."""
    return isinstance(x, (list, tuple)) and len(x) > 0 and all(isinstance(v, np.ndarray) and v.ndim >= 1 for v in x)


def pad(sequences, dtype=None, *, name="x"):
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
    arrays = [as_numeric(s, dtype, f"{name}[{i}]") for i, s in enumerate(sequences)]
    if arrays[0].ndim < 1:
        raise ValueError(f"{name}[0]: expected an array of time steps, got a number")
    trailing = arrays[0].shape[1:]
    for i, array in enumerate(arrays):
        if array.shape[1:] != trailing or array.ndim != arrays[0].ndim:
            expected = ", ".join(map(str, ("T_i", *trailing)))
            raise ValueError(f"{name}[{i}]: expected shape ({expected}) as {name}[0], got {array.shape}")
    lengths = np.array([len(array) for array in arrays], np.intp)
    common = np.result_type(*{array.dtype for array in arrays})
    padded = np.zeros((len(arrays), lengths.max(), *trailing), common)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


def unpad(data, lengths):
    """Return the list of arrays (T_i, ...) that are the first lengths[i] steps of data[i]; views."""
    return [row[:n] for row, n in zip(data, lengths, strict=True)]
