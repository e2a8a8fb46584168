# Forward: the step, and the two ways to share it among threads. Included by kernels.pxi; blocks.pxi calls it.

cdef inline floating *states_before(const Forward *j, Py_ssize_t k, floating *states) noexcept nogil:
    """The states (count(k), Hp) from which step k starts."""
    if not j.training:
        return states + (k & 1) * j.s.N * j.Hp
    return states if k == 0 else states + (j.s.N + offset(&j.s, k - 1)) * j.Hp


cdef inline floating *states_after(const Forward *j, Py_ssize_t k, floating *states) noexcept nogil:
    if not j.training:
        return states + ((k + 1) & 1) * j.s.N * j.Hp
    return states + (j.s.N + offset(&j.s, k)) * j.Hp


cdef inline floating *states_read(const Forward *j, Py_ssize_t k, floating *states) noexcept nogil:
    """The states before step k as the products read them: with dropout, times its factors."""
    return states if j.read == NULL else <floating *>j.read + (k & 1) * j.s.N * j.Hp


cdef inline void project_input(
    Forward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *gates, floating *rows
) noexcept nogil:
    """gates (n x 3H) = x (n x D) W (D x 3H) for the rows from i0 at step k and the units u0 .. u1, where the products
    stand"""
    cdef const floating *x = <const floating *>j.x
    cdef Py_ssize_t i
    gates += j.products_at
    if j.s.rows == NULL and j.s.times == NULL:
        multiply(n, j.D, x + place(&j.s, k, i0, j.xn, j.xt), j.xn, 1, &j.W, 0, 0, 3, u0, u1, gates, j.G, False)
        return
    for i in range(n):
        memcpy(rows + i * j.D, x + place(&j.s, k, i0 + i, j.xn, j.xt), j.D * sizeof(floating))
    multiply(n, j.D, rows, j.D, 1, &j.W, 0, 0, 3, u0, u1, gates, j.G, False)


cdef inline void multiply_states(
    Forward *j, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *gates, floating *read
) noexcept nogil:
    """The products with the states before the step, of all gates or, with the reset before, of r and z."""
    cdef Py_ssize_t H = j.Hp
    if floating is float:
        if j.U.route == CODES and j.reset_after:  # as codes for both at once
            multiply_encoded(n, j.H, read, H, &j.U, 0, 2, u0, u1, gates, j.G, True, gates + 3 * H)
            return
    # gates_rz (n x 2H) += h (n x H) U_rz (H x 2H)
    multiply(n, j.H, read, H, 1, &j.U, 0, 0, 2, u0, u1, gates, j.G, True)
    if j.reset_after:
        # q (n x H) = h (n x H) U_n (H x H)
        multiply(n, j.H, read, H, 1, &j.U, 0, 2, 1, u0, u1, gates + 3 * H, j.G, False)


cdef inline void step_forward(
    Forward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1,
    floating *gates,   # (n, G) in: x W; out: r z n q or r z n
    cgru_member *me,   # of the team that shares the units; NULL without one
) noexcept nogil:
    """Step k of n rows from i0 on, the units u0 .. u1 of it, whose input products stand in `gates`."""
    cdef Py_ssize_t i, H = j.Hp, G = j.G, units = u1 - u0
    cdef floating *bias = <floating *>j.bias
    cdef floating *h = states_before(j, k, <floating *>j.states) + i0 * H       # (n, Hp)
    cdef floating *h_next = states_after(j, k, <floating *>j.states) + i0 * H   # (n, Hp) out
    cdef floating *read = h if j.read == NULL else states_read(j, k, h) + i0 * H
    cdef floating *reset = <floating *>j.reset + i0 * H                         # (n, Hp) r * h
    cdef floating *row
    if j.gain != NULL:
        normed_gates(j, n, u0, u1, gates, read, reset, me)
    else:
        multiply_states(j, n, u0, u1, gates, read)
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
                reset_before_forward(units, row, read + i * H + u0, reset + i * H + u0)
        if not j.reset_after:
            meet(me)
            # gates_n (n x H) += (r * h) (n x H) U_n (H x H)
            multiply(n, j.H, reset, H, 1, &j.U, 0, 2, 1, u0, u1, gates + 2 * H, G, True)
    for i in range(n):
        row = gates + i * G + u0
        candidate_forward(
            j.g, units, row + 2 * H, bias + 2 * H + u0, row + H, h + i * H + u0, h_next + i * H + u0)
    if j.zones:
        zone_states(j, k, i0, n, u0, u1, h, h_next)
    if j.read != NULL:
        read = states_read(j, k + 1, h) + i0 * H
        for i in range(n):
            times(units, h_next + i * H + u0, <floating *>j.mask + (i0 + i) * H + u0, read + i * H + u0)


cdef inline void zone_states(
    Forward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *h, floating *h_next
) noexcept nogil:
    """Units that keep their old states at step k, or what is to be expected of them."""
    cdef Py_ssize_t i, units = min(u1, j.H) - u0
    for i in range(n):
        if j.taken == NULL:
            zones_expected(units, <floating>j.zoneout, h + i * j.Hp + u0, h_next + i * j.Hp + u0)
        else:
            zones_forward(
                units, j.taken + (offset(&j.s, k) + i0 + i) * j.H + u0, h + i * j.Hp + u0, h_next + i * j.Hp + u0)


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
        step_forward(j, k, i0, n, 0, j.Hp, gates, NULL)
        emit(j, k, i0, i1, 0, j.Hp, states_after(j, k, states))


