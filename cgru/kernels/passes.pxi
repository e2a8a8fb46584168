# Passes: forward and backward of one layer in one direction, from arrays to jobs, which blocks.pxi runs. Included by
# calls.pyx.

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


cdef int take_schedule(Schedule *s, Py_ssize_t N, Py_ssize_t T, rows, offsets, times) except -1:
    """The schedule of the arrays that schedule.pxd names, each of which may be None."""
    cdef View order, ends, places
    see(&order, rows, 1, INDEX, WHOLE)
    see(&ends, offsets, 1, INDEX, WHOLE)
    see(&places, times, 1, INDEX, WHOLE)
    s.N, s.K = N, T if offsets is None else ends.shape[0] - 1
    s.rows = <const Py_ssize_t *>order.data if N > 0 else NULL
    s.offsets = <const Py_ssize_t *>ends.data
    s.times = <const Py_ssize_t *>places.data if places.shape[0] > 0 else NULL
    assert assert_schedule(s, T, &order, &places)
    return 0


cdef bint assert_schedule(const Schedule *s, Py_ssize_t T, const View *order, const View *places) except False:
    """Debug builds: the schedule names existing rows and times, and its counts never grow."""
    cdef Py_ssize_t k, i
    assert s.rows == NULL or sorted([s.rows[i] for i in range(order.shape[0])]) == list(range(s.N))
    assert 0 <= s.K <= T
    for k in range(s.K):
        assert min(s.N, 1) <= count(s, k) <= (count(s, k - 1) if k > 0 else s.N)
    assert places.data == NULL or places.shape[0] == offset(s, s.K)
    for i in range(places.shape[0]):
        assert 0 <= s.times[i] < T
    return True


def forward(
    x,                 # (N, T, D)
    h0,                # (N, H)
    kernel,            # W, `pack`ed by the route, flat
    recurrent_kernel,  # U, `pack`ed by the route, flat
    bias,              # (4Hp,) r z n q
    gain,              # (6Hp,) of the input r z n, of the state r z n; or None
    double zoneout,
    taken,             # (M, H) uint8, 0 where a unit keeps its old state; or None: in expectation
    mask,              # (N, H) factors of the states as the products read them; or None
    rows, offsets, times,  # schedule.pxd; or None
    y,                 # (N, T, H) out, or None; written where a row takes a step
    h,                 # (N, H) out, the final state
    gates,             # (M, gates_row(...)) out, the tape; None in inference
    states,            # (N + M, Hp) out, the tape: h0, then after each packed row; None in inference
    work,              # flat, forward_work(...)
    bint reset_after, int recurrent_activation, int activation, int route, int threads,
):
    """The `Call` of all steps of one layer in one direction; the arrays must live until `run_calls` has run it."""
    cdef View inputs, first, W, U, biases, factors, outputs, last, tape, after, space
    cdef Call call = Call()
    cdef Forward *j = &call.job.forward
    cdef Py_ssize_t N, T, D, H, Hp, M, size, i
    cdef int code
    see(&inputs, x, 3, FLOATING, STRIDED)
    code, size = inputs.code, size_of(&inputs)
    see(&first, h0, 2, code, WHOLE)
    see(&W, kernel, 1, code, WHOLE)
    see(&U, recurrent_kernel, 1, code, WHOLE)
    see(&biases, bias, 1, code, WHOLE)
    see(&factors, mask, 2, code, WHOLE)
    see(&outputs, y, 3, code, STRIDED | WRITTEN)
    see(&last, h, 2, code, WHOLE | WRITTEN)
    see(&tape, gates, 2, code, WHOLE | WRITTEN)
    see(&after, states, 2, code, WHOLE | WRITTEN)
    see(&space, work, 1, code, WHOLE | WRITTEN)
    N, T, D, H = first.shape[0], inputs.shape[1], inputs.shape[2], first.shape[1]
    Hp = padded(H, size)
    j.G = row_of_gates(Hp, reset_after, gain is not None, size)
    j.training = states is not None
    assert inputs.shape[0] == N and (inputs.strides[2] == 1 or D == 1) and H >= 1 and D >= 1
    assert W.shape[0] * size == matrix_bytes(D, 3 * Hp, size, route)
    assert U.shape[0] * size == matrix_bytes(H, 3 * Hp, size, route)
    assert biases.shape[0] == 4 * Hp and last.shape[0] == N and last.shape[1] == H
    assert y is None or (outputs.shape[0] == N and outputs.shape[1] == T and outputs.shape[2] == H)
    assert y is None or outputs.strides[2] == 1 or H == 1
    take_schedule(&j.s, N, T, rows, offsets, times)
    M = offset(&j.s, j.s.K)
    assert not j.training or (tape.shape[0] == M and tape.shape[1] == j.G)
    assert not j.training or (after.shape[0] == N + M and after.shape[1] == Hp)
    assert space.shape[0] >= forward_work(
        N, M, D, H, reset_after, gain is not None, mask is not None, j.training, size, route, threads)
    call.finished = M == 0
    if M == 0:
        memcpy(last.data, first.data, N * H * size)
        if j.training:
            memset(after.data, 0, N * Hp * size)
            for i in range(N):
                memcpy(after.data + i * Hp * size, first.data + batch_row(&j.s, i) * H * size, H * size)
        return call

    j.D, j.H, j.Hp = D, H, Hp
    j.reset_after, j.f, j.g = reset_after, recurrent_activation, activation
    j.single, j.limits = code == SINGLE, &limits
    set_matrices(j, W.data, U.data, route)
    j.x, j.bias, j.h = inputs.data, biases.data, last.data
    take_options(j, gain, zoneout, taken)
    assert mask is None or (factors.shape[0] == N and factors.shape[1] == H)
    j.xn, j.xt = inputs.strides[0], inputs.strides[1]
    j.y, j.yn, j.yt = outputs.data, outputs.strides[0], outputs.strides[1]
    j.gates, j.states = tape.data, after.data
    call.h0, call.mask, call.work = first.data, factors.data, space.data
    return call


