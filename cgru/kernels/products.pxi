# Products and packing on their own: gemm for the other layers, pack for weights, activate for the accuracy checks.
# Included by calls.pyx.

def gemm(a, b, out=None, *, bint transpose_a=False, bint transpose_b=False, bint accumulate=False):
    """op(a) op(b) for two-dimensional arrays of one dtype, float32 or float64.

    The other layers' products run here and not through NumPy, whose BLAS has threads of its own that wake and then
    get in the way of ours.

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
    (k, m) = a.shape if transpose_a else a.shape[::-1]
    (k_b, n) = b.shape[::-1] if transpose_b else b.shape
    if a.dtype != b.dtype or a.dtype not in (np.float32, np.float64):
        raise TypeError(f"a, b: expected one dtype, float32 or float64, got {a.dtype} and {b.dtype}")
    if k != k_b:
        raise ValueError(f"a, b: inner sizes differ: {k} and {k_b}")
    if max(m, n, k) > BLAS_MOST:
        raise ValueError(f"a, b: expected sizes up to {BLAS_MOST}, got {a.shape} and {b.shape}")
    if out is None:
        out = np.zeros((m, n), a.dtype) if accumulate else np.empty((m, n), a.dtype)
    elif out.shape != (m, n) or out.dtype != a.dtype or not (out.flags.writeable and _blas_readable(out)):
        raise ValueError(
            f"out: expected a writable array of shape {(m, n)}, dtype {a.dtype} and contiguous rows, "
            f"got {out.shape}, {out.dtype}, strides {out.strides}"
        )
    if k == 0:
        if not accumulate:
            out.fill(0)
        return out
    a, b = (v if _blas_readable(v) else v.copy(order="C") for v in (a, b))
    typed = gemm_into["float"] if a.dtype == np.float32 else gemm_into["double"]
    typed(a, b, out, transpose_a, transpose_b, accumulate)
    return out


def _blas_readable(v):
    """Whether BLAS takes the array as it is: aligned, contiguous rows at a positive distance that its integers hold."""
    columns = v.shape[1]
    contiguous = columns <= 1 or v.strides[1] == v.itemsize
    return v.flags.aligned and contiguous and max(columns, 1) <= v.strides[0] // v.itemsize <= BLAS_MOST


def activate(int activation, const floating[::1] x, floating[::1] out):
    """out = activation(x), by the activation's code and through the loop of the gates: what the accuracy checks look
    at."""
    cdef Py_ssize_t i, n = x.shape[0]
    assert out.shape[0] == n
    with nogil:
        for i in range(0, n, 512):
            memcpy(&out[i], &x[i], min(512, n - i) * sizeof(floating))
            build.activate(activation, floating is float, min(512, n - i), &out[i])


def gemm_into(
    const floating[:, :] a, const floating[:, :] b, floating[:, :] c,
    bint transpose_a, bint transpose_b, bint accumulate,
):
    """C := op(A) op(B), or += with accumulate. Rows are contiguous; the caller has checked shapes."""
    cdef Py_ssize_t m = c.shape[0], n = c.shape[1], k = a.shape[0] if transpose_a else a.shape[1]
    cdef Py_ssize_t size = sizeof(floating)
    assert (a.shape[1] <= 1 or a.strides[1] == size) and (b.shape[1] <= 1 or b.strides[1] == size)
    assert n <= 1 or c.strides[1] == size
    assert (b.shape[1] if transpose_b else b.shape[0]) == k
    if m == 0 or n == 0:
        return
    with nogil:
        blas_gemm(
            m, n, k, &a[0, 0], a.strides[0] // size, transpose_a, &b[0, 0], b.strides[0] // size, transpose_b,
            &c[0, 0], c.strides[0] // size, <floating>1 if accumulate else <floating>0,
        )


def padded_units(Py_ssize_t n, Py_ssize_t itemsize):
    """n rounded up to whole vectors of this build."""
    return padded(n, itemsize)


cdef enum:
    PACK_ELEMENTS = 40000  # from which a second thread pays


def pack(
    const floating[:, :] array, floating[::1] matrix, starts, places, bint below, bint negate,
    Py_ssize_t columns, Py_ssize_t ld, int threads, bint inverse=False,
):
    """Write the gates' blocks of an array to a matrix (projection.pxd), or with `inverse` back to the array.

    Parameters
    ----------
    array : (R, 3H), any strides
    matrix : in panels with ld = 0, else row-major, ld elements from row to row
        Blocks of `columns`; what the array does not reach keeps its value: zeros, the padding.
    starts, places : of the gates r, z, n
        Which block of the array it is, and which of the matrix.
    below : bool
        The matrix has the blocks' transposes, each (H, R), one below the other, H padded to whole vectors; otherwise
        the blocks, each (R, H), side by side.
    negate : bool
        The signs of z differ.
    """
    cdef Packing job
    cdef Py_ssize_t size = sizeof(floating), width = panel_width(size), H = array.shape[1] // 3, i
    cdef Py_ssize_t row = array.strides[0] // size, column = array.strides[1] // size
    assert array.strides[0] % size == 0 and array.strides[1] % size == 0
    job.array, job.matrix = <void *>&array[0, 0], &matrix[0]
    job.single, job.inverse, job.below, job.negate = floating is float, inverse, below, negate
    job.block_columns, job.ld = columns, ld
    if below:
        job.rows, job.columns, job.row, job.column, job.K = H, array.shape[0], column, row, 3 * padded(H, size)
    else:
        job.rows, job.columns, job.row, job.column, job.K = array.shape[0], H, row, column, array.shape[0]
    for i in range(3):
        job.starts[i], job.places[i] = starts[i] * H * column, places[i] * (padded(H, size) if below else columns)
    assert job.columns <= columns and matrix.shape[0] >= job.K * (ld or columns * (1 if below else 1 + max(places)))
    job.strips = <int>((job.columns + width - 1) // width)
    with nogil:
        run(threads if 3 * job.rows * job.columns >= PACK_ELEMENTS else 1, 3 * job.strips, build.pack, &job)
