# How a call is shared among threads, and the workspace that follows from it. Included by calls.pyx.

cdef Limits limits
limits.signal_work = 1_000_000_000
limits.gil_work = 500_000
limits.thread_work = 2_000_000
limits.small_work = 90_000
limits.team_work = 15_000
limits.few_rows = 8
limits.step_rows = 4
limits.block_rows = 64
limits.large_rows = 512
limits.dx_rows = 48


def tune(**changes):
    """Set limits (jobs.pxd) by name and return what all of them were; for tests and benchmarks, between calls and for
    all threads."""
    global limits
    before = limits
    after = dict(before)
    for name, value in changes.items():
        if name not in after:
            raise ValueError(f"{name}: expected one of {', '.join(after)}")
        after[name] = value
    limits = after
    return before


cdef inline int worth(Py_ssize_t work, int threads) noexcept nogil:
    """How many of the threads a call of this many multiplications uses."""
    return threads if work >= limits.thread_work else 1


cdef inline Sharing share(
    Py_ssize_t N, Py_ssize_t D, Py_ssize_t H, Py_ssize_t Hp, Py_ssize_t itemsize, int threads
) noexcept nogil:
    """How a call shares N rows among at most this many threads."""
    cdef Sharing way
    cdef Py_ssize_t row_work = 3 * H * (D + H), tasks, most
    way.threads = threads
    way.by_rows = N >= limits.few_rows
    way.range_rows = N
    if not way.by_rows:
        most = 1 if N * row_work < limits.team_work else 1 + N * row_work // max(1, limits.team_work)
        way.threads = <int>min(way.threads, most, Hp // lanes(itemsize))
        return way
    # Rows whose gates and states stay in the first cache, unless the weights must be fetched from beyond the second for
    # each range.
    if 3 * H * H * itemsize < 1 << 20:
        way.range_rows = max(2 * build.tile_rows, 32768 // (7 * Hp * itemsize) // build.tile_rows * build.tile_rows)
    tasks = (N + way.range_rows - 1) // way.range_rows
    tasks = (tasks + way.threads - 1) // way.threads * way.threads
    way.range_rows = (N + tasks - 1) // tasks
    return way


cdef inline Py_ssize_t workspace_of(
    Sharing way, Py_ssize_t N, Py_ssize_t D, Py_ssize_t Hp, Py_ssize_t G, bint training
) noexcept nogil:
    """Elements that `start_forward` carves up."""
    cdef Py_ssize_t scratch = way.range_rows if way.by_rows else max(limits.block_rows, N)
    cdef Py_ssize_t own_tape = 0 if training else aligned(way.threads * scratch * G) + 2 * aligned(N * Hp)
    return ALIGN + aligned(N * Hp) + aligned(way.threads * N * D) + own_tape


cdef inline int gate_tasks(const Forward *j) noexcept nogil:
    """Tasks of a block of steps: ranges of rows, or the members of a team."""
    if not j.way.by_rows:
        return j.way.threads
    return <int>((j.s.N + j.way.range_rows - 1) // j.way.range_rows)
