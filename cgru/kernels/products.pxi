# Products and packing on their own: gemm for the other layers, pack for weights, activate for the accuracy checks.

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
    cdef floating[512] zeros  # the bias
    assert out.shape[0] == n
    memset(<floating *>zeros, 0, sizeof(zeros))
    with nogil:
        for i in range(0, n, 512):
            memcpy(&out[i], &x[i], min(512, n - i) * sizeof(floating))
            gates_forward(activation, min(512, n - i), &out[i], <floating *>zeros)


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


def pack(
    const floating[:, :] source, floating[::1] out, Py_ssize_t k0, Py_ssize_t K, Py_ssize_t block, Py_ssize_t columns,
    Py_ssize_t ld,
):
    """Write source, any strides, to the rows from k0 of one block of the matrix (projection.pxd) in `out`, which has K
    rows.

    Packed with ld = 0, else row-major. What source does not reach keeps its value: zeros, the padding.
    """
    cdef Py_ssize_t width = panel_width(sizeof(floating)), k, i, j, w
    cdef floating *panel
    assert out.shape[0] >= K * columns * (block + 1) if ld == 0 else out.shape[0] >= K * ld
    assert k0 + source.shape[0] <= K and source.shape[1] <= columns
    cdef Py_ssize_t between
    with nogil:
        j = 0
        while j < source.shape[1]:
            w = min(width, columns - j)
            between = w if ld == 0 else ld
            panel = &out[0] + (block * columns * K + j * K if ld == 0 else block * columns + j) + k0 * between
            for k in range(source.shape[0]):
                for i in range(min(w, source.shape[1] - j)):
                    panel[k * between + i] = source[k, j + i]
            j += w


cdef inline Matrix matrix(
    const void *data, Py_ssize_t K, Py_ssize_t columns, Py_ssize_t blocks, int route
) noexcept nogil:
    cdef Matrix m
    m.data = data
    m.K = K
    m.columns = columns
    m.blocks = blocks
    m.ld = blocks * columns
    m.route = <Route>route
    return m
