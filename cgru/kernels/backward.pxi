# Backward: the gradients of the gates step by step, then the large products. Included by kernels.pxi; blocks.pxi calls
# it.

cdef inline void multiply_gates(
    Backward *j, int gates, Py_ssize_t n, const floating *dg, const Matrix *b, Py_ssize_t k0, Py_ssize_t column0,
    Py_ssize_t column1, floating *c, bint accumulate,
) noexcept nogil:
    """C (n x columns) = dg (n x gates of H) B (gates of H x columns), or +=, for gates side by side; B from row k0.
    One sum over k in order.

    The units that pad a gate take part in nothing: what stands there may be infinite or NaN, as anything times the
    zeros in the weights' padding is.
    """
    cdef int gate
    cdef Py_ssize_t H = j.forward.H, Hp = j.forward.Hp
    if H == Hp:
        multiply(n, gates * H, dg, j.dG, 1, b, k0, 0, 1, column0, column1, c, b.columns, accumulate)
        return
    for gate in range(gates):
        multiply(
            n, H, dg + gate * Hp, j.dG, 1, b, k0 + gate * Hp, 0, 1, column0, column1, c, b.columns,
            accumulate or gate > 0,
        )


cdef inline void step_backward(
    Backward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *f, floating *g,
    floating *gates,  # (n, G)
    floating *h,      # (n, Hp) the states before the step
    floating *dg,     # (n, dG) out
    floating *reset,  # (n, Hp) out, r * h
    cgru_member *me,  # of the team that shares the units; NULL without one
) noexcept nogil:
    """Step k of n rows from i0 on, the units u0 .. u1 of it: the gradients of the gates, and dh one step earlier."""
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t i, H = forward.Hp, G = forward.G, units = u1 - u0
    cdef floating *dh = <floating *>j.dh + i0 * H  # (n, Hp) in: of the states after the step; out: of those before
    cdef floating *ds = <floating *>j.ds + i0 * H
    cdef floating *mask = <floating *>forward.mask
    cdef floating *read = h
    cdef floating *dread = dh                      # of the states before the step as the products read them
    cdef floating *row
    cdef floating *d
    if forward.zones:
        zone_gradients(j, k, i0, n, u0, u1, dh)
    if mask != NULL:
        mask += i0 * H
        read = <floating *>forward.read + i0 * H
        dread = <floating *>j.dread + i0 * H
        for i in range(n):
            times(units, h + i * H + u0, mask + i * H + u0, read + i * H + u0)
            memset(dread + i * H + u0, 0, units * sizeof(floating))
    for i in range(n):
        row = gates + i * G + u0
        d = dg + i * j.dG + u0
        candidate_backward(
            f, g, units, row + H, row + 2 * H, h + i * H + u0, dh + i * H + u0, d, d + 2 * H)
        if forward.reset_after:
            reset_after_backward(f, units, row, row + 3 * H, d, d + H, d + 3 * H)
    if forward.zones:
        for i in range(n):
            add(min(u1, forward.H) - u0, dh + i * H + u0, <floating *>j.kept + (i0 + i) * H + u0)
    if forward.gain != NULL:
        normed_backward(j, n, u0, u1, f, gates, read, dread, dg, ds, reset, me)
    else:
        plain_backward(j, n, u0, u1, f, gates, read, dread, dg, ds, reset, me)
    if mask != NULL:
        for i in range(n):
            add_times(units, dread + i * H + u0, mask + i * H + u0, dh + i * H + u0)


cdef inline void zone_gradients(
    Backward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *dh
) noexcept nogil:
    """Part the gradient dh of the states after step k: what goes to the states before it past the gates is `kept`."""
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t i, H = forward.Hp, units = min(u1, forward.H) - u0
    cdef floating *kept = <floating *>j.kept + i0 * H
    for i in range(n):
        if forward.taken == NULL:
            zones_expected_backward(units, <floating>forward.zoneout, dh + i * H + u0, kept + i * H + u0)
        else:
            zones_backward(
                units, forward.taken + (offset(&forward.s, k) + i0 + i) * forward.H + u0, dh + i * H + u0,
                kept + i * H + u0)


