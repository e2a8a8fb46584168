# How a call is shared among threads, and the workspace that follows from it. Included by calls.pyx.

cdef extern from "platform.h" nogil:
    Py_ssize_t cgru_second_cache() noexcept


cdef Limits limits
limits.signal_work = 1_000_000_000
limits.gil_work = 500_000
limits.thread_work = 2_000_000
limits.small_work = 90_000
limits.cold_work = 1_500_000
limits.close_ns = 100_000
limits.team_work = 15_000
limits.few_rows = 8
limits.step_rows = 4
limits.block_rows = 64
limits.large_rows = 512
limits.blas_rows = 2048
limits.dx_rows = 48
limits.turned_bytes = 1_200_000
limits.alone_work = 5_000_000
limits.measured = 1
limits.product_rows = 512
limits.product_bytes = 4096
limits.dots = 0  # `use` sets it
limits.near_bytes = cgru_second_cache() // 4 * 3
limits.near_rows = 64
limits.far_steps = 16
limits.many_rows = 19
limits.product_k = 512


def tune(**changes):
    """Set limits (jobs.pxd) by name and return what all of them were; for tests and benchmarks, between calls and for
    all threads."""
    global limits
    cdef Limits after = limits
    cdef dict before = limits  # in the order of the struct, whose fields are of one type
    names = list(before)
    assert sizeof(Limits) == len(names) * sizeof(Py_ssize_t)
    for name, value in changes.items():
        if name not in before:
            raise ValueError(f"{name}: expected one of {', '.join(names)}")
        (<Py_ssize_t *>&after)[<Py_ssize_t>names.index(name)] = value
    limits = after
    return before


