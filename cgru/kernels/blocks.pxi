# Blocks of steps, in which passes run: who takes part, and what a call of passes does between them. Included by
# calls.pyx.

cdef enum:
    STEP = 2            # what a call does, for `choose_for`; forward is 0, backward 1
    BLOCK_NS = 1000000  # that a block may take longer than it should

cdef double SLOWEST = 0.4  # ns that a multiplication may take where nothing is known
cdef Py_ssize_t LONG_WORK = 16000000  # multiplications of a call beside which it costs nothing to begin to share it


cdef bint advance_forward(Forward *j) noexcept nogil:
    """Run blocks of steps until it is time to look for signals; return whether all are done."""
    cdef Py_ssize_t row_work = 3 * j.H * (j.D + j.H), worked = 0, rows
    cdef Py_ssize_t most = j.scratch_rows * 4 if j.training and not j.way.by_blas else j.scratch_rows
    cdef cgru_team team
    j.team = &team
    if j.way.by_rows:
        most = max(j.s.N, limits.signal_work // row_work)
    while j.k1 < j.s.K and worked < limits.signal_work:
        gather_members(j)
        j.k0 = j.k1
        j.k1 = block_end(&j.s, j.k0, block_rows(j, most, row_work), not (j.way.by_rows or j.way.by_blas))
        rows = offset(&j.s, j.k1) - offset(&j.s, j.k0)
        run_block(j, j, build.forward, rows)
        worked += rows * row_work
    return j.k1 == j.s.K


cdef inline void gather_members(Forward *j) noexcept nogil:
    """Who walks through the next block of steps: those who look for work now. Nobody is waited for."""
    j.members = j.way.threads
    if limits.measured and not j.way.by_rows and j.way.threads > 1:
        j.members = awake(j.way.threads, now())


cdef inline Py_ssize_t block_rows(const Forward *j, Py_ssize_t most, Py_ssize_t row_work) noexcept nogil:
    """Packed rows of the next block, at most; fewer while the caller waits for others to come."""
    if j.members < j.way.threads and j.members == 1:
        return max(j.s.N, min(most, limits.alone_work // row_work))
    return most


cdef inline void run_block(Forward *j, void *job, task_t task, Py_ssize_t rows) noexcept nogil:
    """A block of steps, by the members of a team or by ranges of rows. One that took far longer than it does alone was
    held up by somebody who has no processor: the rest of the call goes without him."""
    cdef int64_t started = now() if j.slow > 0 and j.way.threads > 1 else 0
    if j.way.by_rows:
        run(j.way.threads, <int>((j.s.N + j.way.range_rows - 1) // j.way.range_rows), task, job)
    else:
        cgru_clear(j.team, j.members)
        run(j.members, j.members, task, job)
    if started > 0 and now() - started > j.slow * rows + BLOCK_NS:
        j.way.threads = 1


cdef bint advance_backward(Backward *j) noexcept nogil:
    """Run blocks of steps, the last first, until it is time to look for signals; return whether all are done."""
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t worked = 0, i, size = itemsize_of(forward), row = forward.H * size, rows
    cdef Py_ssize_t row_work = 6 * forward.H * (forward.D + forward.H)
    cdef cgru_team team
    forward.team = &team
    while forward.k0 > 0 and worked < limits.signal_work:
        gather_members(forward)
        forward.k1 = forward.k0
        # Where blocks end is the same whoever shares them: the sums of the weights' gradients go block by block.
        forward.k0 = block_start_before(&forward.s, forward.k1, j.most)
        rows = offset(&forward.s, forward.k1) - offset(&forward.s, forward.k0)
        run_block(forward, j, build.backward_gates, rows)
        j.turned = rows * (forward.D + forward.H) * size >= limits.turned_bytes
        j.turned = j.turned and j.dkernel != NULL and j.route != BLAS
        if j.turned:
            run(forward.way.threads, build.turn_tasks(j), build.backward_turn, j)
        if build.large_tasks(j) > 0:
            run(forward.way.threads, build.large_tasks(j), build.backward_large, j)
        worked += rows * row_work
    if forward.k0 > 0:
        return False
    for i in range(forward.s.N):
        memcpy(<char *>j.dh0 + batch_row(&forward.s, i) * row, <char *>j.dh + i * forward.Hp * size, row)
    return True


cdef struct Pass:
    void *job
    bint backward, finished


cdef void advance_task(void *passes, int task, int slot) noexcept nogil:
    cdef Pass *p = <Pass *>passes + task
    if not p.finished:
        p.finished = advance_backward(<Backward *>p.job) if p.backward else advance_forward(<Forward *>p.job)


cdef uint64_t kind_of(const Forward *j, const Schedule *s, int what) noexcept nogil:
    """The key (choice.pxi) of calls like this one, of these sizes."""
    cdef uint64_t key = mixed(<uint64_t>what, <uint64_t>j.D)
    key = mixed(mixed(key, <uint64_t>j.H), <uint64_t>s.N)
    if j.gain != NULL:
        key = mixed(key, 1)
    if j.U.route >= HALF:
        key = mixed(key, <uint64_t>j.U.route)
    return mixed(key, <uint64_t>(j.training * 4 + j.reset_after * 2 + j.single))


cdef Choice choose_for(
    const Forward *j, const Schedule *s, int what, Py_ssize_t passes, int threads
) noexcept nogil:
    """How to share passes like this one over these rows and steps, which begin here."""
    cdef Py_ssize_t row_work = 3 * j.H * (j.D + j.H), N = s.N, rows = offset(s, s.K)
    cdef Py_ssize_t work = passes * rows * row_work
    cdef bint pair = passes == 2 and what != STEP  # the layers of a step follow each other
    cdef Py_ssize_t enough = s.K
    if s.K > 1 and N > 0:
        enough = max(1, max(limits.large_rows // 2, LONG_WORK // row_work) // N)
    cdef Choice choice = choose(
        kind_of(j, s, 8 * what + <int>passes), s.K, enough, work, threads,
        expected_way(N, row_work, work, limits.thread_work, threads, pair),
        expected_way(N, row_work, work, limits.small_work, threads, pair),
        by_units_possible(N, j.Hp, itemsize_of(j)), N >= 4, pair,
    )
    if choice.slow == 0 and choice.key != 0:
        choice.slow = SLOWEST * row_work
    return choice


def run_calls(list calls, int threads):
    """Run passes that do not depend on each other: one after the other, or at once where that is faster.

    Between pieces of work it looks for signals, so Ctrl-C ends it, with what the calls write left unfinished.
    """
    cdef Pass[2] passes
    cdef int n = <int>len(calls), i, left = 0
    cdef bint blas = False, whole = False
    cdef Choice choice
    cdef Call call
    assert 1 <= n <= 2
    for i in range(n):
        call = calls[i]
        passes[i].job, passes[i].backward, passes[i].finished = &call.job, call.backward, call.finished
        blas = blas or call.by_blas()
    while left < n and passes[left].finished:
        left += 1
    if left == n:
        return
    if blas:
        park()
    call = calls[left]
    choice = choose_for(
        &call.job.forward, &call.job.forward.s, call.backward, n - left, 1 if blas else threads)
    for i in range(left, n):
        call = calls[i]
        if not call.finished:
            with nogil:
                call.start(choice)
    try:
        while True:
            with nogil:
                if choice.way == ONCE:
                    run(choice.threads, n, advance_task, passes)
                else:
                    advance_task(passes, left, 0)
            while left < n and passes[left].finished:
                left += 1
            if left == n:
                break
            PyErr_CheckSignals()
        whole = True
    finally:
        call = calls[n - 1]
        finish(&choice, offset(&call.job.forward.s, call.job.forward.s.K), whole)
