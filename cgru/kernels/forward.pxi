# Forward: the job, the step, and the two ways to share it among threads. Included by kernels.pxi, whose head is the
# design.

cdef inline floating *states_before(const Forward *j, Py_ssize_t k, floating *states) noexcept nogil:
    """The states (count(k), Hp) from which step k starts."""
    if not j.training:
        return states + (k & 1) * j.s.N * j.Hp
    return states if k == 0 else states + (j.s.N + offset(&j.s, k - 1)) * j.Hp


cdef inline floating *states_after(const Forward *j, Py_ssize_t k, floating *states) noexcept nogil:
    if not j.training:
        return states + ((k + 1) & 1) * j.s.N * j.Hp
    return states + (j.s.N + offset(&j.s, k)) * j.Hp


cdef inline void project_input(
    Forward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *gates, floating *rows
) noexcept nogil:
    """gates (n x 3H) = x (n x D) W (D x 3H) for the rows from i0 at step k and the units u0 .. u1"""
    cdef const floating *x = <const floating *>j.x
    cdef Py_ssize_t i
    if j.s.rows == NULL and j.s.times == NULL:
        multiply(n, j.D, x + place(&j.s, k, i0, j.xn, j.xt), j.xn, 1, &j.W, 0, 0, 3, u0, u1, gates, j.G, False)
        return
    for i in range(n):
        memcpy(rows + i * j.D, x + place(&j.s, k, i0 + i, j.xn, j.xt), j.D * sizeof(floating))
    multiply(n, j.D, rows, j.D, 1, &j.W, 0, 0, 3, u0, u1, gates, j.G, False)


cdef inline void step_forward(
    Forward *j, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1,
    floating *gates,   # (n, G) in: x W; out: r z n q or r z n
    floating *h,       # (n, Hp) the states before the step
    floating *h_next,  # (n, Hp) out
    floating *reset,   # (n, Hp) r * h
    cgru_member *me,   # of the team that shares the units; NULL without one
) noexcept nogil:
    """One step of n rows, the units u0 .. u1 of it, whose input products stand in `gates`."""
    cdef Py_ssize_t i, H = j.Hp, G = j.G, units = u1 - u0
    cdef floating *bias = <floating *>j.bias
    cdef floating *row
    # gates_rz (n x 2H) += h (n x H) U_rz (H x 2H)
    multiply(n, j.H, h, H, 1, &j.U, 0, 0, 2, u0, u1, gates, G, True)
    if j.reset_after:
        # q (n x H) = h (n x H) U_n (H x H)
        multiply(n, j.H, h, H, 1, &j.U, 0, 2, 1, u0, u1, gates + 3 * H, G, False)
    for i in range(n):
        row = gates + i * G + u0
        if units == H:
            gates_forward(j.f, 2 * H, row, bias)
        else:
            gates_forward(j.f, units, row, bias + u0)
            gates_forward(j.f, units, row + H, bias + H + u0)
        if j.reset_after:
            reset_after_forward(units, row, row + 3 * H, bias + 3 * H + u0, row + 2 * H)
        else:
            reset_before_forward(units, row, h + i * H + u0, reset + i * H + u0)
    if not j.reset_after:
        if me != NULL:
            cgru_arrive(me)
            cgru_await(me)
        # gates_n (n x H) += (r * h) (n x H) U_n (H x H)
        multiply(n, j.H, reset, H, 1, &j.U, 0, 2, 1, u0, u1, gates + 2 * H, G, True)
    for i in range(n):
        row = gates + i * G + u0
        candidate_forward(
            j.g, units, row + 2 * H, bias + 2 * H + u0, row + H, h + i * H + u0, h_next + i * H + u0)