cdef inline void plain_backward(
    Backward *j, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *f,
    floating *gates,  # (n, G)
    floating *h,      # (n, Hp) the states before the step, as the products read them
    floating *dh,     # (n, Hp) of them, +=
    floating *dg,     # (n, dG) in and out
    floating *ds,     # (n, Hp) workspace
    floating *reset,  # (n, Hp) out, r * h
    cgru_member *me,
) noexcept nogil:
    cdef Py_ssize_t i, H = j.forward.Hp, G = j.forward.G, units = u1 - u0
    cdef floating *row
    meet(me)
    if j.forward.reset_after:
        # dh (n x H) += [dr dz dq] (n x 3H) U^T (3H x H)
        multiply_gates(j, 3, n, dg + H, &j.U_back, 0, u0, u1, dh, True)
        return
    # ds (n x H) = dn (n x H) U_n^T (H x H)
    multiply_gates(j, 1, n, dg, &j.U_back, 2 * H, u0, u1, ds, False)
    for i in range(n):
        row = gates + i * G + u0
        reset_before_forward(units, row, h + i * H + u0, reset + i * H + u0)
        reset_before_backward(f, units, row, h + i * H + u0, ds + i * H + u0, dg + i * j.dG + H + u0, dh + i * H + u0)
    meet(me)
    # dh (n x H) += [dr dz] (n x 2H) [U_r U_z]^T (2H x H)
    multiply_gates(j, 2, n, dg + H, &j.U_back, 0, u0, u1, dh, True)


cdef void backward_gates(
    Backward *j, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t u0, Py_ssize_t u1, bint first, cgru_member *me, floating *f,
    floating *g
) noexcept nogil:
    """The gradients of the gates in the block of steps, for the rows i0 .. i1 and the units u0 .. u1; with `first` also
    what the large products read of these rows beside them, if the gradients of the weights are wanted."""
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t H = forward.Hp, G = forward.G, D = forward.D, start = offset(&forward.s, forward.k0)
    cdef Py_ssize_t k, n, i, p, units = min(u1, forward.H) - u0
    cdef const floating *dy = <const floating *>j.dy
    cdef floating *dh = <floating *>j.dh + i0 * H
    cdef floating *h
    for k in range(forward.k1 - 1, forward.k0 - 1, -1):
        n = min(i1, count(&forward.s, k)) - i0
        if n <= 0:
            continue
        p = offset(&forward.s, k) - start + i0
        h = states_before(forward, k, <floating *>forward.states) + i0 * H
        if dy != NULL and units > 0:
            for i in range(n):
                add(units, dh + i * H + u0, <floating *>dy + place(&forward.s, k, i0 + i, j.dyn, j.dyt) + u0)
        step_backward(
            j, k, i0, n, u0, u1, f, g, <floating *>forward.gates + (start + p) * G, h, <floating *>j.dg + p * j.dG,
            <floating *>j.reset_block + p * H, me,
        )
        if first and j.dkernel != NULL:
            if forward.mask == NULL:
                memcpy(<floating *>j.h_block + p * H, h, n * H * sizeof(floating))
            else:
                times(n * H, h, <floating *>forward.mask + i0 * H, <floating *>j.h_block + p * H)
            for i in range(n):
                memcpy(
                    <floating *>j.x_block + (p + i) * D,
                    <const floating *>forward.x + place(&forward.s, k, i0 + i, forward.xn, forward.xt),
                    D * sizeof(floating),
                )


cdef void backward_gates_task(void *job, int task, int slot) noexcept nogil:
    cdef Backward *j = <Backward *>job
    cdef unsigned was = cgru_flush_denormals()
    cdef Py_ssize_t i0 = 0, i1 = j.forward.s.N, u0 = 0, u1 = j.forward.Hp, size = itemsize_of(&j.forward)
    cdef cgru_member me
    cdef bint together = False
    me.team, me.id, me.turn = j.forward.team, 0, 0
    if j.forward.way.by_rows:
        i0 = task * j.forward.way.range_rows
        i1 = min(i0 + j.forward.way.range_rows, i1)
    else:
        me.id = cgru_join(me.team, j.forward.members, patience(&j.forward))
        together = me.id >= 0 and me.team.size > 1
        if together:
            u0 = first_unit(j.forward.Hp, size, me.id, me.team.size)
            u1 = first_unit(j.forward.Hp, size, me.id + 1, me.team.size)
    if me.id >= 0 and j.forward.single:
        backward_gates(j, i0, i1, u0, u1, me.id == 0, &me if together else NULL, <float *>j.f32, <float *>j.g32)
    elif me.id >= 0:
        backward_gates(j, i0, i1, u0, u1, me.id == 0, &me if together else NULL, <double *>j.f64, <double *>j.g64)
    cgru_restore_denormals(was)


cdef enum:
    TURNED = 64  # columns of a block that a task turns