cdef inline Py_ssize_t matrix_bytes(Py_ssize_t K, Py_ssize_t columns, Py_ssize_t size, int route) noexcept nogil:
    """Of a Matrix with so many columns in all (projection.pxd, narrow.pxd)."""
    if route == CODES:
        return ((K + 3) // 4 + 1 + (K + PIECE_ROWS - 1) // PIECE_ROWS) * 4 * columns
    return K * columns * (2 if route >= HALF else size)


cdef inline void set_matrices(Forward *j, const void *W, const void *U, int route) noexcept nogil:
    """The weights of a job whose sizes are set."""
    j.W, j.U = matrix(W, j.D, j.Hp, 3, route), matrix(U, j.H, j.Hp, 3, route)
    j.W.dots = j.U.dots = limits.dots


cdef inline bint widens(
    int route, Py_ssize_t N, Py_ssize_t M, Py_ssize_t D, Py_ssize_t H, Py_ssize_t Hp, bint team
) noexcept nogil:
    """Whether a call of N rows and M packed ones widens its weights of 16 bits once, before everything else: what
    converts them takes the place of multiply-adds. Few rows wait for their weights, of which 16 bits come sooner,
    unless the second cache keeps those of 32. `team`: threads share its units, and have to fetch what one has written,
    which a single row has no time for unless it is little."""
    cdef Py_ssize_t size = 4 * 3 * Hp * (D + H)
    if route != HALF and route != BFLOAT:
        return False
    if size <= limits.near_bytes:
        return M >= limits.near_rows and not (team and N == 1 and 4 * size > limits.near_bytes)
    return N >= limits.many_rows and M >= limits.far_steps * N


cdef inline void widen(Matrix *m, char **next_work) noexcept nogil:
    """The same weights as float32, in a workspace: the panels are those of 16 bits."""
    cdef Py_ssize_t n = m.K * m.columns * m.blocks
    cdef float *wide = <float *>carve(next_work, n, sizeof(float))
    build.widen(m.route == HALF, n, m.data, wide)
    m.data, m.route = wide, PACKED


cdef inline int expected_way(
    Py_ssize_t N, Py_ssize_t row_work, Py_ssize_t work, Py_ssize_t enough, int threads, bint pair
) noexcept nogil:
    """The way (choice.pxi) of a call of `work` multiplications, a row and step of it `row_work`, before anything is
    known; `enough`: from how many of them on threads are expected to pay."""
    cdef int level = 0
    while (1 << level) < threads and level < LEVELS:
        level += 1
    if level == 0 or work < enough:
        return ALONE
    if N >= limits.few_rows:
        return 2 * level
    if pair:
        return ONCE
    return 2 * level - 1 if N * row_work >= limits.team_work else ALONE


cdef inline bint by_units_possible(Py_ssize_t N, Py_ssize_t Hp, Py_ssize_t itemsize) noexcept nogil:
    return N < 4 * limits.few_rows and Hp >= 2 * lanes(itemsize)


cdef inline Sharing sharing_of(
    int way, int threads, Py_ssize_t N, Py_ssize_t H, Py_ssize_t Hp, Py_ssize_t itemsize, int route
) noexcept nogil:
    """How N rows are shared among at most so many threads."""
    cdef Sharing sharing
    cdef Py_ssize_t tasks
    sharing.threads, sharing.by_blas = threads, False
    sharing.by_rows = N >= limits.few_rows if threads == 1 else is_rows(way)
    sharing.range_rows = N
    if N == 0:
        return sharing
    if not sharing.by_rows:
        sharing.threads = <int>min(threads, Hp // lanes(itemsize))
        return sharing
    # Rows whose gates and states stay in the first cache, unless the weights must be fetched from beyond the second for
    # each range, or widened for it.
    if 3 * H * H * itemsize < 1 << 20 and route < HALF:
        sharing.range_rows = max(
            2 * build.tile_rows, 32768 // (7 * Hp * itemsize) // build.tile_rows * build.tile_rows)
    tasks = (N + sharing.range_rows - 1) // sharing.range_rows
    tasks = (tasks + threads - 1) // threads * threads
    sharing.range_rows = (N + tasks - 1) // tasks
    return sharing


cdef inline Py_ssize_t most_work(
    int route, int threads, Py_ssize_t N, Py_ssize_t M, Py_ssize_t D, Py_ssize_t H, Py_ssize_t Hp, Py_ssize_t G,
    Py_ssize_t itemsize, bint training,
) noexcept nogil:
    """Elements that `start_forward` carves up, whichever way at most so many threads share the call."""
    cdef Py_ssize_t most = 0, wide = 0
    cdef int way = ALONE, shared
    if widens(route, N, M, D, H, Hp, False):
        route, wide = PACKED, aligned(3 * Hp * D) + aligned(3 * Hp * H)
    if route == BLAS:
        return workspace_of(sharing_by_blas(N, M), N, M, D, Hp, G, training)
    while way < ONCE and (way == ALONE or 1 << (level_of(way) - 1) < threads):  # beyond, levels share as this one does
        shared = threads_of(way, threads)
        most = max(
            most, workspace_of(sharing_of(way, shared, N, H, Hp, itemsize, route), N, M, D, Hp, G, training))
        way += 1
    return most + wide


cdef inline Py_ssize_t workspace_of(
    Sharing sharing, Py_ssize_t N, Py_ssize_t M, Py_ssize_t D, Py_ssize_t Hp, Py_ssize_t G, bint training
) noexcept nogil:
    """Elements that `start_forward` carves up."""
    cdef Py_ssize_t scratch = scratch_rows_of(sharing, N, M), rows = scratch if sharing.by_blas else sharing.threads * N
    cdef Py_ssize_t own_tape = 0 if training else aligned(sharing.threads * scratch * G) + 2 * aligned(N * Hp)
    return ALIGN + aligned(N * Hp) + aligned(rows * D) + own_tape


cdef inline Py_ssize_t row_of_gates(Py_ssize_t Hp, bint reset_after, bint normed, Py_ssize_t itemsize) noexcept nogil:
    """Elements of a row of gates: r z n q or r z n; normalised, then products and what was found of their groups."""
    cdef Py_ssize_t gates = (4 if reset_after else 3) * Hp
    return gates + 6 * Hp + padded(8, itemsize) if normed else gates


cdef inline Py_ssize_t scratch_rows_of(Sharing sharing, Py_ssize_t N, Py_ssize_t M) noexcept nogil:
    """Rows of gates that a thread works on, of M packed ones."""
    return sharing.range_rows if sharing.by_rows or sharing.by_blas else max(min(limits.block_rows, M), N)


cdef inline Sharing sharing_by_blas(Py_ssize_t N, Py_ssize_t M) noexcept nogil:
    """N rows, M packed rows: in blocks of many, by this thread and those of BLAS."""
    cdef Sharing sharing
    sharing.by_rows, sharing.by_blas, sharing.threads = False, True, 1
    sharing.range_rows = max(N, min(limits.blas_rows, M))
    return sharing


cpdef Py_ssize_t backward_rows(Py_ssize_t N, Py_ssize_t M, int route) noexcept:
    """Packed rows of a block of steps in `backward`, at most, of N rows and M packed ones; blocks are counted from the
    last step."""
    return max(min(limits.blas_rows if route == BLAS else limits.large_rows, M), N)


def gates_row(Py_ssize_t H, bint reset_after, bint normed, Py_ssize_t itemsize):
    """Elements of a row of gates, in a tape."""
    return row_of_gates(padded(H, itemsize), reset_after, normed, itemsize)


def forward_work(
    Py_ssize_t N, Py_ssize_t M, Py_ssize_t D, Py_ssize_t H, bint reset_after, bint normed, bint masked, bint training,
    Py_ssize_t itemsize, int route, int threads,
):
    """Elements of the workspace of `forward`; `masked`: with a mask of the states."""
    cdef Py_ssize_t Hp = padded(H, itemsize), G = row_of_gates(Hp, reset_after, normed, itemsize)
    return most_work(route, threads, N, M, D, H, Hp, G, itemsize, training) + (3 * aligned(N * Hp) if masked else 0)


def backward_work(
    Py_ssize_t N, Py_ssize_t M, Py_ssize_t D, Py_ssize_t H, bint reset_after, bint normed, bint masked, bint zones,
    Py_ssize_t itemsize, int route, int threads,
):
    """Elements of the workspace of `backward`."""
    cdef Py_ssize_t Hp = padded(H, itemsize), B = (4 if reset_after else 3) * Hp
    cdef Py_ssize_t most = backward_rows(N, M, route)
    return (
        ALIGN + 2 * aligned(N * Hp) + aligned(most * (B + 6 * Hp if normed else B)) + aligned(most * D)
        + 2 * aligned(most * Hp) + aligned(most * padded(D, itemsize)) + aligned(B)
        + aligned(threads * most * panel_width(itemsize))
        + aligned(most * D) + aligned(most * H) + (0 if reset_after else aligned(most * H))
        + (aligned(6 * Hp) if normed else 0) + (3 if masked else 0) * aligned(N * Hp)
        + (1 if zones else 0) * aligned(N * Hp)
    )
