# Passes: forward and backward of one layer in one direction, from arrays to jobs, and the blocks of steps in which
# they run. Included by calls.pyx.

cdef enum:
    STEP = 2            # what a call does, for `choose_for`; forward is 0, backward 1
    BLOCK_NS = 1000000  # that a block may take longer than it should

cdef double SLOWEST = 0.4  # ns that a multiplication may take where nothing is known
cdef Py_ssize_t LONG_WORK = 16000000  # multiplications of a call beside which it costs nothing to begin to share it


cdef class Call:
    """What `forward` and `backward` prepare and `run_calls` runs. It points to arrays that its maker keeps alive."""
    cdef Backward job  # in a forward pass only its `forward`
    cdef bint backward, finished
    cdef const void *h0
    cdef const void *mask
    cdef void *work

    def __cinit__(self):
        memset(&self.job, 0, sizeof(self.job))
        self.backward = self.finished = False
        self.h0 = self.mask = NULL

    cdef bint by_blas(self) noexcept:
        return (self.job.route if self.backward else self.job.forward.U.route) == BLAS

    cdef void start(self, Choice choice) noexcept nogil:
        """Take the way that was chosen, before the first block."""
        cdef Forward *j = &self.job.forward
        cdef int threads = 1 if choice.way == ONCE else choice.threads
        j.slow = choice.slow
        if self.backward:
            j.way = sharing_of(choice.way, threads, j.s.N, j.H, j.Hp, itemsize_of(j), PACKED)
        else:
            start(j, self.h0, self.mask, self.work, choice.way, threads)


cdef Schedule schedule_of(
    Py_ssize_t N, Py_ssize_t T, const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times
) noexcept:
    cdef Schedule s
    s.N = N
    s.K = T if offsets is None else offsets.shape[0] - 1
    s.rows = s.offsets = s.times = NULL
    if rows is not None and N > 0:
        s.rows = &rows[0]
    if offsets is not None:
        s.offsets = &offsets[0]
    if times is not None and times.shape[0] > 0:
        s.times = &times[0]
    return s


def _assert_schedule(Py_ssize_t N, Py_ssize_t T, rows, offsets, times):
    """Debug builds: the schedule names existing rows and times, and its counts never grow."""
    assert rows is None or sorted(rows) == list(range(N))
    counts = [N] * T if offsets is None else [offsets[k + 1] - offsets[k] for k in range(len(offsets) - 1)]
    assert len(counts) <= T and all(N >= a >= b >= min(N, 1) for a, b in zip([N] + counts, counts))
    assert times is None or (len(times) == sum(counts) and all(0 <= t < T for t in times))
    return True


