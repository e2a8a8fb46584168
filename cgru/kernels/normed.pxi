# The gates where their products are normalised (norm.pxd), forward and backward. Included by kernels.pxi.
#
# A row of gates has the products behind the gates, from `products_at` on: those of the input, r z n, those of the
# state, r z n, and then mean and scale of each group: r and z of the input, n, and the same of the state. Products stay
# as they are: where a team shares the units each member adds up whole groups by itself, after a meeting, and writes its
# own units elsewhere.

cdef enum:  # where its mean and scale stand
    INPUT_RZ = 0
    INPUT_N = 2
    STATE_RZ = 4
    STATE_N = 6
    GROUPS = 8


cdef inline Py_ssize_t group_at(int group, Py_ssize_t Hp) noexcept nogil:
    """Where a group stands among the products, and its gains among the gains."""
    return (0 if group < STATE_RZ else 3 * Hp) + (2 * Hp if group == INPUT_N or group == STATE_N else 0)


cdef inline void group_statistics(const Forward *j, int group, floating *products, floating *found) noexcept nogil:
    statistics(
        j.H, 2 if group == INPUT_RZ or group == STATE_RZ else 1, j.Hp, products + group_at(group, j.Hp), found + group)


cdef inline void normed_sum(
    const Forward *j, bint rz, Py_ssize_t block, Py_ssize_t u0, Py_ssize_t units, floating *products, floating *found,
    floating *out,
) noexcept nogil:
    """out (units,) = the two normalised products of gate `block`, from unit u0 on"""
    cdef floating *gain = <floating *>j.gain + block * j.Hp + u0
    cdef floating *of_input = found + (INPUT_RZ if rz else INPUT_N)
    cdef floating *of_state = found + (STATE_RZ if rz else STATE_N)
    products += block * j.Hp + u0
    normalised_sum(
        units, products, gain, of_input[0], of_input[1], products + 3 * j.Hp, gain + 3 * j.Hp, of_state[0], of_state[1],
        out)


cdef inline void normed_gates(
    Forward *j, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1,
    floating *gates,  # (n, G) in: x W among the products; out: r z q, and of n all but bias and activation
    floating *h,      # (n, Hp) the states, as the products read them
    floating *reset,  # (n, Hp) r * h
    cgru_member *me,
) noexcept nogil:
    cdef Py_ssize_t i, H = j.Hp, G = j.G, units = u1 - u0, at = j.products_at
    cdef floating *bias = <floating *>j.bias
    cdef floating *gain = <floating *>j.gain
    cdef floating *row
    cdef floating *products
    cdef floating[GROUPS] found
    # (n x 2H or 3H) = h (n x H) U
    multiply(n, j.H, h, H, 1, &j.U, 0, 0, 3 if j.reset_after else 2, u0, u1, gates + at + 3 * H, G, False)
    meet(me)
    for i in range(n):
        row, products = gates + i * G, gates + i * G + at
        group_statistics(j, INPUT_RZ, products, found)
        group_statistics(j, STATE_RZ, products, found)
        group_statistics(j, INPUT_N, products, found)
        normed_sum(j, True, 0, u0, units, products, found, row + u0)
        normed_sum(j, True, 1, u0, units, products, found, row + H + u0)
        gates_forward(j.f, units, row + u0, bias + u0)
        gates_forward(j.f, units, row + H + u0, bias + H + u0)
        if j.reset_after:
            group_statistics(j, STATE_N, products, found)
            normalised(
                units, products + 2 * H + u0, gain + 2 * H + u0, found[INPUT_N], found[INPUT_N + 1], row + 2 * H + u0)
            normalised(
                units, products + 5 * H + u0, gain + 5 * H + u0, found[STATE_N], found[STATE_N + 1], row + 3 * H + u0)
            reset_after_forward(units, row + u0, row + 3 * H + u0, bias + 3 * H + u0, row + 2 * H + u0)
        else:
            reset_before_forward(units, row + u0, h + i * H + u0, reset + i * H + u0)
        if u0 == 0:
            memcpy(products + 6 * H, found, (GROUPS if j.reset_after else STATE_N) * sizeof(floating))
    if j.reset_after:
        return
    meet(me)
    # (n x H) = (r * h) (n x H) U_n (H x H)
    multiply(n, j.H, reset, H, 1, &j.U, 0, 2, 1, u0, u1, gates + at + 5 * H, G, False)
    meet(me)
    for i in range(n):
        row, products = gates + i * G, gates + i * G + at
        group_statistics(j, INPUT_N, products, found)
        group_statistics(j, STATE_N, products, found)
        normed_sum(j, False, 2, u0, units, products, found, row + 2 * H + u0)
        if u0 == 0:
            memcpy(products + 6 * H + STATE_N, found + STATE_N, 2 * sizeof(floating))


