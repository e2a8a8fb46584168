# What the layers around the recurrence call: Dense with everything prepared, softmax with cross-entropy, rows of a
# table; and the optimizer's updates. Included by calls.pyx.

cdef enum:
    RANGE = 16384      # elements of a task of a pass over rows
    ELEMENT_WORK = 16  # multiplications that take as long as an element of such a pass, some


cdef class DenseHandle:
    """Dense with everything prepared: y = activation(x W + b) for any number of rows, nothing allocated for a few.

    Parameters
    ----------
    kernel : ndarray of shape (F, K)
        C-contiguous, of the handle's dtype. Read when it is used unless it is `packed`: it must keep its values.
    bias : ndarray of shape (K,), or None
        The same; it is read when it is used.
    activation : int
        A code of activations.pxd, or SOFTMAX.
    packed : bool
        Whether the kernel is brought into panels here: calls are faster then, but the handle costs more.
    route, blob, shape : int, ndarray, (F, K)
        With HALF, BFLOAT or CODES the kernel is None, and `blob` a whole Matrix (narrow.pxd). Else the products are
        those of the backend that is in use now.
    """
    cdef Product job
    cdef Rows rows
    cdef readonly int route
    cdef object panels
    cdef readonly object kernel, bias

    def __init__(self, kernel, bias, int activation, bint packed, int threads, int route=-1, blob=None, shape=None):
        cdef Py_ssize_t F, K
        F, K = kernel.shape if blob is None else shape
        dtype = kernel.dtype if blob is None else np.dtype(np.float32)
        memset(&self.job, 0, sizeof(self.job))
        memset(&self.rows, 0, sizeof(self.rows))
        self.kernel, self.bias = kernel, np.zeros(K, dtype) if bias is None else bias
        self.route = backend() if route < HALF else route
        self.job.single = self.rows.single = dtype == np.float32
        self.job.K, self.job.N, self.job.a_k, self.job.packed = F, K, 1, packed and self.route != BLAS
        if route >= HALF:
            assert blob.nbytes == matrix_bytes(F, padded(K, 4), 4, route)
            self.job.narrow = matrix(address(blob), F, padded(K, 4), 1, route)
            self.panels = blob
        else:
            self.job.b, self.job.b_k, self.job.b_column = address(kernel), K, 1
        self.rows.N, self.rows.what = K, SOFTMAX_FORWARD if activation == SOFTMAX else ACTIVATION
        self.rows.bias = address(self.bias)
        if self.job.packed and route < HALF:
            self.panels = packed_panels(kernel, threads)
            self.job.b = first_aligned(address(self.panels))
        self.job.activation = self.rows.activation = activation
        if self.route != BLAS and activation != SOFTMAX:
            self.job.bias = self.rows.bias

    @property
    def backend(self):
        """The name of that backend."""
        return runtime.BACKENDS[self.route] if self.route < HALF else None

    def apply(self, x, out, int threads, bint raw=False):
        """Write the outputs for `x` (M, F) to `out` (M, K), arrays of the handle's dtype whose rows are contiguous and
        which share no memory; with `raw`, x W alone. False, and nothing done, if they are not that; the general way
        then says what is wrong or converts it."""
        cdef Py_buffer[2] b
        cdef bint single = self.job.single, done = False
        if not take_rows(x, &b[0], single, False):
            return False
        try:
            if b[0].shape[1] == self.job.K and take_rows(out, &b[1], single, True):
                try:
                    if b[1].shape[0] == b[0].shape[0] and b[1].shape[1] == self.job.N:
                        if b[0].shape[0] > 0:
                            self.run(b, threads, raw)
                        done = True
                finally:
                    PyBuffer_Release(&b[1])
        finally:
            PyBuffer_Release(&b[0])
        return done

    cdef int run(self, Py_buffer *b, int threads, bint raw) except -1:
        cdef Product j = self.job
        cdef Rows rows = self.rows
        cdef Py_ssize_t size = 4 if j.single else 8
        j.M = rows.M = b[0].shape[0]
        j.narrow.dots = limits.dots
        j.a, j.a_row = b[0].buf, b[0].strides[0] // size
        j.c, j.ldc = b[1].buf, b[1].strides[0] // size
        if raw:
            j.bias = NULL
        run_product(&j, threads, self.route)
        if j.bias == NULL and not raw:
            rows.y, rows.ldy = j.c, j.ldc
            run_rows(&rows, threads)
        return 0


cdef const void *address(array) except NULL:
    return <const void *><size_t>array.ctypes.data