def forward(
    const floating[:, :, :] x,    # (N, T, D)
    const floating[:, ::1] h0,    # (N, H)
    const floating[::1] kernel,   # W, `pack`ed by the route
    const floating[::1] recurrent_kernel,  # U, `pack`ed by the route
    const floating[::1] bias,     # (4Hp,) r z n q
    const floating[::1] gain,     # (6Hp,) of the input r z n, of the state r z n; or None
    double zoneout,
    const unsigned char[:, ::1] taken,  # (M, H) 0 where a unit keeps its old state; or None: in expectation
    const floating[:, ::1] mask,  # (N, H) factors of the states as the products read them; or None
    const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times,  # schedule.pxd; or None
    floating[:, :, :] y,          # (N, T, H) out, or None; written where a row takes a step
    floating[:, ::1] h,           # (N, H) out, the final state
    floating[:, ::1] gates,       # (M, gates_row(...)) out, the tape; None in inference
    floating[:, ::1] states,      # (N + M, Hp) out, the tape: h0, then after each packed row; None in inference
    floating[::1] work,           # forward_work(...)
    bint reset_after, int recurrent_activation, int activation, int route, int threads,
):
    """The `Call` of all steps of one layer in one direction; the arrays must live until `run_calls` has run it."""
    cdef Py_ssize_t N = h0.shape[0], T = x.shape[1], D = x.shape[2], H = h0.shape[1], Hp = padded(H, sizeof(floating))
    cdef Py_ssize_t size = sizeof(floating), i
    cdef Call call = Call()
    cdef Forward *j = &call.job.forward
    j.G = row_of_gates(Hp, reset_after, gain is not None, size)
    j.training = states is not None
    assert _assert_schedule(N, T, rows, offsets, times)
    assert x.shape[0] == N and (x.strides[2] == size or D == 1) and H >= 1 and D >= 1
    assert (x.strides[0] % size == 0 or N == 1) and (x.strides[1] % size == 0 or T <= 1)
    assert kernel.nbytes == matrix_bytes(D, 3 * Hp, size, route)
    assert recurrent_kernel.nbytes == matrix_bytes(H, 3 * Hp, size, route)
    assert bias.shape[0] == 4 * Hp and h.shape[0] == N and h.shape[1] == H
    assert y is None or (y.shape[0] == N and y.shape[1] == T and y.shape[2] == H)
    assert y is None or y.strides[2] == size or H == 1
    j.s = schedule_of(N, T, rows, offsets, times)
    cdef Py_ssize_t M = offset(&j.s, j.s.K)
    assert not j.training or (gates.shape[0] == M and gates.shape[1] == j.G)
    assert not j.training or (states.shape[0] == N + M and states.shape[1] == Hp)
    assert work.shape[0] >= forward_work(
        N, M, D, H, reset_after, gain is not None, mask is not None, j.training, size, route, threads)
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
    j.single, j.limits = floating is float, &limits
    set_matrices(j, &kernel[0], &recurrent_kernel[0], route)
    j.x, j.bias, j.h = &x[0, 0, 0], &bias[0], &h[0, 0]
    take_options(j, gain, zoneout, taken)
    if mask is not None:
        assert mask.shape[0] == N and mask.shape[1] == H
        call.mask = &mask[0, 0]
    j.xn, j.xt = x.strides[0] // size, x.strides[1] // size
    if y is not None:
        j.y, j.yn, j.yt = &y[0, 0, 0], y.strides[0] // size, y.strides[1] // size
    if j.training:
        j.gates, j.states = &gates[0, 0], &states[0, 0]
    call.h0, call.work = &h0[0, 0], &work[0]
    return call


cdef inline void take_options(
    Forward *j, const floating[::1] gain, double zoneout, const unsigned char[:, ::1] taken
) noexcept:
    """What normalisation and zoneout need; the rest of the job is there."""
    j.zoneout, j.zones = zoneout, zoneout > 0
    if gain is not None:
        j.gain, j.products_at = &gain[0], (4 if j.reset_after else 3) * j.Hp
    if taken is not None:
        assert taken.shape[0] == offset(&j.s, j.s.K) and taken.shape[1] == j.H
        j.taken = &taken[0, 0]


cdef void start(
    Forward *j, const void *h0, const void *mask, void *work, int way, int threads
) noexcept nogil:
    """`start_forward` for the type of the job."""
    if j.single:
        start_forward(j, <const float *>h0, <const float *>mask, <float *>work, way, threads)
    else:
        start_forward(j, <const double *>h0, <const double *>mask, <double *>work, way, threads)


cdef void start_forward(
    Forward *j, const floating *h0, const floating *mask, floating *work, int way, int threads
) noexcept nogil:
    """Share out the work and the workspace of a job, and set its first states: h0 (N, H), NULL for zeros; `mask`
    (N, H), or NULL, are the factors of the states as the products read them."""
    cdef Py_ssize_t N = j.s.N, H = j.H, Hp = j.Hp, i
    cdef floating *next_work = first_aligned(work)
    cdef floating *h_now
    if floating is float:
        if widens(j.U.route, N, offset(&j.s, j.s.K), j.D, H, Hp):
            widen(&j.W, &next_work)
            widen(&j.U, &next_work)
    j.way = sharing_of(way, threads, N, H, Hp, sizeof(floating), j.U.route)
    if j.U.route == BLAS:
        j.way = sharing_by_blas(N, offset(&j.s, j.s.K))
    j.scratch_rows = scratch_rows_of(j.way, N, offset(&j.s, j.s.K))
    j.reset = carve(&next_work, N * Hp)
    j.rows = carve(&next_work, (j.scratch_rows if j.way.by_blas else j.way.threads * N) * j.D)
    if not j.training:
        j.gates = carve(&next_work, j.way.threads * j.scratch_rows * j.G)
        j.states = carve(&next_work, 2 * N * Hp)
    h_now = <floating *>j.states
    memset(h_now, 0, N * Hp * sizeof(floating))
    if h0 != NULL:
        for i in range(N):
            memcpy(h_now + i * Hp, h0 + batch_row(&j.s, i) * H, H * sizeof(floating))
    emit(j, -1, 0, N, 0, Hp, h_now)
    if mask != NULL:
        j.mask, j.read = carve(&next_work, N * Hp), carve(&next_work, 2 * N * Hp)
        sort_mask(j, mask, <floating *>j.mask)
        for i in range(N * Hp):
            (<floating *>j.read)[i] = h_now[i] * (<floating *>j.mask)[i]
    j.k1 = 0


