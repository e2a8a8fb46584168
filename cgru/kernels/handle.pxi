# Calls of microseconds: a handle with everything prepared. Included by calls.pyx.

# Bytes of workspace that it keeps between calls.
cdef Py_ssize_t KEPT_BYTES = 1 << 18


cdef object empty = np.empty, ndarray = np.ndarray


cdef class Handle:
    """Stacked cells with everything prepared, for calls that last no longer than their own preparation would.

    `step` is one time step of all cells; `sequence` is inference of one cell. Where they are not given just what they
    want, or another backend is in use, nothing is done, and None or False comes back; the general way then says what is
    wrong or converts it.

    Parameters
    ----------
    cells : list of recurrence.Weights
        Of one dtype, each reading the state of the one before.
    learned : ndarray of shape (layers, H), optional
        The initial states, C-contiguous and of the cells' dtype; zero without it.
    """
    cdef list cells      # keeps the arrays below alive
    cdef object learned, dtype
    cdef const char *start  # of `learned`, or NULL
    cdef Forward *jobs
    cdef int layers, route
    cdef bint single
    cdef object work  # for one call at a time: under the GIL, or `busy`
    cdef View space   # of it
    cdef bint busy

    def __cinit__(self, cells, learned=None):
        self.jobs = <Forward *>PyMem_Calloc(len(cells), sizeof(Forward))
        if self.jobs == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.jobs)

    def __init__(self, cells, learned=None):
        cdef Py_ssize_t i
        cdef Forward *j
        cdef const void *W
        cdef const void *U
        self.cells = list(cells)
        self.learned = learned
        if learned is not None:
            self.start = <const char *><size_t>learned.ctypes.data
        self.layers = <int>len(cells)
        self.route = cells[0].route
        self.dtype = cells[0].dtype
        self.single = self.dtype == np.float32
        memset(&self.space, 0, sizeof(self.space))
        for i in range(self.layers):
            weights = cells[i]
            j = &self.jobs[i]
            j.D, j.H, j.Hp = weights.D, weights.H, weights.Hp
            j.reset_after, j.f, j.g = weights.reset_after, weights.recurrent_activation, weights.activation
            j.single, j.limits = self.single, &limits
            j.zoneout, j.zones = weights.zoneout, weights.zoneout > 0
            j.G = row_of_gates(j.Hp, j.reset_after, weights.gain is not None, 4 if self.single else 8)
            if weights.gain is not None:
                j.gain, j.products_at = address(weights.gain), (4 if j.reset_after else 3) * j.Hp
            W = <const void *><size_t>weights.kernel.ctypes.data
            U = <const void *><size_t>weights.recurrent_kernel.ctypes.data
            j.bias = <const void *><size_t>weights.bias.ctypes.data
            set_matrices(j, W, U, weights.route)

    def step(self, x, h, out, int threads):
        """Return `out` with the state after `h` and `x` in it: C-contiguous, aligned arrays of the cells' dtype, (N, D)
        and twice the state's shape, (N, H) or (layers, N, H); they may overlap.

        `h` None is the initial state, `out` None a new array.
        """
        cdef Py_buffer[3] b
        cdef int i
        if self.route < HALF and self.route != backend():
            return None
        if type(x) is not ndarray or (h is not None and type(h) is not ndarray):  # a masked array is one, too
            return None
        memset(b, 0, sizeof(b))  # what was not taken is released as well
        try:
            if not self.take(&b[0], x, PyBUF_C_CONTIGUOUS) or not self.fits_input(&b[0]):
                return None
            if h is not None:
                if not self.take(&b[1], h, PyBUF_C_CONTIGUOUS) or not self.fits_state(&b[1], b[0].shape[0]):
                    return None
            if out is None:
                out = self.new_state(b[0].shape[0])
                PyObject_GetBuffer(out, &b[2], PyBUF_WRITABLE)
            elif not self.take(&b[2], out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE):
                return None
            elif not self.fits_state(&b[2], b[0].shape[0]):
                return None
            self.run_step(<const char *>b[0].buf, <const char *>b[1].buf, <char *>b[2].buf, b[0].shape[0], threads)
            return out
        finally:
            for i in range(3):
                PyBuffer_Release(&b[i])

    def step_at(self, size_t x, size_t h, size_t out, Py_ssize_t N, int threads):
        """Do the same for N rows at the addresses of arrays that the caller has checked, h zero for the initial state;
        False if one is not aligned. For owners of memory that offer no buffers."""
        if (x | h | out) % (4 if self.single else 8) != 0:
            return False
        self.run_step(<const char *>x, <const char *>h, <char *>out, N, threads)
        return True

    def sequence(self, x, y, h, bint started, int threads):
        """Write the outputs for `x` (N, T, D) to `y` (N, T, H), which may be None, and the final state to `h` (N, H),
        which holds the first one if `started`, else that is zero: arrays of the cells' dtype, contiguous in their
        features, `h` C-contiguous."""
        cdef Py_buffer[3] b
        cdef int i
        if self.route < HALF and self.route != backend():
            return False
        memset(b, 0, sizeof(b))
        try:
            if not self.take(&b[0], x, PyBUF_STRIDES) or not self.take(&b[2], h, PyBUF_STRIDES | PyBUF_WRITABLE):
                return False
            if y is not None and not self.take(&b[1], y, PyBUF_STRIDES | PyBUF_WRITABLE):
                return False
            if not self.fits_sequence(b, y is None):
                return False
            self.run_sequence(b, y is None, started, threads)
            return True
        finally:
            for i in range(3):
                PyBuffer_Release(&b[i])

    cdef bint take(self, Py_buffer *b, array, int flags) except -1:
        """Take the buffer of `array` and say whether it could be had, is of the cells' dtype and aligned."""
        cdef char code = b"f" if self.single else b"d"
        try:
            PyObject_GetBuffer(array, b, flags | PyBUF_FORMAT)
        except (BufferError, TypeError, ValueError):
            return False
        if b.format == NULL or b.format[0] != code or b.format[1] != 0:
            return False
        return <size_t>b.buf % (4 if self.single else 8) == 0

    cdef bint fits_input(self, const Py_buffer *b) noexcept:
        return b.ndim == 2 and b.shape[1] == self.jobs[0].D

    cdef bint fits_state(self, const Py_buffer *b, Py_ssize_t N) noexcept:
        cdef int first = 0 if self.layers == 1 else 1  # axes of the state before (N, H)
        if b.ndim != first + 2 or (first and b.shape[0] != self.layers):
            return False
        return b.shape[first] == N and b.shape[first + 1] == self.jobs[0].H

    cdef object new_state(self, Py_ssize_t N):
        if self.layers == 1:
            return empty((N, self.jobs[0].H), self.dtype)
        return empty((self.layers, N, self.jobs[0].H), self.dtype)

    cdef bint fits_sequence(self, Py_buffer *b, bint no_y) noexcept:
        cdef Py_ssize_t N, T, size = 4 if self.single else 8, H = self.jobs[0].H
        cdef int i
        if self.layers != 1 or b[0].ndim != 3 or b[0].shape[2] != self.jobs[0].D:
            return False
        N, T = b[0].shape[0], b[0].shape[1]
        if N == 0 or T == 0 or b[2].ndim != 2 or b[2].shape[0] != N or b[2].shape[1] != H:
            return False
        if b[2].strides[1] != size or b[2].strides[0] != H * size:
            return False
        if not no_y and (b[1].ndim != 3 or b[1].shape[0] != N or b[1].shape[1] != T or b[1].shape[2] != H):
            return False
        for i in range(1 if no_y else 2):
            if b[i].strides[2] != size or b[i].strides[0] % size != 0 or b[i].strides[1] % size != 0:
                return False
        return True

    cdef object workspace(self, Py_ssize_t needed, View *space):
        """Bytes for one call: those kept, unless another thread's call has them or many are needed."""
        if self.busy or needed > KEPT_BYTES:
            memory = empty(needed, np.uint8)
            see(space, memory, 1, BYTES, WHOLE | WRITTEN)
            return memory
        if self.space.shape[0] < needed:
            memory = empty(needed, np.uint8)
            see(&self.space, memory, 1, BYTES, WHOLE | WRITTEN)
            self.work = memory
        space[0] = self.space
        return self.work

    cdef int most(self, int threads) noexcept:
        """Of the threads, those that may work here: BLAS has its own."""
        return 1 if self.jobs[0].U.route == BLAS else threads

    cdef Choice choose_step(self, Py_ssize_t N, int threads) noexcept:
        """How to share a step of all layers, which begins here."""
        cdef Schedule s
        s.N, s.K, s.offsets = N, 1, NULL
        return choose_for(&self.jobs[0], &s, STEP, self.layers, self.most(threads))

    cdef int run_step(self, const char *x, const char *h, char *out, Py_ssize_t N, int threads) except -1:
        cdef Py_ssize_t size = 4 if self.single else 8, i, work = 0, state = N * self.jobs[0].H * size
        cdef Py_ssize_t input = N * self.jobs[0].D * size, all_states = self.layers * state, copied = 0
        cdef Choice choice
        if N == 0:
            return 0
        for i in range(self.layers):
            work += 3 * self.jobs[i].H * (self.jobs[i].D + self.jobs[i].H) * N
        # For all threads, though this call may use fewer: the next one must not need more.
        cdef Py_ssize_t needed = size * (
            ALIGN + aligned((N + threads) * self.jobs[0].G) + 3 * aligned(N * self.jobs[0].Hp))
        # A thread may write its part of `out` while another still reads x, and a layer its state before the next one
        # reads its own; a cell brings the state that it reads to safety itself.
        cdef bint copy_x = overlap(x, input, out, all_states)
        cdef bint copy_h = self.layers > 1 and h != NULL and h != out and overlap(h, all_states, out, all_states)
        if copy_x:
            copied += input
        if copy_h:
            copied += all_states
        cdef View space
        memory = self.workspace(needed + copied, &space)
        cdef char *start = space.data
        cdef bint mine = not self.busy
        if copy_x:
            x = <const char *>memcpy(start + needed, x, input)
        if copy_h:
            h = <const char *>memcpy(start + needed + copied - all_states, h, all_states)
        choice = self.choose_step(N, threads)
        if work < limits.gil_work:
            self.all_cells(x, h, out, N, start, &choice)
            finish(&choice, N, True)
            return 0
        self.busy = True
        with nogil:
            self.all_cells(x, h, out, N, start, &choice)
            finish(&choice, N, True)
        if mine:
            self.busy = False
        return 0

    cdef int run_sequence(self, Py_buffer *b, bint no_y, bint started, int threads) except -1:
        cdef Forward j = self.jobs[0]
        cdef Py_ssize_t size = 4 if self.single else 8, N = b[0].shape[0], T = b[0].shape[1]
        j.s.N, j.s.K = N, T
        j.x, j.xn, j.xt = b[0].buf, b[0].strides[0] // size, b[0].strides[1] // size
        if not no_y:
            j.y, j.yn, j.yt = b[1].buf, b[1].strides[0] // size, b[1].strides[1] // size
        j.h = b[2].buf
        cdef Py_ssize_t work = 3 * j.H * (j.D + j.H) * N * T
        threads = self.most(threads)
        cdef View space
        memory = self.workspace(
            size * most_work(j.U.route, threads, N, N * T, j.D, j.H, j.Hp, j.G, size, False), &space)
        cdef bint mine = not self.busy, done = False
        cdef const void *h0 = b[2].buf if started else NULL
        cdef Choice choice = choose_for(&j, &j.s, False, 1, threads)
        j.slow = choice.slow
        if work < limits.gil_work:
            start(&j, h0, NULL, space.data, choice.way, choice.threads)
            advance_forward(&j)
            finish(&choice, N * T, True)
            return 0
        self.busy = True
        try:
            with nogil:
                start(&j, h0, NULL, space.data, choice.way, choice.threads)
            while not done:
                with nogil:
                    done = advance_forward(&j)
                if not done:
                    PyErr_CheckSignals()
        finally:
            finish(&choice, N * T, done)
            if mine:
                self.busy = False
        return 0

    cdef void all_cells(
        self, const char *x, const char *h, char *out, Py_ssize_t N, char *work,
        const Choice *choice,
    ) noexcept nogil:
        cdef Py_ssize_t row = self.jobs[0].H * (4 if self.single else 8), state = N * row
        cdef int i
        for i in range(self.layers):
            if h != NULL:
                self.cell(i, x, h + i * state, row, out, N, work, choice)
            elif self.start != NULL:
                self.cell(i, x, self.start + i * row, 0, out, N, work, choice)
            else:
                self.cell(i, x, NULL, 0, out, N, work, choice)
            x, out = out, out + state

    cdef void cell(
        self, int i, const char *x, const char *h, Py_ssize_t h_row, char *out, Py_ssize_t N, char *work,
        const Choice *choice,
    ) noexcept nogil:
        step_cell(&self.jobs[i], x, h, h_row, out, N, work, choice)