cdef int turn_tasks(const Backward *j) noexcept nogil:
    return <int>((j.forward.D + TURNED - 1) // TURNED + (j.forward.H + TURNED - 1) // TURNED)


cdef inline void turn(Backward *j, int task, floating *dtype) noexcept nogil:
    """Some columns of x, h or r * h of the block become rows. The large products read a column at once: as it stands,
    each element would be in another cache line, at distances that fall on few places of the cache."""
    cdef Py_ssize_t block = offset(&j.forward.s, j.forward.k1) - offset(&j.forward.s, j.forward.k0)
    cdef Py_ssize_t D = j.forward.D, H = j.forward.H, column = task * TURNED, end
    if column < D:
        transpose(
            min(TURNED, D - column), block, <floating *>j.x_block + column, D,
            <floating *>j.x_turned + column * j.most, j.most, <floating>1)
        return
    column -= (D + TURNED - 1) // TURNED * TURNED
    if column < H:
        end = min(column + TURNED, H)
        transpose(
            end - column, block, <floating *>j.h_block + column, j.forward.Hp,
            <floating *>j.h_turned + column * j.most, j.most, <floating>1)
        if j.forward.reset_after:
            return
        transpose(
            end - column, block, <floating *>j.reset_block + column, j.forward.Hp,
            <floating *>j.reset_turned + column * j.most, j.most, <floating>1)


cdef void backward_turn_task(void *job, int task, int slot) noexcept nogil:
    cdef Backward *j = <Backward *>job
    if j.forward.single:
        turn(j, task, <float *>NULL)
    else:
        turn(j, task, <double *>NULL)


cdef inline void add_product(
    Backward *j, int panel, int slot, Py_ssize_t m, const floating *a, Py_ssize_t lda, const floating *turned,
    const floating *dg, Py_ssize_t columns, floating *c, bint in_panels,
) noexcept nogil:
    """c (m x columns) += a^T (m x block) dg (block x columns), one panel of its columns; where the block is turned,
    `turned` is a^T. c's rows are 3Hp apart, unless it is in panels."""
    cdef Py_ssize_t width = panel_width(sizeof(floating)), Hp = j.forward.Hp, G = j.dG, i
    cdef Py_ssize_t block = offset(&j.forward.s, j.forward.k1) - offset(&j.forward.s, j.forward.k0)
    cdef Py_ssize_t column = panel * width, w = min(width, columns - column), ldc = 3 * Hp, of_gate
    cdef floating *copied = <floating *>j.panels + slot * j.most * width
    cdef Matrix b
    if j.route == BLAS:
        blas_gemm(m, columns, block, a, lda, True, dg, G, False, c, ldc, <floating>1)
        return
    if in_panels:
        of_gate = (Hp + width - 1) // width
        column = panel // of_gate * Hp + panel % of_gate * width
        w = ldc = min(width, Hp - panel % of_gate * width)
    c += column * (m if in_panels else 1)
    # Copied together, the panel is read once for every few rows of c without a cache miss for every row of it.
    for i in range(block):
        memcpy(copied + i * w, dg + i * G + column, w * sizeof(floating))
    b = matrix(copied, block, w, 1, PACKED)
    if j.turned:
        multiply(m, block, turned, j.most, 1, &b, 0, 0, 1, 0, w, c, ldc, True)
    else:
        multiply(m, block, a, 1, lda, &b, 0, 0, 1, 0, w, c, ldc, True)


cdef inline int large_panels(const Backward *j, Py_ssize_t columns, bint in_panels, Py_ssize_t itemsize) noexcept nogil:
    """Tasks of `add_product`."""
    cdef Py_ssize_t width = panel_width(itemsize), Hp = j.forward.Hp
    if j.route == BLAS:
        return 1
    if in_panels:
        return <int>(columns // Hp * ((Hp + width - 1) // width))
    return <int>((columns + width - 1) // width)


cdef inline Py_ssize_t dx_rows(const Backward *j) noexcept nogil:
    """Packed rows of a task of dx."""
    return j.most if j.route == BLAS else j.forward.limits.dx_rows


cdef inline void input_gradient(Backward *j, int task, floating *dtype) noexcept nogil:
    """dx of some packed rows of the block."""
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t start = offset(&forward.s, forward.k0), k, i, p
    cdef Py_ssize_t p0 = task * dx_rows(j), p1 = min(p0 + dx_rows(j), offset(&forward.s, forward.k1) - start)
    cdef floating *block = <floating *>j.dx_block
    cdef floating *dx = <floating *>j.dx
    # dx (rows x D) = [dn dr dz] (rows x 3H) [W_n W_r W_z]^T (3H x D)
    multiply_gates(
        j, 3, p1 - p0, <const floating *>j.dg + p0 * j.dG + j.input_at, &j.W_back, 0, 0, j.Dp, block + p0 * j.Dp, False)
    for k in range(forward.k0, forward.k1):
        for i in range(max(0, p0 - (offset(&forward.s, k) - start)), count(&forward.s, k)):
            p = offset(&forward.s, k) - start + i
            if p >= p1:
                return
            memcpy(dx + place(&forward.s, k, i, j.dxn, j.dxt), block + p * j.Dp, forward.D * sizeof(floating))


cdef void backward_large(Backward *j, int task, int slot, floating *dtype) noexcept nogil:
    """One piece of the large products of the block: a panel of dW or dU, the bias, or some rows of dx."""
    cdef Py_ssize_t H = j.forward.Hp, state_columns = (3 if j.forward.reset_after else 2) * H
    cdef Py_ssize_t size = sizeof(floating), i
    cdef Py_ssize_t block = offset(&j.forward.s, j.forward.k1) - offset(&j.forward.s, j.forward.k0)
    cdef floating *dg = <floating *>j.dg
    cdef floating *x = <floating *>j.x_block
    cdef floating *h = <floating *>j.h_block
    cdef floating *dU = <floating *>j.drecurrent_kernel
    cdef floating *sums = <floating *>j.bias_block
    cdef bint in_panels = j.recurrent_in_panels
    cdef int panels = large_panels(j, 3 * H, j.kernel_in_panels, size)
    if j.dkernel == NULL:
        input_gradient(j, task, dtype)
        return
    if task == 0:
        memset(sums, 0, (state_columns + H) * size)
        for i in range(block):
            add(state_columns + H, sums, dg + i * j.dG)
        add(state_columns + H, <floating *>j.dbias, sums)
        if j.forward.gain != NULL:
            gain_gradient(
                j, block, <floating *>j.forward.gates + offset(&j.forward.s, j.forward.k0) * j.forward.G, dg)
        return
    task -= 1
    if task < panels:
        # dW (D x 3H) += x^T (D x rows) [dn dr dz] (rows x 3H)
        add_product(
            j, task, slot, j.forward.D, x, j.forward.D, <floating *>j.x_turned, dg + j.input_at, 3 * H,
            <floating *>j.dkernel, j.kernel_in_panels,
        )
        return
    task -= panels
    panels = large_panels(j, state_columns, in_panels, size)
    if task < panels:
        # dU (H x 3H) += h^T (H x rows) [dr dz dq] (rows x 3H), or of r and z alone
        add_product(
            j, task, slot, j.forward.H, h, H, <floating *>j.h_turned, dg + j.state_at, state_columns, dU,
            in_panels)
        return
    task -= panels
    if not j.forward.reset_after:
        panels = large_panels(j, H, in_panels, size)
        if task < panels:
            # dU_n (H x H) += (r * h)^T (H x rows) dn (rows x H)
            add_product(
                j, task, slot, j.forward.H, <floating *>j.reset_block, H, <floating *>j.reset_turned,
                dg + j.candidate_at, H,
                dU + 2 * H * (j.forward.H if in_panels else 1), in_panels,
            )
            return
        task -= panels
    input_gradient(j, task, dtype)


cdef int large_tasks(const Backward *j) noexcept nogil:
    cdef Py_ssize_t itemsize = itemsize_of(&j.forward), H = j.forward.Hp
    cdef Py_ssize_t block = offset(&j.forward.s, j.forward.k1) - offset(&j.forward.s, j.forward.k0)
    cdef bint in_panels = j.recurrent_in_panels
    cdef int tasks = <int>((block + dx_rows(j) - 1) // dx_rows(j)) if j.dx != NULL else 0
    if j.dkernel == NULL:
        return tasks
    tasks += 1 + large_panels(j, 3 * H, j.kernel_in_panels, itemsize)
    if j.forward.reset_after:
        tasks += large_panels(j, 3 * H, in_panels, itemsize)
    else:
        tasks += large_panels(j, 2 * H, in_panels, itemsize) + large_panels(j, H, in_panels, itemsize)
    return tasks


cdef void backward_large_task(void *job, int task, int slot) noexcept nogil:
    cdef Backward *j = <Backward *>job
    cdef unsigned was = cgru_flush_denormals()
    if j.forward.single:
        backward_large(j, task, slot, <float *>NULL)
    else:
        backward_large(j, task, slot, <double *>NULL)
    cgru_restore_denormals(was)