cdef inline void group_backward(
    const Forward *j, int group, Py_ssize_t u0, Py_ssize_t u1, floating *products,
    floating *d,    # gradient of the normalised group
    floating *out,  # that of the group, the units u0 .. u1 of it
) noexcept nogil:
    cdef Py_ssize_t at = group_at(group, j.Hp), block
    cdef int blocks = 2 if group == INPUT_RZ or group == STATE_RZ else 1
    cdef floating[SUMS] sums
    cdef floating[SUMS] of_products
    cdef floating *gain = <floating *>j.gain + at
    cdef floating *found = products + 6 * j.Hp + group
    cdef floating count = <floating>(blocks * j.H), of_sum, of_product
    products += at
    clear(sums)
    clear(of_products)
    for block in range(blocks):
        add_gradient_sums(
            j.H, d + block * j.Hp, gain + block * j.Hp, products + block * j.Hp, found[0], found[1], sums, of_products)
    of_sum = added_up(j.H, sums) / count
    of_product = added_up(j.H, of_products) / count
    for block in range(blocks):
        at = block * j.Hp + u0
        normalised_backward(
            u1 - u0, d + at, gain + at, products + at, found[0], found[1], of_sum, of_product, out + at)


cdef inline void normed_backward(
    Backward *j, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *f,
    floating *gates,  # (n, G)
    floating *h,      # (n, Hp) the states before the step, as the products read them
    floating *dh,     # (n, Hp) of them, +=
    floating *dg,     # (n, dG) in: gradients of the sums before biases; out: those of the products as well
    floating *ds,     # (n, Hp) workspace
    floating *reset,  # (n, Hp) out, r * h
    cgru_member *me,
) noexcept nogil:
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t i, H = forward.Hp, G = forward.G, units = u1 - u0, of_input = j.input_at, of_state = j.state_at
    cdef floating *row
    cdef floating *products
    cdef floating *d
    meet(me)
    for i in range(n):
        products, d = gates + i * G + forward.products_at, dg + i * j.dG
        group_backward(forward, INPUT_N, u0, u1, products, d, d + of_input)
        if forward.reset_after:
            group_backward(forward, STATE_N, u0, u1, products, d + 3 * H, d + of_state + 2 * H)
            group_backward(forward, INPUT_RZ, u0, u1, products, d + H, d + of_input + H)
            group_backward(forward, STATE_RZ, u0, u1, products, d + H, d + of_state)
        else:
            group_backward(forward, STATE_N, u0, u1, products, d, d + of_state + 2 * H)
    meet(me)
    if forward.reset_after:
        # dh (n x H) += (n x 3H) U^T (3H x H)
        multiply_gates(j, 3, n, dg + of_state, &j.U_back, 0, u0, u1, dh, True)
        return
    # ds (n x H) = (n x H) U_n^T (H x H)
    multiply_gates(j, 1, n, dg + of_state + 2 * H, &j.U_back, 2 * H, u0, u1, ds, False)
    for i in range(n):
        row = gates + i * G + u0
        reset_before_forward(units, row, h + i * H + u0, reset + i * H + u0)
        reset_before_backward(f, units, row, h + i * H + u0, ds + i * H + u0, dg + i * j.dG + H + u0, dh + i * H + u0)
    meet(me)
    for i in range(n):
        products, d = gates + i * G + forward.products_at, dg + i * j.dG
        group_backward(forward, INPUT_RZ, u0, u1, products, d + H, d + of_input + H)
        group_backward(forward, STATE_RZ, u0, u1, products, d + H, d + of_state)
    meet(me)
    # dh (n x H) += (n x 2H) [U_r U_z]^T (2H x H)
    multiply_gates(j, 2, n, dg + of_state, &j.U_back, 0, u0, u1, dh, True)


cdef inline void gain_gradient(Backward *j, Py_ssize_t rows, floating *gates, floating *dg) noexcept nogil:
    """Add the gradients of the gains of so many packed rows."""
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t i, H = forward.Hp
    cdef floating *total = <floating *>j.gain_block
    cdef floating *products
    cdef floating *found
    cdef floating *d
    memset(total, 0, 6 * H * sizeof(floating))
    for i in range(rows):
        products, d = gates + i * forward.G + forward.products_at, dg + i * j.dG
        found = products + 6 * H
        add_gain_gradient(H, d + H, products, found[INPUT_RZ], found[INPUT_RZ + 1], total)
        add_gain_gradient(H, d + 2 * H, products + H, found[INPUT_RZ], found[INPUT_RZ + 1], total + H)
        add_gain_gradient(H, d, products + 2 * H, found[INPUT_N], found[INPUT_N + 1], total + 2 * H)
        add_gain_gradient(H, d + H, products + 3 * H, found[STATE_RZ], found[STATE_RZ + 1], total + 3 * H)
        add_gain_gradient(H, d + 2 * H, products + 4 * H, found[STATE_RZ], found[STATE_RZ + 1], total + 4 * H)
        add_gain_gradient(
            H, d + (3 * H if forward.reset_after else 0), products + 5 * H, found[STATE_N], found[STATE_N + 1],
            total + 5 * H)
    add(6 * H, <floating *>j.dgain, total)