cdef inline bint overlap(const char *a, Py_ssize_t a_bytes, const char *b, Py_ssize_t b_bytes) noexcept nogil:
    return a < b + b_bytes and b < a + a_bytes


cdef void step_cell(
    const Forward *cell, const void *x,
    const char *h,     # the states before, a row every h_row bytes, all the same one where that is 0; NULL: zero
    Py_ssize_t h_row, void *out, Py_ssize_t N, void *work, const Choice *choice,
) noexcept nogil:
    """One step of one cell; out may overlap h."""
    cdef Forward j = cell[0]
    cdef Py_ssize_t i, size = itemsize_of(cell)
    cdef Sharing way = sharing_of(choice.way, choice.threads, N, j.H, j.Hp, size, j.U.route)
    cdef char *next_work = first_aligned(work)
    cdef char *states
    cdef cgru_team team
    j.way, j.scratch_rows, j.team = way, way.range_rows if way.by_rows else N, &team
    # a range of rows for each thread, rounded up, or all rows
    j.gates = carve(&next_work, (N + way.threads) * j.G, size)
    states = <char *>carve(&next_work, 2 * N * j.Hp, size)
    j.states, j.reset = states, carve(&next_work, N * j.Hp, size)
    if j.H < j.Hp or h == NULL:
        memset(states, 0, N * j.Hp * size)
    if h != NULL:
        for i in range(N):
            memcpy(states + i * j.Hp * size, h + i * h_row, j.H * size)
    j.h = out
    j.s.N, j.s.K, j.k1 = N, 1, 1
    j.x, j.xn, j.xt = x, j.D, 0
    if way.by_rows or way.threads > 1:
        j.slow = 0
        gather_members(&j)
        run_block(&j, &j, build.forward, N)
        return
    build.step(&j)


def memory_holds(size_t address, bytes content):
    """Whether the bytes from an address on, which the caller knows to be readable, are those of `content`."""
    return memcmp(<const void *>address, <const char *>content, len(content)) == 0