cdef object packed_panels(kernel, int threads):
    """Memory with the kernel in panels (projection.pxd) from its first 64-byte boundary on."""
    cdef Packing job
    cdef Py_ssize_t size = kernel.itemsize, width = panel_width(size)
    memset(&job, 0, sizeof(job))
    job.single, job.rows, job.columns, job.row, job.column = size == 4, len(kernel), kernel.shape[1], len(kernel[0]), 1
    job.K, job.block_columns = job.rows, padded(job.columns, size)
    make = np.empty if job.columns == job.block_columns else np.zeros
    panels = make(64 + job.K * job.block_columns * size, np.uint8)
    job.array, job.matrix = <void *>address(kernel), first_aligned(address(panels))
    job.strips = <int>((job.columns + width - 1) // width)
    with nogil:
        run(helpers(MOVE_WORK * job.rows * job.columns, threads), job.strips, build.pack, &job)
    return panels


cdef bint take_rows(v, Py_buffer *b, bint single, bint writable) except -1:
    """Take the buffer of a matrix of this type with contiguous rows, one after the other; return whether it is one."""
    cdef Py_ssize_t size = 4 if single else 8
    cdef char code = b"f" if single else b"d"
    try:
        PyObject_GetBuffer(v, b, PyBUF_STRIDES | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
    except (BufferError, TypeError, ValueError):
        return False
    if (
        b.format == NULL or b.format[0] != code or b.format[1] != 0 or b.ndim != 2
        or (b.strides[1] != size and b.shape[1] > 1) or (b.strides[0] < b.shape[1] * size and b.shape[0] > 1)
        or b.strides[0] % size != 0 or <size_t>b.buf % size != 0
    ):
        PyBuffer_Release(b)
        return False
    return True


cdef int run_rows(Rows *j, int threads) except -1:
    cdef Py_ssize_t all_ = j.N if j.what == SCATTER else j.M, each = j.M if j.what == SCATTER else j.N
    cdef Py_ssize_t work = ELEMENT_WORK * all_ * each
    cdef int tasks, most = threads
    threads = helpers(work, threads)
    j.range = all_ if threads == 1 else max(1, RANGE // max(1, each))
    if j.what == SCATTER and threads > 1:  # whole lines, or threads would wait for each other
        j.range = aligned((all_ + threads - 1) // threads)
    tasks = <int>((all_ + j.range - 1) // j.range)
    if work < limits.gil_work:
        run_shared(threads, most, work, tasks, build.rows, j)
        return 0
    with nogil:
        run_shared(threads, most, work, tasks, build.rows, j)
    return 0


def activate_rows(y, bias, int activation, int threads):
    """y = activation(y + bias), in its place; y (M, K) is not empty, bias (K,)."""
    cdef Rows j
    cdef View biases
    take_matrix(&j, SOFTMAX_FORWARD if activation == SOFTMAX else ACTIVATION, y, WRITTEN)
    see(&biases, bias, 1, code_of(&j), WHOLE)
    assert biases.shape[0] == j.N
    j.activation, j.bias = activation, biases.data
    run_rows(&j, threads)


cdef int take_matrix(Rows *j, int what, array, int asked) except -1:
    """Begin a job of this kind over the rows of a C-contiguous matrix."""
    cdef View v
    see(&v, array, 2, FLOATING, WHOLE | asked)
    memset(j, 0, sizeof(j[0]))
    j.what, j.single, j.y = what, v.code == SINGLE, v.data
    j.M, j.N, j.ldy = v.shape[0], v.shape[1], v.shape[1]
    return 0


cdef inline int code_of(const Rows *j) noexcept:
    return SINGLE if j.single else DOUBLE


def activation_gradient(y, d, out, int activation, int threads):
    """out: the gradient at the input of an activation, whose output y has the gradient d; each (M, K), not empty. `out`
    may be d."""
    cdef Rows j
    cdef View given, made
    take_matrix(&j, GRADIENT, y, STRIDED)
    see(&given, d, 2, code_of(&j), WHOLE)
    see(&made, out, 2, code_of(&j), WHOLE | WRITTEN)
    j.activation, j.d, j.out = activation, given.data, made.data
    run_rows(&j, threads)


def softmax_crossentropy(
    y,       # (M, K) in: logits without biases; out: (softmax - onehot(label)) * scale
    bias,    # (K,)
    labels,  # (M,)
    scales,  # (M,) float64
    seen,    # (M, 3) out: the label's probability; its logit less the largest; sum of exponentials
    best,    # (M,) out: the class of the largest probability, -1 if there is NaN; or None
    int threads,
):
    """Softmax and its cross-entropy in one pass: gradients in the place of logits."""
    cdef Rows j
    cdef View biases, classes, factors, made, found
    take_matrix(&j, CROSSENTROPY, y, WRITTEN)
    see(&biases, bias, 1, code_of(&j), WHOLE)
    see(&classes, labels, 1, INDEX, WHOLE)
    see(&factors, scales, 1, DOUBLE, WHOLE)
    see(&made, seen, 2, code_of(&j), WHOLE | WRITTEN)
    see(&found, best, 1, INDEX, WHOLE | WRITTEN)
    assert biases.shape[0] == j.N and classes.shape[0] == factors.shape[0] == made.shape[0] == j.M
    assert made.shape[1] == 3
    if j.M == 0:
        return
    j.bias, j.labels, j.scales = biases.data, <const Py_ssize_t *>classes.data, <const double *>factors.data
    j.seen, j.best = made.data, <Py_ssize_t *>found.data
    run_rows(&j, threads)


cdef int take_ids(Rows *j, ids, places) except -1:
    """The rows that a job of a table works on; places None: 0, 1, ..."""
    cdef View rows, others
    see(&rows, ids, 1, INDEX, WHOLE)
    see(&others, places, 1, INDEX, WHOLE)
    j.M, j.labels, j.places = rows.shape[0], <const Py_ssize_t *>rows.data, <const Py_ssize_t *>others.data
    return 0


def gather(table, ids, places, out, int threads):
    """out[places[i]] = table[ids[i]]; places None: 0, 1, ..."""
    cdef Rows j
    cdef View given
    take_matrix(&j, GATHER, out, WRITTEN)
    see(&given, table, 2, code_of(&j), WHOLE)
    j.d, j.N, j.ldy = given.data, given.shape[1], given.shape[1]
    take_ids(&j, ids, places)
    if j.M > 0:
        run_rows(&j, threads)


def scatter_add(table, ids, places, d, int threads):
    """table[ids[i]] += d[places[i]], in the order of i; places None: 0, 1, ...; the rows of d are contiguous."""
    cdef Rows j
    cdef View given
    take_matrix(&j, SCATTER, table, WRITTEN)
    see(&given, d, 2, code_of(&j), STRIDED)
    j.out, j.y, j.ldy = j.y, given.data, given.strides[0]
    take_ids(&j, ids, places)
    if j.M == 0:
        return
    assert given.strides[1] == 1 or j.N == 1
    run_rows(&j, threads)


def update(int method, p, g, slots, new_p, new_slots, terms, int threads):
    """One update of parameters by their gradient: `new_p` and `new_slots` are written from `p`, `g` and `slots`, the
    method's arrays of the same size; `terms`: the TERMS numbers of update.pxi. Return whether gradients and new values
    are all finite."""
    cdef Update j
    cdef View old, gradient, new
    cdef Py_ssize_t i
    see(&old, p, 1, FLOATING, WHOLE)
    see(&gradient, g, 1, old.code, WHOLE)
    see(&new, new_p, 1, old.code, WHOLE | WRITTEN)
    memset(&j, 0, sizeof(j))
    j.method, j.single, j.n = method, old.code == SINGLE, old.shape[0]
    assert gradient.shape[0] == new.shape[0] == j.n
    assert len(slots) == len(new_slots) <= 3 and len(terms) == TERMS
    if j.n == 0:
        return True
    j.p, j.g, j.new_p, j.slot_count = old.data, gradient.data, new.data, len(slots)
    for i in range(j.slot_count):
        assert slots[i].size == new_slots[i].size == j.n
        j.slots[i], j.new_slots[i] = <void *>address(slots[i]), <void *>address(new_slots[i])
    for i in range(TERMS):
        j.terms[i] = terms[i]
    run_update(&j, threads)
    return not j.wrong


def squares_sum(g, int threads):
    """The sum of g^2, in float64 and in an order that no number of threads changes."""
    cdef Update j
    cdef View gradient, parts
    cdef Py_ssize_t i
    cdef double total = 0
    see(&gradient, g, 1, FLOATING, WHOLE)
    memset(&j, 0, sizeof(j))
    j.method, j.single, j.n = SQUARES, gradient.code == SINGLE, gradient.shape[0]
    if j.n == 0:
        return 0.0
    sums = np.empty((j.n + RANGE - 1) // RANGE)
    see(&parts, sums, 1, DOUBLE, WHOLE | WRITTEN)
    j.g, j.sums = gradient.data, <double *>parts.data
    run_update(&j, threads)
    for i in range(parts.shape[0]):
        total += j.sums[i]
    return total


cdef int run_update(Update *j, int threads) except -1:
    j.range = RANGE
    cdef int tasks = <int>((j.n + RANGE - 1) // RANGE)
    with nogil:
        run_shared(helpers(ELEMENT_WORK * j.n, threads), threads, ELEMENT_WORK * j.n, tasks, build.update, j)
    return 0