cdef inline void emit(
    Forward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t u0, Py_ssize_t u1, const floating *states
) noexcept nogil:
    """Write the outputs of step k, and the final state of the rows that end with it, for the rows i0 .. i1 and the
    units u0 .. u1;
    states: those of all rows after step k, of step -1 the initial ones."""
    cdef Py_ssize_t i, n = j.s.N if k < 0 else count(&j.s, k), units = min(u1, j.H) - u0
    cdef floating *y = <floating *>j.y
    cdef floating *h = <floating *>j.h
    if units <= 0:
        return
    if y != NULL and k >= 0:
        for i in range(i0, min(i1, n)):
            memcpy(y + place(&j.s, k, i, j.yn, j.yt) + u0, states + i * j.Hp + u0, units * sizeof(floating))
    for i in range(max(i0, count(&j.s, k + 1)), min(i1, n)):
        memcpy(h + batch_row(&j.s, i) * j.H + u0, states + i * j.Hp + u0, units * sizeof(floating))


cdef void forward_rows(Forward *j, int task, int slot, floating *dtype) noexcept nogil:
    """A range of rows through the block of steps; meets nobody. (`dtype` is NULL and names the type.)"""
    cdef Py_ssize_t i0 = task * j.way.range_rows, i1 = min(i0 + j.way.range_rows, j.s.N), n, k
    cdef floating *states = <floating *>j.states
    cdef floating *rows = <floating *>j.rows + slot * j.s.N * j.D
    cdef floating *gates
    for k in range(j.k0, j.k1):
        n = min(i1, count(&j.s, k)) - i0
        if n <= 0:
            return
        gates = <floating *>j.gates + (offset(&j.s, k) + i0 if j.training else slot * j.scratch_rows) * j.G
        project_input(j, k, i0, n, 0, j.Hp, gates, rows)
        step_forward(
            j, n, 0, j.Hp, gates, states_before(j, k, states) + i0 * j.Hp, states_after(j, k, states) + i0 * j.Hp,
            <floating *>j.reset + i0 * j.Hp, NULL,
        )
        emit(j, k, i0, i1, 0, j.Hp, states_after(j, k, states))


