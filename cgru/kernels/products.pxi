# Products and packing on their own: multiply for the other layers, pack for weights, activate for the accuracy checks.
# Included by calls.pyx.

cdef enum:
    GROUP_BYTES = 256  # of a row of B that are packed at once


cdef enum:
    MOVE_WORK = 16  # multiplications that take as long as to move an element


cdef int helpers(Py_ssize_t work, int threads) noexcept nogil:
    """How many threads a job of this many multiplications uses, whose tasks are claimed one by one, so that who comes
    late costs nothing."""
    if work < limits.small_work or threads < 2:
        return 1
    if not limits.measured:
        return threads if work >= limits.thread_work else 1
    threads = min(threads, processors(now()))
    # Waking a sleeper takes the caller a while, too.
    return threads if work >= 4 * limits.thread_work else awake(threads, now())


cdef void run_shared(
    int threads, int most, Py_ssize_t work, int tasks, task_t task, void *job
) noexcept nogil:
    """Run the tasks of a job on so many `helpers`, of at most `most`. Who helps stays awake for the next job; in a row
    of them somebody is woken who will."""
    cdef int wake = threads - 1
    if work < limits.small_work or most < 2:
        run(1, tasks, task, job)
        return
    if threads == 1 and limits.measured and work >= limits.cold_work and gap() < limits.close_ns:
        wake = min(most, processors(now())) - 1
    begin(threads, wake, now())
    run(threads, tasks, task, job)
    end(threads, now())


