"""Products of two arrays, whatever their layout."""

import numpy as np

from cgru.kernels import calls, runtime
from cgru.typing import Array


def gemm(
    a: Array,
    b: Array,
    out: Array | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
) -> Array:
    """op(a) op(b) for two-dimensional arrays of one dtype, float32 or float64.

    With the native backend every element is one sum over k in order, whatever the shapes and the number of threads. The
    products of all layers run in the kernels and not through NumPy, whose BLAS has threads of its own that wake and
    then get in the way of ours.

    Parameters
    ----------
    a : ndarray of shape (m, k), or (k, m) with transpose_a
    b : ndarray of shape (k, n), or (n, k) with transpose_b
    out : ndarray of shape (m, n), optional
        Rows contiguous; written, or added to with `accumulate`. A new array without it.

    Returns
    -------
    ndarray of shape (m, n)
    """
    for name, v in (("a", a), ("b", b)) if out is None else (("a", a), ("b", b), ("out", out)):
        if not isinstance(v, np.ndarray):
            raise TypeError(f"{name}: expected a two-dimensional ndarray, got {type(v).__name__}")
        if v.ndim != 2:
            raise ValueError(f"{name}: expected a two-dimensional ndarray, got shape {v.shape}")
    a, b = a.T if transpose_a else a, b.T if transpose_b else b
    if a.dtype != b.dtype or a.dtype not in (np.float32, np.float64):
        raise TypeError(f"a, b: expected one dtype, float32 or float64, got {a.dtype} and {b.dtype}")
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"a, b: inner sizes differ: {a.shape[1]} and {b.shape[0]}")
    shape = (a.shape[0], b.shape[1])
    if out is None:
        out = np.zeros(shape, a.dtype) if accumulate else np.empty(shape, a.dtype)
    elif out.shape != shape or out.dtype != a.dtype or not (out.flags.writeable and _rows_contiguous(out)):
        raise ValueError(
            f"out: expected a writable array of shape {shape}, dtype {a.dtype} and contiguous rows, "
            f"got {out.shape}, {out.dtype}, strides {out.strides}"
        )
    if a.shape[1] == 0 and not accumulate:
        out.fill(0)
    if 0 in a.shape or 0 in b.shape:
        return out
    rows = out
    if out.strides[0] < 0:  # BLAS steps forward alone
        a, rows = a[::-1], out[::-1]
    route = runtime.BACKENDS.index(runtime.get_backend())
    calls.multiply(_whole_strides(a), _whole_strides(b), rows, None, accumulate, route, runtime.get_num_threads())
    return out


def _rows_contiguous(v: Array) -> bool:
    """Whether the rows are contiguous, whole elements apart and do not overlap."""
    step, columns, size = v.strides[0], v.shape[1], v.itemsize
    apart = len(v) <= 1 or abs(step) >= columns * size
    return v.flags.aligned and (columns <= 1 or v.strides[1] == size) and step % size == 0 and apart


def _whole_strides(v: Array) -> Array:
    """The array, or a copy where its elements are not aligned or whole strides apart."""
    if v.flags.aligned and v.strides[0] % v.itemsize == 0 and v.strides[1] % v.itemsize == 0:
        return v
    return v.copy()