cdef inline int patience(const Forward *j) noexcept nogil:
    """Turns to wait for a worker that may have to be woken: up to a fourth of what the block takes
    alone."""
    cdef Py_ssize_t work = (offset(&j.s, j.k1) - offset(&j.s, j.k0)) * 3 * j.H * (j.D + j.H)
    return <int>min(8000, max(400, work // 4000))


cdef inline Py_ssize_t first_unit(Py_ssize_t Hp, Py_ssize_t itemsize, int member, int members) noexcept nogil:
    """Where the units of a member of a team begin: each has as many whole vectors as the others, or one more."""
    return Hp // lanes(itemsize) * member // members * lanes(itemsize)


cdef void forward_units(Forward *j, int slot, floating *dtype) noexcept nogil:
    """This thread's units of all rows through the block of steps, as one of a team."""
    cdef cgru_member me
    me.team, me.turn = j.team, 0
    me.id = cgru_join(me.team, j.way.threads, patience(j))
    if me.id < 0:
        return
    cdef Py_ssize_t u0 = first_unit(j.Hp, sizeof(floating), me.id, me.team.size)
    cdef Py_ssize_t u1 = first_unit(j.Hp, sizeof(floating), me.id + 1, me.team.size)
    cdef Py_ssize_t first = offset(&j.s, j.k0), k, i, n = count(&j.s, j.k0)
    cdef floating *states = <floating *>j.states
    cdef floating *rows = <floating *>j.rows + slot * j.s.N * j.D
    cdef floating *block = <floating *>j.gates + (first * j.G if j.training else 0)
    cdef floating *gates
    # Few rows make a poor product; the steps of a block together make a good one. (The block has one count, see
    # `forward`.)
    cdef bint together = n < limits.step_rows and j.s.times == NULL
    if together and u1 > u0:
        for i in range(n):
            multiply(
                j.k1 - j.k0, j.D, <const floating *>j.x + place(&j.s, j.k0, i, j.xn, j.xt), j.xt, 1, &j.W, 0, 0, 3,
                u0, u1, block + i * j.G, n * j.G, False,
            )
    for k in range(j.k0, j.k1):
        gates = block + (offset(&j.s, k) - first) * j.G
        n = count(&j.s, k)
        if not together:
            project_input(j, k, 0, n, u0, u1, gates, rows)
        cgru_await(&me)
        step_forward(
            j, n, u0, u1, gates, states_before(j, k, states), states_after(j, k, states), <floating *>j.reset,
            &me if me.team.size > 1 else NULL,
        )
        cgru_arrive(&me)
        emit(j, k, 0, n, u0, u1, states_after(j, k, states))


cdef void forward_task(void *job, int task, int slot) noexcept nogil:
    cdef Forward *j = <Forward *>job
    cdef unsigned was = cgru_flush_denormals()
    if j.way.by_rows and j.single:
        forward_rows(j, task, slot, <float *>NULL)
    elif j.way.by_rows:
        forward_rows(j, task, slot, <double *>NULL)
    elif j.single:
        forward_units(j, slot, <float *>NULL)
    else:
        forward_units(j, slot, <double *>NULL)
    cgru_restore_denormals(was)


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
        way.range_rows = max(2 * CGRU_TILE_ROWS, 32768 // (7 * Hp * itemsize) // CGRU_TILE_ROWS * CGRU_TILE_ROWS)
    tasks = (N + way.range_rows - 1) // way.range_rows
    tasks = (tasks + way.threads - 1) // way.threads * way.threads
    way.range_rows = (N + tasks - 1) // tasks
    return way


def forward_work(
    Py_ssize_t N, Py_ssize_t M, Py_ssize_t D, Py_ssize_t H, bint reset_after, bint training, Py_ssize_t itemsize, int
    threads
):
    """Elements of the workspace of `forward`."""
    cdef Py_ssize_t Hp = padded(H, itemsize), G = (4 if reset_after else 3) * Hp
    return workspace_of(share(N, D, H, Hp, itemsize, worth(M * 3 * H * (D + H), threads)), N, D, Hp, G, training)


cdef inline Py_ssize_t workspace_of(
    Sharing way, Py_ssize_t N, Py_ssize_t D, Py_ssize_t Hp, Py_ssize_t G, bint training
) noexcept nogil:
    """Elements that `start_forward` carves up."""
    cdef Py_ssize_t scratch = way.range_rows if way.by_rows else max(limits.block_rows, N)
    cdef Py_ssize_t own_tape = 0 if training else aligned(way.threads * scratch * G) + 2 * aligned(N * Hp)
    return ALIGN + aligned(N * Hp) + aligned(way.threads * N * D) + own_tape


def forward(
    const floating[:, :, :] x,    # (N, T, D)
    const floating[:, ::1] h0,    # (N, H)
    const floating[::1] kernel,   # W, `pack`ed by the route `batched`
    const floating[::1] recurrent_kernel,  # U, `pack`ed by the route `recurrent`
    const floating[::1] bias,     # (4Hp,) r z n q
    const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times,  # schedule.pxd; or None
    floating[:, :, :] y,          # (N, T, H) out, or None; written where a row takes a step
    floating[:, ::1] h,           # (N, H) out, the final state
    floating[:, ::1] gates,       # (M, 4Hp) or (M, 3Hp) out, the tape; None in inference
    floating[:, ::1] states,      # (N + M, Hp) out, the tape: h0, then after each packed row; None in inference
    floating[::1] work,           # forward_work(...)
    bint reset_after, int recurrent_activation, int activation, int batched, int recurrent, int threads,
):
    """The `Call` of all steps of one layer in one direction; the arrays must live until `run_calls` has run it."""
    cdef Py_ssize_t N = h0.shape[0], T = x.shape[1], D = x.shape[2], H = h0.shape[1], Hp = padded(H, sizeof(floating))
    cdef Py_ssize_t size = sizeof(floating), i
    cdef Call call = Call()
    cdef Forward *j = &call.job.forward
    j.G = (4 if reset_after else 3) * Hp
    j.training = states is not None
    assert _assert_schedule(N, T, rows, offsets, times)
    assert x.shape[0] == N and (x.strides[2] == size or D == 1) and H >= 1 and D >= 1
    assert (x.strides[0] % size == 0 or N == 1) and (x.strides[1] % size == 0 or T <= 1)
    assert kernel.shape[0] == D * 3 * Hp and recurrent_kernel.shape[0] == H * 3 * Hp
    assert bias.shape[0] == 4 * Hp and h.shape[0] == N and h.shape[1] == H
    assert y is None or (y.shape[0] == N and y.shape[1] == T and y.shape[2] == H)
    assert y is None or y.strides[2] == size or H == 1
    j.s = schedule_of(N, T, rows, offsets, times)
    cdef Py_ssize_t M = offset(&j.s, j.s.K)
    assert not j.training or (gates.shape[0] == M and gates.shape[1] == j.G)
    assert not j.training or (states.shape[0] == N + M and states.shape[1] == Hp)
    assert work.shape[0] >= forward_work(N, M, D, H, reset_after, j.training, size, threads)
    call.finished = M == 0
    if M == 0:
        h[:, :] = h0
        if j.training:
            states[:, :] = 0
            for i in range(N):
                states[i, :H] = h0[batch_row(&j.s, i)]
        return call

    j.D, j.H, j.Hp = D, H, Hp
    j.reset_after, j.f, j.g = reset_after, recurrent_activation, activation
    j.single = floating is float
    j.W = matrix(&kernel[0], D, Hp, 3, batched)
    j.U = matrix(&recurrent_kernel[0], H, Hp, 3, recurrent)
    j.x, j.bias, j.h = &x[0, 0, 0], &bias[0], &h[0, 0]
    j.xn, j.xt = x.strides[0] // size, x.strides[1] // size
    if y is not None:
        j.y, j.yn, j.yt = &y[0, 0, 0], y.strides[0] // size, y.strides[1] // size
    if j.training:
        j.gates, j.states = &gates[0, 0], &states[0, 0]
    start_forward(j, &h0[0, 0], &work[0], worth(M * 3 * H * (D + H), threads))
    return call


cdef void start_forward(Forward *j, const floating *h0, floating *work, int threads) noexcept nogil:
    """Share out the work and the workspace of a job, and set its first states: h0 (N, H), NULL for zeros."""
    cdef Py_ssize_t N = j.s.N, H = j.H, Hp = j.Hp, i
    cdef floating *next_work = first_aligned(work)
    cdef floating *h_now
    j.way = share(N, j.D, H, Hp, sizeof(floating), threads)
    j.scratch_rows = j.way.range_rows if j.way.by_rows else max(limits.block_rows, N)
    j.reset = carve(&next_work, N * Hp)
    j.rows = carve(&next_work, j.way.threads * N * j.D)
    if not j.training:
        j.gates = carve(&next_work, j.way.threads * j.scratch_rows * j.G)
        j.states = carve(&next_work, 2 * N * Hp)
    h_now = <floating *>j.states
    memset(h_now, 0, N * Hp * sizeof(floating))
    if h0 != NULL:
        for i in range(N):
            memcpy(h_now + i * Hp, h0 + batch_row(&j.s, i) * H, H * sizeof(floating))
    emit(j, -1, 0, N, 0, Hp, h_now)
    j.k1 = 0


cdef bint advance_forward(Forward *j) noexcept nogil:
    """Run blocks of steps until it is time to look for signals; return whether all are done."""
    cdef Py_ssize_t row_work = 3 * j.H * (j.D + j.H), worked = 0
    cdef Py_ssize_t most = max(j.s.N, limits.signal_work // row_work) if j.way.by_rows else j.scratch_rows
    cdef cgru_team team
    j.team = &team
    while j.k1 < j.s.K and worked < limits.signal_work:
        j.k0, j.k1 = j.k1, block_end(&j.s, j.k1, most, not j.way.by_rows)
        cgru_clear(&team, j.way.threads)
        run(j.way.threads, gate_tasks(j), forward_task, j)
        worked += (offset(&j.s, j.k1) - offset(&j.s, j.k0)) * row_work
    return j.k1 == j.s.K


cdef inline int gate_tasks(const Forward *j) noexcept nogil:
    """Tasks of a block of steps: ranges of rows, or the members of a team."""
    if not j.way.by_rows:
        return j.way.threads
    return <int>((j.s.N + j.way.range_rows - 1) // j.way.range_rows)