cdef inline int patience(const Forward *j) noexcept nogil:
    """Turns to wait for the others at the start of a block: as long as somebody who looks for work needs to come."""
    return 100 if j.limits.measured else 20000


cdef inline Py_ssize_t first_unit(Py_ssize_t Hp, Py_ssize_t itemsize, int member, int members) noexcept nogil:
    """Where the units of a member of a team begin: each has as many whole vectors as the others, or one more."""
    return Hp // lanes(itemsize) * member // members * lanes(itemsize)


cdef void forward_units(Forward *j, int slot, floating *dtype) noexcept nogil:
    """This thread's units of all rows through the block of steps, as one of a team."""
    cdef cgru_member me
    me.team, me.turn = j.team, 0
    me.id = cgru_join(me.team, j.members, patience(j))
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
    # `advance_forward`.)
    cdef bint together = n < j.limits.step_rows and j.s.times == NULL
    if together and u1 > u0:
        for i in range(n):
            multiply(
                j.k1 - j.k0, j.D, <const floating *>j.x + place(&j.s, j.k0, i, j.xn, j.xt), j.xt, 1, &j.W, 0, 0, 3,
                u0, u1, block + j.products_at + i * j.G, n * j.G, False,
            )
    for k in range(j.k0, j.k1):
        gates = block + (offset(&j.s, k) - first) * j.G
        n = count(&j.s, k)
        if not together:
            project_input(j, k, 0, n, u0, u1, gates, rows)
        cgru_await(&me)
        step_forward(j, k, 0, n, u0, u1, gates, &me if me.team.size > 1 else NULL)
        cgru_arrive(&me)
        emit(j, k, 0, n, u0, u1, states_after(j, k, states))


cdef void forward_blas(Forward *j, floating *dtype) noexcept nogil:
    """All rows through the block of steps: one product for the inputs of all its steps, then those of the states."""
    cdef Py_ssize_t first = offset(&j.s, j.k0), M = offset(&j.s, j.k1) - first, k, i, n, ld = j.D
    cdef floating *states = <floating *>j.states
    cdef floating *block = <floating *>j.gates + (first * j.G if j.training else 0)
    cdef floating *gathered = <floating *>j.rows
    cdef const floating *x = <const floating *>j.x + j.k0 * j.xt
    cdef bint plain = j.s.rows == NULL and j.s.times == NULL and j.s.offsets == NULL
    if plain and (j.s.N == 1 or (j.xn >= j.D and j.xt == j.s.N * j.xn)) and (j.xt if j.s.N == 1 else j.xn) >= j.D:
        ld = j.xt if j.s.N == 1 else j.xn
    else:
        for k in range(j.k0, j.k1):
            for i in range(count(&j.s, k)):
                memcpy(
                    gathered + (offset(&j.s, k) - first + i) * j.D,
                    <const floating *>j.x + place(&j.s, k, i, j.xn, j.xt), j.D * sizeof(floating),
                )
        x = gathered
    # gates (M x 3H) = x (M x D) W (D x 3H)
    multiply(M, j.D, x, ld, 1, &j.W, 0, 0, 3, 0, j.Hp, block + j.products_at, j.G, False)
    for k in range(j.k0, j.k1):
        n = count(&j.s, k)
        step_forward(j, k, 0, n, 0, j.Hp, block + (offset(&j.s, k) - first) * j.G, NULL)
        emit(j, k, 0, n, 0, j.Hp, states_after(j, k, states))


cdef void forward_task(void *job, int task, int slot) noexcept nogil:
    cdef Forward *j = <Forward *>job
    cdef unsigned was = cgru_flush_denormals()
    if j.way.by_blas and j.single:
        forward_blas(j, <float *>NULL)
    elif j.way.by_blas:
        forward_blas(j, <double *>NULL)
    elif j.way.by_rows and j.single:
        forward_rows(j, task, slot, <float *>NULL)
    elif j.way.by_rows:
        forward_rows(j, task, slot, <double *>NULL)
    elif j.single:
        forward_units(j, slot, <float *>NULL)
    else:
        forward_units(j, slot, <double *>NULL)
    cgru_restore_denormals(was)


cdef void forward_step(Forward *j) noexcept nogil:
    """One step of all rows and units, by this thread alone."""
    cdef unsigned was = cgru_flush_denormals()
    if j.single:
        step_alone(j, <float *>NULL)
    else:
        step_alone(j, <double *>NULL)
    cgru_restore_denormals(was)


cdef inline void step_alone(Forward *j, floating *dtype) noexcept nogil:
    cdef floating *states = <floating *>j.states
    project_input(j, 0, 0, j.s.N, 0, j.Hp, <floating *>j.gates, <floating *>NULL)
    step_forward(j, 0, 0, j.s.N, 0, j.Hp, <floating *>j.gates, NULL)
    emit(j, 0, 0, j.s.N, 0, j.Hp, states + j.s.N * j.Hp)