cdef int take_options(Forward *j, gain, double zoneout, taken) except -1:
    """What normalisation and zoneout need; the rest of the job is there."""
    cdef View gains, chosen
    see(&gains, gain, 1, SINGLE if j.single else DOUBLE, WHOLE)
    see(&chosen, taken, 2, BYTES, WHOLE)
    j.zoneout, j.zones = zoneout, zoneout > 0
    j.gain, j.taken = gains.data, <const unsigned char *>chosen.data
    if gain is not None:
        j.products_at = (4 if j.reset_after else 3) * j.Hp
    assert taken is None or (chosen.shape[0] == offset(&j.s, j.s.K) and chosen.shape[1] == j.H)
    return 0


cdef void start(
    Forward *j, const void *h0, const void *mask, void *work, int way, int threads
) noexcept nogil:
    """Share out the work and the workspace of a job, and set its first states: h0 (N, H), NULL for zeros; `mask`
    (N, H), or NULL, are the factors of the states as the products read them."""
    cdef Py_ssize_t N = j.s.N, H = j.H, Hp = j.Hp, i, size = itemsize_of(j)
    cdef char *next_work = first_aligned(work)
    cdef bint team = threads > 1 and not is_rows(way)
    if j.single and widens(j.U.route, N, offset(&j.s, j.s.K), j.D, H, Hp, team):
        widen(&j.W, &next_work)
        widen(&j.U, &next_work)
    j.way = sharing_of(way, threads, N, H, Hp, size, j.U.route)
    if j.U.route == BLAS:
        j.way = sharing_by_blas(N, offset(&j.s, j.s.K))
    j.scratch_rows = scratch_rows_of(j.way, N, offset(&j.s, j.s.K))
    j.reset = carve(&next_work, N * Hp, size)
    j.rows = carve(&next_work, (j.scratch_rows if j.way.by_blas else j.way.threads * N) * j.D, size)
    if not j.training:
        j.gates = carve(&next_work, j.way.threads * j.scratch_rows * j.G, size)
        j.states = carve(&next_work, 2 * N * Hp, size)
    memset(j.states, 0, N * Hp * size)
    if h0 != NULL:
        for i in range(N):
            memcpy(<char *>j.states + i * Hp * size, <const char *>h0 + batch_row(&j.s, i) * H * size, H * size)
    emit(j, -1, 0, N, 0, Hp, j.states)
    if mask != NULL:
        j.mask, j.read = carve(&next_work, N * Hp, size), carve(&next_work, 2 * N * Hp, size)
        sort_mask(j, mask)
        if j.single:
            scale(N * Hp, <const float *>j.states, <const float *>j.mask, <float *>j.read)
        else:
            scale(N * Hp, <const double *>j.states, <const double *>j.mask, <double *>j.read)
    j.k1 = 0