cdef int share_product(Product *j, int threads) noexcept nogil:
    """Cut the product into tasks, and return their number."""
    cdef Py_ssize_t size = 4 if j.single else 8, width = panel_width(size), panels = (j.N + width - 1) // width, wanted
    j.row_tasks = <int>((j.M + limits.product_rows - 1) // limits.product_rows)
    j.rows = (j.M + j.row_tasks - 1) // j.row_tasks
    j.rows = (j.rows + build.tile_rows - 1) // build.tile_rows * build.tile_rows
    j.row_tasks = <int>((j.M + j.rows - 1) // j.rows)
    wanted = (4 * threads + j.row_tasks - 1) // j.row_tasks if threads > 1 else 1
    j.columns = max(1, min(limits.product_bytes // (width * size), panels // wanted)) * width
    j.piece = max(1, min(j.K, limits.product_k * 4 // size))
    j.group = max(1, GROUP_BYTES // (width * size)) * width
    if j.packed and j.M <= build.tile_rows:  # used once, a panel need not stay
        j.piece = j.K
    j.slot_work = 0 if j.packed else aligned(j.piece * j.group)
    if j.a_k != 1 and j.M > build.tile_rows:
        j.slot_work = aligned(j.piece * j.group) + aligned(j.rows * j.piece)
    return j.row_tasks * <int>((j.N + j.columns - 1) // j.columns)


cdef int run_product(Product *j, int threads, int route) except -1:
    """Compute it, looking for signals between pieces of work."""
    if route == BLAS:
        with nogil:
            product_by_blas(j)
        return 0
    cdef Product part = j[0]
    cdef Py_ssize_t size = 4 if j.single else 8, most, row = 0
    cdef Py_ssize_t work = j.M * j.K * j.N
    cdef View space
    cdef int tasks
    cdef int wanted = threads
    threads = helpers(work, threads)
    most = max(limits.product_rows, limits.signal_work // (j.K * j.N) // limits.product_rows * limits.product_rows)
    while row < j.M:
        part.M = min(most, j.M - row)
        part.a = <const char *>j.a + row * j.a_row * size
        part.c = <char *>j.c + row * j.ldc * size
        if row > 0:
            part.sums = NULL
        tasks = share_product(&part, threads)
        if part.slot_work > 0 and row == 0:
            memory = np.empty(size * (ALIGN + threads * part.slot_work), np.uint8)
            see(&space, memory, 1, BYTES, WHOLE | WRITTEN)
            part.work = first_aligned(space.data)
        if work < limits.gil_work:
            run_shared(threads, wanted, work, tasks, build.product, &part)
            return 0
        with nogil:
            run_shared(threads, wanted, work, tasks, build.product, &part)
        row += part.M
        if row < j.M:
            PyErr_CheckSignals()
    return 0


cdef inline bint blas_reads(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t row, Py_ssize_t column) noexcept nogil:
    """Whether BLAS reads a matrix with these strides: contiguous rows at a positive distance that its integers hold."""
    return (column == 1 or columns == 1) and (rows == 1 or columns <= row <= 2147483647)


cdef void product_by_blas(Product *j) noexcept nogil:
    """The product alone; `blas_reads` A or its transpose, and B or its transpose."""
    cdef bint turn_a = not blas_reads(j.M, j.K, j.a_row, j.a_k), turn_b = not blas_reads(j.K, j.N, j.b_k, j.b_column)
    cdef Py_ssize_t lda = max(j.a_k if turn_a else j.a_row, j.M if turn_a else j.K)
    cdef Py_ssize_t ldb = max(j.b_column if turn_b else j.b_k, j.K if turn_b else j.N)
    park()
    if j.single:
        blas_gemm(
            j.M, j.N, j.K, <const float *>j.a, lda, turn_a, <const float *>j.b, ldb, turn_b, <float *>j.c,
            max(j.ldc, j.N), <float>1 if j.accumulate else <float>0,
        )
    else:
        blas_gemm(
            j.M, j.N, j.K, <const double *>j.a, lda, turn_a, <const double *>j.b, ldb, turn_b, <double *>j.c,
            max(j.ldc, j.N), <double>1 if j.accumulate else <double>0,
        )


def multiply(
    a,     # (M, K)
    b,     # (K, N)
    c,     # (M, N) out, rows contiguous
    sums,  # (N,) out: those of B's columns; or None
    bint accumulate, int route, int threads,
):
    """C = A B, or +=. No size is zero, and strides are whole elements."""
    cdef Product j
    cdef View A, B, C, totals
    see(&A, a, 2, FLOATING, STRIDED)
    see(&B, b, 2, A.code, STRIDED)
    see(&C, c, 2, A.code, STRIDED | WRITTEN)
    see(&totals, sums, 1, A.code, WHOLE | WRITTEN)
    assert A.shape[1] == B.shape[0] and C.shape[0] == A.shape[0] and C.shape[1] == B.shape[1]
    memset(&j, 0, sizeof(j))
    j.M, j.K, j.N = A.shape[0], A.shape[1], B.shape[1]
    j.accumulate, j.single, j.sums = accumulate, A.code == SINGLE, totals.data
    if route == BLAS:
        if sums is not None:
            np.sum(b, axis=0, out=sums)
        a, b = readable_by_blas(a, &A), readable_by_blas(b, &B)
        if not blas_reads(j.M, j.N, C.strides[0], 1) or max(j.M, j.K, j.N) > BLAS_MOST:
            raise ValueError(f"expected sizes and strides that BLAS' integers hold, got {j.M}, {j.K}, {j.N}")
    if A.strides[1] == 0:  # the tile counts its steps by their addresses
        a = copied(a, &A)
    if B.strides[0] == 0:  # which means packed rows where blocks are multiplied
        b = copied(b, &B)
    j.a, j.a_row, j.a_k = A.data, A.strides[0], A.strides[1]
    j.b, j.b_k, j.b_column = B.data, B.strides[0], B.strides[1]
    j.c, j.ldc = C.data, C.strides[0]
    run_product(&j, threads, route)


cdef object copied(array, View *v):
    """A C-contiguous copy of a matrix, with its view."""
    array = np.array(array, order="C")
    see(v, array, 2, v.code, STRIDED)
    return array


cdef object readable_by_blas(array, View *v):
    """The matrix, or a copy if BLAS reads neither it nor its transpose."""
    cdef Py_ssize_t rows = v.shape[0], columns = v.shape[1], row = v.strides[0], column = v.strides[1]
    if blas_reads(rows, columns, row, column) or blas_reads(columns, rows, column, row):
        return array
    return copied(array, v)


def activate(int activation, x, out):
    """out = activation(x), by the activation's code and through the loop of the gates: what the accuracy checks look
    at."""
    cdef View given, made
    see(&given, x, 1, FLOATING, WHOLE)
    see(&made, out, 1, given.code, WHOLE | WRITTEN)
    cdef Py_ssize_t i, n = given.shape[0], size = size_of(&given)
    assert made.shape[0] == n
    with nogil:
        for i in range(0, n, 512):
            memcpy(made.data + i * size, given.data + i * size, min(512, n - i) * size)
            build.activate(activation, size == 4, min(512, n - i), made.data + i * size)


def padded_units(Py_ssize_t n, Py_ssize_t itemsize):
    """n rounded up to whole vectors of this build."""
    return padded(n, itemsize)


def panel_elements(Py_ssize_t itemsize):
    """Elements of a row of a whole panel."""
    return panel_width(itemsize)


def pack(
    array, matrix, starts, places, bint below, bint negate,
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
    cdef View blocks, panels
    see(&blocks, array, 2, FLOATING, STRIDED)
    see(&panels, matrix, 1, blocks.code, WHOLE | WRITTEN)
    cdef Py_ssize_t size = size_of(&blocks), width = panel_width(size), R = blocks.shape[0], H = blocks.shape[1] // 3, i
    cdef Py_ssize_t row = blocks.strides[0], column = blocks.strides[1]
    job.array, job.matrix = blocks.data, panels.data
    job.single, job.inverse, job.below, job.negate = size == 4, inverse, below, negate
    job.block_columns, job.ld = columns, ld
    if below:
        job.rows, job.columns, job.row, job.column, job.K = H, R, column, row, 3 * padded(H, size)
    else:
        job.rows, job.columns, job.row, job.column, job.K = R, H, row, column, R
    for i in range(3):
        job.starts[i], job.places[i] = starts[i] * H * column, places[i] * (padded(H, size) if below else columns)
    assert job.columns <= columns and panels.shape[0] >= job.K * (ld or columns * (1 if below else 1 + max(places)))
    job.strips = <int>((job.columns + width - 1) // width)
    with nogil:
        run(helpers(MOVE_WORK * 3 * job.rows * job.columns, threads), 3 * job.strips, build.pack, &job)