cdef inline void sort_mask(const Forward *j, const floating *mask, floating *out) noexcept nogil:
    """out (N, Hp): the rows of mask (N, H) as the schedule has them."""
    cdef Py_ssize_t i
    memset(out, 0, j.s.N * j.Hp * sizeof(floating))
    for i in range(j.s.N):
        memcpy(out + i * j.Hp, mask + batch_row(&j.s, i) * j.H, j.H * sizeof(floating))


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


cdef inline bint in_panels(Py_ssize_t rows, Py_ssize_t itemsize, int route) noexcept nogil:
    """Whether a gradient of so many rows is kept in panels while backward adds to it. Row-major, a panel of it is as
    many cache lines as rows, each in a page of its own (of a product with 512 rows 5 to 8 % of the time, with 1024 15
    %); with few rows the narrow panels at the ends of the gates would cost more."""
    return route != BLAS and rows * itemsize >= build.far_rows


def gradient_in_panels(Py_ssize_t rows, Py_ssize_t itemsize, int route):
    """Whether `backward` adds to a gradient of so many rows in panels; see `pack`."""
    return bool(in_panels(rows, itemsize, route))


def backward(
    const floating[:, :, :] dy,   # (N, T, H) or None; read where a row takes a step
    const floating[:, ::1] dh,    # (N, H) gradient of the final state, or None
    const floating[:, :, :] x,    # (N, T, D)
    const floating[::1] kernel,   # W^T, `pack`ed by the route: (3Hp, D), rows n r z
    const floating[::1] recurrent_kernel,  # U^T, `pack`ed by the route: (3Hp, H), rows r z n
    const floating[::1] gain, double zoneout,  # see `forward`, as the two below
    const unsigned char[:, ::1] taken, const floating[:, ::1] mask,
    const floating[:, ::1] gates, const floating[:, ::1] states,  # the tape, see `forward`
    const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times,  # schedule.pxd; or None
    floating[:, :, :] dx,         # (N, T, D) out, or None; written where a row takes a step
    floating[:, ::1] dh0,         # (N, H) out
    floating[:, ::1] dkernel,     # (D, 3Hp) n r z, see `gradient_in_panels`; out, += as the two below; or all None
    floating[:, ::1] drecurrent_kernel,  # (H, 3Hp) r z n, the same
    floating[::1] dbias,          # (4Hp,) n r z q, or (3Hp,) n r z; out
    floating[::1] dgain,          # (6Hp,) as gain, or None; out, +=
    floating[::1] work,           # backward_work(...)
    bint reset_after, int recurrent_activation, int activation, int route, int threads,
):
    """The `Call` of the gradients of one layer in one direction; the tape is only read. The arrays must live until
    `run_calls` has run it."""
    cdef Py_ssize_t N = dh0.shape[0], T = x.shape[1], D = x.shape[2], H = dh0.shape[1], Hp = padded(H, sizeof(floating))
    cdef Py_ssize_t size = sizeof(floating), i
    cdef Call call = Call()
    cdef Backward *j = &call.job
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t B = (4 if reset_after else 3) * Hp
    call.backward = True
    forward.G = row_of_gates(Hp, reset_after, gain is not None, size)
    j.dG = B if gain is None else B + 6 * Hp
    j.input_at, j.state_at, j.candidate_at = 0, Hp, 0
    if gain is not None:
        j.input_at, j.state_at, j.candidate_at = B, B + 3 * Hp, B + 5 * Hp
    j.Dp = padded(D, size)
    assert _assert_schedule(N, T, rows, offsets, times)
    assert x.shape[0] == N and (x.strides[2] == size or D == 1) and H >= 1 and D >= 1
    assert dy is None or (dy.shape[0] == N and dy.shape[1] == T and dy.shape[2] == H)
    assert dy is None or dy.strides[2] == size or H == 1
    assert dx is None or (dx.shape[0] == N and dx.shape[1] == T and dx.shape[2] == D)
    assert dx is None or dx.strides[2] == size or D == 1
    assert dh is None or (dh.shape[0] == N and dh.shape[1] == H)
    assert kernel.shape[0] == 3 * Hp * j.Dp and recurrent_kernel.shape[0] == 3 * Hp * Hp
    assert dkernel is None or (dkernel.shape[0] == D and dkernel.shape[1] == 3 * Hp and dbias.shape[0] == B)
    assert dkernel is None or (drecurrent_kernel.shape[0] == H and drecurrent_kernel.shape[1] == 3 * Hp)
    forward.s = schedule_of(N, T, rows, offsets, times)
    cdef Py_ssize_t M = offset(&forward.s, forward.s.K)
    assert gates.shape[0] == M and gates.shape[1] == forward.G and states.shape[0] == N + M and states.shape[1] == Hp
    assert work.shape[0] >= backward_work(
        N, M, D, H, reset_after, gain is not None, mask is not None, zoneout > 0, size, route, threads)
    call.finished = M == 0
    if M == 0:
        if dh is None:
            dh0[:, :] = 0
        else:
            dh0[:, :] = dh
        return call

    cdef floating *next_work = first_aligned(&work[0])
    cdef floating *dh_now = carve(&next_work, N * Hp)
    forward.D, forward.H, forward.Hp = D, H, Hp
    forward.reset_after, forward.training, forward.single = reset_after, True, floating is float
    forward.limits = &limits
    forward.x, forward.xn, forward.xt = &x[0, 0, 0], x.strides[0] // size, x.strides[1] // size
    forward.gates, forward.states = <void *>&gates[0, 0], <void *>&states[0, 0]
    take_options(forward, gain, zoneout, taken)
    j.most = backward_rows(N, M, route)
    j.dh = dh_now
    j.ds = carve(&next_work, N * Hp)
    j.dg = carve(&next_work, j.most * j.dG)
    j.x_block = carve(&next_work, j.most * D)
    j.h_block = carve(&next_work, j.most * Hp)
    j.reset_block = carve(&next_work, j.most * Hp)
    j.dx_block = carve(&next_work, j.most * j.Dp)
    j.bias_block = carve(&next_work, B)
    j.panels = carve(&next_work, threads * j.most * panel_width(size))
    j.x_turned = carve(&next_work, j.most * D)
    j.h_turned = carve(&next_work, j.most * H)
    if not reset_after:
        j.reset_turned = carve(&next_work, j.most * H)
    if dgain is not None:
        assert dgain.shape[0] == 6 * Hp
        j.dgain, j.gain_block = &dgain[0], carve(&next_work, 6 * Hp)
    if mask is not None:
        assert mask.shape[0] == N and mask.shape[1] == H
        forward.mask, forward.read = carve(&next_work, N * Hp), carve(&next_work, N * Hp)
        j.dread = carve(&next_work, N * Hp)
        sort_mask(forward, &mask[0, 0], <floating *>forward.mask)
    if zoneout > 0:
        j.kept = carve(&next_work, N * Hp)
    j.W_back = matrix(&kernel[0], 3 * Hp, j.Dp, 1, route)
    j.U_back = matrix(&recurrent_kernel[0], 3 * Hp, Hp, 1, route)
    j.route = <Route>route
    j.kernel_in_panels, j.recurrent_in_panels = in_panels(D, size, route), in_panels(H, size, route)
    j.dh0 = &dh0[0, 0]
    if dkernel is not None:
        j.dkernel, j.drecurrent_kernel, j.dbias = &dkernel[0, 0], &drecurrent_kernel[0, 0], &dbias[0]
    if dy is not None:
        j.dy, j.dyn, j.dyt = &dy[0, 0, 0], dy.strides[0] // size, dy.strides[1] // size
    if dx is not None:
        j.dx, j.dxn, j.dxt = &dx[0, 0, 0], dx.strides[0] // size, dx.strides[1] // size
    slope_terms(recurrent_activation, <double *>j.f64)
    slope_terms(activation, <double *>j.g64)
    slope_terms(recurrent_activation, <float *>j.f32)
    slope_terms(activation, <float *>j.g32)
    memset(dh_now, 0, N * Hp * size)
    if dh is not None:
        for i in range(N):
            memcpy(dh_now + i * Hp, &dh[batch_row(&forward.s, i), 0], H * size)
    forward.k0 = forward.s.K
    return call


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