cdef inline void sort_mask(const Forward *j, const void *mask) noexcept nogil:
    """The job's mask (N, Hp): the rows of `mask` (N, H) as the schedule has them."""
    cdef Py_ssize_t i, size = itemsize_of(j), row = j.H * size
    memset(j.mask, 0, j.s.N * j.Hp * size)
    for i in range(j.s.N):
        memcpy(<char *>j.mask + i * j.Hp * size, <const char *>mask + batch_row(&j.s, i) * row, row)


cdef inline void scale(Py_ssize_t n, const floating *values, const floating *factors, floating *out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = values[i] * factors[i]


cdef inline bint in_panels(Py_ssize_t rows, Py_ssize_t itemsize, int route) noexcept nogil:
    """Whether a gradient of so many rows is kept in panels while backward adds to it. Row-major, a panel of it is as
    many cache lines as rows, each in a page of its own (of a product with 512 rows 5 to 8 % of the time, with 1024 15
    %); with few rows the narrow panels at the ends of the gates would cost more."""
    return route != BLAS and rows * itemsize >= build.far_rows


def gradient_in_panels(Py_ssize_t rows, Py_ssize_t itemsize, int route):
    """Whether `backward` adds to a gradient of so many rows in panels; see `pack`."""
    return bool(in_panels(rows, itemsize, route))


def backward(
    dy,                # (N, T, H) or None; read where a row takes a step
    dh,                # (N, H) gradient of the final state, or None
    x,                 # (N, T, D)
    kernel,            # W^T, `pack`ed by the route: (3Hp, D), rows n r z; flat
    recurrent_kernel,  # U^T, `pack`ed by the route: (3Hp, H), rows r z n; flat
    gain, double zoneout, taken, mask,  # see `forward`
    gates, states,     # the tape, see `forward`
    rows, offsets, times,  # schedule.pxd; or None
    dx,                # (N, T, D) out, or None; written where a row takes a step
    dh0,               # (N, H) out
    dkernel,           # (D, 3Hp) n r z, see `gradient_in_panels`; out, += as the two below; or all None
    drecurrent_kernel,  # (H, 3Hp) r z n, the same
    dbias,             # (4Hp,) n r z q, or (3Hp,) n r z; out
    dgain,             # (6Hp,) as gain, or None; out, +=
    work,              # flat, backward_work(...)
    bint reset_after, int recurrent_activation, int activation, int route, int threads,
):
    """The `Call` of the gradients of one layer in one direction; the tape is only read. The arrays must live until
    `run_calls` has run it."""
    cdef View d_outputs, d_last, inputs, W, U, factors, tape, after, d_inputs, d_first, dW, dU, d_biases, d_gains, space
    cdef Call call = Call()
    cdef Backward *j = &call.job
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t N, T, D, H, Hp, B, M, size, i
    cdef int code
    cdef char *next_work
    see(&inputs, x, 3, FLOATING, STRIDED)
    code, size = inputs.code, size_of(&inputs)
    see(&d_outputs, dy, 3, code, STRIDED)
    see(&d_last, dh, 2, code, WHOLE)
    see(&W, kernel, 1, code, WHOLE)
    see(&U, recurrent_kernel, 1, code, WHOLE)
    see(&factors, mask, 2, code, WHOLE)
    see(&tape, gates, 2, code, WHOLE)
    see(&after, states, 2, code, WHOLE)
    see(&d_inputs, dx, 3, code, STRIDED | WRITTEN)
    see(&d_first, dh0, 2, code, WHOLE | WRITTEN)
    see(&dW, dkernel, 2, code, WHOLE | WRITTEN)
    see(&dU, drecurrent_kernel, 2, code, WHOLE | WRITTEN)
    see(&d_biases, dbias, 1, code, WHOLE | WRITTEN)
    see(&d_gains, dgain, 1, code, WHOLE | WRITTEN)
    see(&space, work, 1, code, WHOLE | WRITTEN)
    N, T, D, H = d_first.shape[0], inputs.shape[1], inputs.shape[2], d_first.shape[1]
    Hp = padded(H, size)
    B = (4 if reset_after else 3) * Hp
    call.backward = True
    forward.G = row_of_gates(Hp, reset_after, gain is not None, size)
    j.dG = B if gain is None else B + 6 * Hp
    j.input_at, j.state_at, j.candidate_at = 0, Hp, 0
    if gain is not None:
        j.input_at, j.state_at, j.candidate_at = B, B + 3 * Hp, B + 5 * Hp
    j.Dp = padded(D, size)
    assert inputs.shape[0] == N and (inputs.strides[2] == 1 or D == 1) and H >= 1 and D >= 1
    assert dy is None or (d_outputs.shape[0] == N and d_outputs.shape[1] == T and d_outputs.shape[2] == H)
    assert dy is None or d_outputs.strides[2] == 1 or H == 1
    assert dx is None or (d_inputs.shape[0] == N and d_inputs.shape[1] == T and d_inputs.shape[2] == D)
    assert dx is None or d_inputs.strides[2] == 1 or D == 1
    assert dh is None or (d_last.shape[0] == N and d_last.shape[1] == H)
    assert W.shape[0] == 3 * Hp * j.Dp and U.shape[0] == 3 * Hp * Hp
    assert dkernel is None or (dW.shape[0] == D and dW.shape[1] == 3 * Hp and d_biases.shape[0] == B)
    assert dkernel is None or (dU.shape[0] == H and dU.shape[1] == 3 * Hp)
    take_schedule(&forward.s, N, T, rows, offsets, times)
    M = offset(&forward.s, forward.s.K)
    assert tape.shape[0] == M and tape.shape[1] == forward.G and after.shape[0] == N + M and after.shape[1] == Hp
    assert space.shape[0] >= backward_work(
        N, M, D, H, reset_after, gain is not None, mask is not None, zoneout > 0, size, route, threads)
    call.finished = M == 0
    if M == 0:
        if dh is None:
            memset(d_first.data, 0, N * H * size)
        else:
            memcpy(d_first.data, d_last.data, N * H * size)
        return call

    next_work = first_aligned(space.data)
    j.dh = carve(&next_work, N * Hp, size)
    forward.D, forward.H, forward.Hp = D, H, Hp
    forward.reset_after, forward.training, forward.single = reset_after, True, code == SINGLE
    forward.limits = &limits
    forward.x, forward.xn, forward.xt = inputs.data, inputs.strides[0], inputs.strides[1]
    forward.gates, forward.states = tape.data, after.data
    take_options(forward, gain, zoneout, taken)
    j.most = backward_rows(N, M, route)
    j.ds = carve(&next_work, N * Hp, size)
    j.dg = carve(&next_work, j.most * j.dG, size)
    j.x_block = carve(&next_work, j.most * D, size)
    j.h_block = carve(&next_work, j.most * Hp, size)
    j.reset_block = carve(&next_work, j.most * Hp, size)
    j.dx_block = carve(&next_work, j.most * j.Dp, size)
    j.bias_block = carve(&next_work, B, size)
    j.panels = carve(&next_work, threads * j.most * panel_width(size), size)
    j.x_turned = carve(&next_work, j.most * D, size)
    j.h_turned = carve(&next_work, j.most * H, size)
    if not reset_after:
        j.reset_turned = carve(&next_work, j.most * H, size)
    if dgain is not None:
        assert d_gains.shape[0] == 6 * Hp
        j.dgain, j.gain_block = d_gains.data, carve(&next_work, 6 * Hp, size)
    if mask is not None:
        assert factors.shape[0] == N and factors.shape[1] == H
        forward.mask, forward.read = carve(&next_work, N * Hp, size), carve(&next_work, N * Hp, size)
        j.dread = carve(&next_work, N * Hp, size)
        sort_mask(forward, factors.data)
    if zoneout > 0:
        j.kept = carve(&next_work, N * Hp, size)
    j.W_back = matrix(W.data, 3 * Hp, j.Dp, 1, route)
    j.U_back = matrix(U.data, 3 * Hp, Hp, 1, route)
    j.route = <Route>route
    j.kernel_in_panels, j.recurrent_in_panels = in_panels(D, size, route), in_panels(H, size, route)
    j.dh0 = d_first.data
    if dkernel is not None:
        j.dkernel, j.drecurrent_kernel, j.dbias = dW.data, dU.data, d_biases.data
    j.dy, j.dyn, j.dyt = d_outputs.data, d_outputs.strides[0], d_outputs.strides[1]
    j.dx, j.dxn, j.dxt = d_inputs.data, d_inputs.strides[0], d_inputs.strides[1]
    slope_terms(recurrent_activation, <double *>j.f64)
    slope_terms(activation, <double *>j.g64)
    slope_terms(recurrent_activation, <float *>j.f32)
    slope_terms(activation, <float *>j.g32)
    memset(j.dh, 0, N * Hp * size)
    if dh is not None:
        for i in range(N):
            memcpy(<char *>j.dh + i * Hp * size, d_last.data + batch_row(&forward.s, i) * H * size, H * size)
    forward.k0 = forward.s.K
    return call
