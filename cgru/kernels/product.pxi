# Products of whole matrices: C = op(A) op(B) by the tile. Included by kernels.pxi; products.pxi makes the jobs.
#
# A task is a block of C, some rows and some panels of columns. It walks K in pieces: a piece of B's panel is packed
# into the thread's workspace, where the first cache keeps it for all rows of the block, and C holds the sums in
# between. So every element of C is one sum over k in order, whatever the blocks, the pieces and the threads are.

cdef inline void product_edge(
    int R, Py_ssize_t K, const floating *a, Py_ssize_t a_row, Py_ssize_t a_k, const floating *panel, Py_ssize_t ldb,
    Py_ssize_t w, floating *c, Py_ssize_t ldc, bint accumulate,
) noexcept nogil:
    """The tile where a vector is wider than the w columns that C has left: through a block of whole vectors, whose
    padding stays there."""
    cdef double[192] memory  # of either type: 6 rows of 4 vectors of 64 bytes at most
    cdef floating *block = <floating *>&memory[0]
    cdef Py_ssize_t i, wide = padded(w, sizeof(floating))
    if accumulate:
        for i in range(R):
            memcpy(block + i * wide, c + i * ldc, w * sizeof(floating))
            memset(block + i * wide + w, 0, (wide - w) * sizeof(floating))
    tile(R, 1, <int>(wide // lanes(sizeof(floating))), K, a, a_row, a_k, panel, ldb, 0, block, wide, 0, accumulate)
    for i in range(R):
        memcpy(c + i * ldc, block + i * wide, w * sizeof(floating))


cdef inline void product_group(
    Py_ssize_t M, Py_ssize_t K, const floating *a, Py_ssize_t a_row, Py_ssize_t a_k, const floating *b, Py_ssize_t b_k,
    Py_ssize_t between, Py_ssize_t k0, Py_ssize_t columns, floating *c, Py_ssize_t ldc, bint accumulate,
) noexcept nogil:
    """C (M x columns) = A (M x K) B (K x columns), or +=. B is from row k0 on in panels, `between` elements apart;
    their rows are b_k elements apart, or if that is 0, as wide as the panel, padded to a whole vector."""
    cdef Py_ssize_t size = sizeof(floating), width = panel_width(size), column, w, ldb, i = 0, group, step
    cdef const floating *panel
    cdef int P
    for group in range((M + CGRU_TILE_ROWS - 1) // CGRU_TILE_ROWS, 0, -1):
        step = (M - i + group - 1) // group  # as even as can be
        column = 0
        while column < columns:
            w, P = min(width, columns - column), 1
            ldb = padded(w, size) if b_k == 0 else b_k
            panel = b + column // width * between + k0 * ldb
            if w % lanes(size) != 0:
                product_edge(<int>step, K, a, a_row, a_k, panel, ldb, w, c + column, ldc, accumulate)
            else:
                if step <= 2 and w == width:
                    # Alone, a panel has too few accumulators to hide the latency of a multiply-add.
                    P = 3 if column + 3 * width <= columns else 2 if column + 2 * width <= columns else 1
                tile(
                    <int>step, P, <int>(w // lanes(size)), K, a, a_row, a_k, panel, ldb, between, c + column, ldc,
                    width, accumulate,
                )
            column += P * w
        a += step * a_row
        c += step * ldc
        i += step


cdef inline void pack_piece(
    const Product *j, Py_ssize_t K, Py_ssize_t columns, const floating *b, floating *packed
) noexcept nogil:
    """A piece (K x columns) of B, panel by panel, padded with zeros to a whole vector."""
    cdef Py_ssize_t size = sizeof(floating), width = panel_width(size), k = 0, strip, column, w, ldb, i
    cdef floating *panel
    while k < K:
        # A few rows at a time, for all panels: far apart, each has a page of its own.
        strip = min(16, K - k) if j.b_column == 1 else K
        column = 0
        while column < columns:
            w = min(width, columns - column)
            ldb = padded(w, size)
            panel = packed + column * K + k * ldb
            if w == width and j.b_column == 1:
                for i in range(strip):
                    memcpy(
                        panel + i * width, b + (k + i) * j.b_k + column, CGRU_TILE_VECTORS * CGRU_VECTOR_BYTES)
            else:
                move(strip, w, b + k * j.b_k + column * j.b_column, j.b_k, j.b_column, panel, ldb, 1, False)
            if w < ldb:
                for i in range(strip):
                    memset(panel + i * ldb + w, 0, (ldb - w) * size)
            column += w
        k += strip


cdef inline void narrow_block(
    const Product *j, Py_ssize_t i0, Py_ssize_t m, Py_ssize_t column0, Py_ssize_t column1
) noexcept nogil:
    """The block of a product with weights of 16 or 8 bits; C has no padding for the columns behind the last one."""
    cdef float[96] ends  # 6 vectors at most
    cdef const float *a = <const float *>j.a + i0 * j.a_row
    cdef float *c = <float *>j.c + i0 * j.ldc
    cdef Py_ssize_t whole = column1 // lanes(4) * lanes(4), i, k, rows
    multiply_narrow(m, j.K, a, j.a_row, &j.narrow, 0, 1, column0, whole, c, j.ldc, False)
    for i in range(0, m if whole < column1 else 0, 6):
        rows = min(6, m - i)
        multiply_narrow(
            rows, j.K, a + i * j.a_row, j.a_row, &j.narrow, 0, 1, whole, whole + lanes(4), ends - whole, lanes(4),
            False)
        for k in range(rows):
            memcpy(c + (i + k) * j.ldc + whole, ends + k * lanes(4), (column1 - whole) * sizeof(float))


cdef inline void product_block(Product *j, int task, int slot, floating *dtype) noexcept nogil:
    cdef Py_ssize_t size = sizeof(floating), width = panel_width(size), k = 0, kc, column, columns, b_k, k0, between, i
    cdef Py_ssize_t i0 = task % j.row_tasks * j.rows, m = min(j.rows, j.M - i0), a_row, a_k
    cdef Py_ssize_t column0 = task // j.row_tasks * j.columns, column1 = min(column0 + j.columns, j.N)
    cdef const floating *a
    cdef const floating *b
    cdef floating *c = <floating *>j.c + i0 * j.ldc
    cdef floating *packed_b = <floating *>j.work + slot * j.slot_work
    cdef floating *packed_a = packed_b + j.piece * j.group
    # With few rows to share its cost, packing does not pay.
    cdef bint direct = j.b_column == 1 and m <= CGRU_TILE_ROWS
    cdef bint copy_a = j.a_k != 1 and m > CGRU_TILE_ROWS
    if j.narrow.data != NULL:
        narrow_block(j, i0, m, column0, column1)
        k = j.K
    while k < j.K:
        kc = min(j.piece, j.K - k)
        a, a_row, a_k = <const floating *>j.a + i0 * j.a_row + k * j.a_k, j.a_row, j.a_k
        if copy_a:
            move(m, kc, a, a_row, a_k, packed_a, kc, 1, False)
            a, a_row, a_k = packed_a, kc, 1
        column = column0
        while column < column1:
            columns, b_k, k0 = min(j.group, column1 - column), 0, 0
            b = <const floating *>j.b + k * j.b_k + column * j.b_column
            if j.sums != NULL and i0 == 0:
                sum_columns(kc, columns, b, j.b_k, j.b_column, k > 0, <floating *>j.sums + column)
            if j.packed:
                # This and the panels after it, of which only the last is narrower.
                b, between, k0 = <const floating *>j.b + column * j.K, j.K * width, k
            elif direct and columns % lanes(size) == 0:
                between, b_k = width, j.b_k
            else:
                pack_piece(j, kc, columns, b, packed_b)
                b, between = packed_b, kc * width
            product_group(
                m, kc, a, a_row, a_k, b, b_k, between, k0, columns, c + column, j.ldc, j.accumulate or k > 0)
            column += columns
        k += kc
    if j.bias != NULL:
        for i in range(m):
            gates_forward(
                j.activation, column1 - column0, c + i * j.ldc + column0, <floating *>j.bias + column0)


cdef inline void sum_columns(
    Py_ssize_t K, Py_ssize_t n, const floating *b, Py_ssize_t b_k, Py_ssize_t b_column, bint accumulate, floating *sums
) noexcept nogil:
    """sums (n,) = or += those of the columns of B (K x n), over k in order."""
    cdef Py_ssize_t k, i
    if not accumulate:
        memset(sums, 0, n * sizeof(floating))
    for k in range(K):
        if b_column == 1:
            add(n, sums, <floating *>b + k * b_k)
        else:
            for i in range(n):
                sums[i] += b[k * b_k + i * b_column]


cdef void product_task(void *job, int task, int slot) noexcept nogil:
    cdef Product *j = <Product *>job
    cdef unsigned was = cgru_flush_denormals()
    if j.single:
        product_block(j, task, slot, <float *>NULL)
    else:
        product_block(j, task, slot, <double *>NULL)
    cgru_restore_denormals(was)
