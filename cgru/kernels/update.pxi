# Updates of an optimizer: one pass over parameter, gradient and what the optimizer remembers. Included by kernels.pxi;
# dense.pxi makes the jobs. Each element is on its own, so the tasks, ranges of them, change no bit; a sum over a
# gradient has one part for each range, and these are added up in their order.

cdef extern from "platform.h" nogil:
    int CGRU_STORE(int v, int to) noexcept


cdef enum:  # the terms of all methods: g counts as g * scale within -limit and limit; decay * p is added to p
    SCALE = 0
    LIMIT = 1
    DECAY = 2
    RATE = 3
    PART_1 = 4
    PART_2 = 5
    EPSILON = 6
    MOMENTUM_TERM = 7


# Each loop updates n parameters and returns whether a gradient or a new value is not finite. The kinds have loops of
# their own, made of the same formulas: with a question inside, or a constant for it that is not inlined, GCC would not
# vectorise them.


cdef inline int sgd_loop(Py_ssize_t n, row_t p, row_t g, row_t new_p, row_t c) noexcept nogil:
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_p[i] = fma(-c[RATE], limited(g[i], c[SCALE], c[LIMIT]), kept(c[DECAY], p[i]))
        wrong |= nothing(g[i]) + nothing(new_p[i]) != 0
    return wrong


cdef inline int momentum_loop(
    Py_ssize_t n, row_t p, row_t g, row_t m, row_t new_p, row_t new_m, row_t c
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_m[i] = slowed(c[MOMENTUM_TERM], m[i], c[RATE], limited(g[i], c[SCALE], c[LIMIT]))
        new_p[i] = kept(c[DECAY], p[i]) + new_m[i]
        wrong |= nothing(g[i]) + nothing(new_p[i]) != 0
    return wrong


cdef inline int nesterov_loop(
    Py_ssize_t n, row_t p, row_t g, row_t m, row_t new_p, row_t new_m, row_t c
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_m[i] = slowed(c[MOMENTUM_TERM], m[i], c[RATE], limited(g[i], c[SCALE], c[LIMIT]))
        new_p[i] = kept(c[DECAY], p[i]) + slowed(
            c[MOMENTUM_TERM], new_m[i], c[RATE], limited(g[i], c[SCALE], c[LIMIT]))
        wrong |= nothing(g[i]) + nothing(new_p[i]) != 0
    return wrong


cdef inline int rmsprop_loop(
    Py_ssize_t n, row_t p, row_t g, row_t v, row_t new_p, row_t new_v, row_t c
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_v[i] = mean_square(c[PART_2], limited(g[i], c[SCALE], c[LIMIT]), v[i])
        new_p[i] = kept(c[DECAY], p[i]) - rmsprop_step(
            c[RATE], limited(g[i], c[SCALE], c[LIMIT]), new_v[i], c[EPSILON])
        wrong |= nothing(g[i]) + nothing(new_p[i]) + nothing(new_v[i]) != 0
    return wrong


cdef inline int rmsprop_momentum_loop(
    Py_ssize_t n, row_t p, row_t g, row_t v, row_t m, row_t new_p, row_t new_v, row_t new_m, row_t c
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_v[i] = mean_square(c[PART_2], limited(g[i], c[SCALE], c[LIMIT]), v[i])
        new_m[i] = fma(c[MOMENTUM_TERM], m[i], rmsprop_step(
            c[RATE], limited(g[i], c[SCALE], c[LIMIT]), new_v[i], c[EPSILON]))
        new_p[i] = kept(c[DECAY], p[i]) - new_m[i]
        wrong |= nothing(g[i]) + nothing(new_p[i]) + nothing(new_v[i]) != 0
    return wrong


cdef inline int centered_loop(
    Py_ssize_t n, row_t p, row_t g, row_t v, row_t a, row_t new_p, row_t new_v, row_t new_a, row_t c
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_v[i] = mean_square(c[PART_2], limited(g[i], c[SCALE], c[LIMIT]), v[i])
        new_a[i] = mean(c[PART_2], limited(g[i], c[SCALE], c[LIMIT]), a[i])
        new_p[i] = kept(c[DECAY], p[i]) - rmsprop_step(
            c[RATE], limited(g[i], c[SCALE], c[LIMIT]), variance(new_v[i], new_a[i]), c[EPSILON])
        wrong |= nothing(g[i]) + nothing(new_p[i]) + nothing(new_v[i]) != 0
    return wrong


cdef inline int centered_momentum_loop(
    Py_ssize_t n, row_t p, row_t g, row_t v, row_t a, row_t m, row_t new_p, row_t new_v, row_t new_a, row_t new_m,
    row_t c,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_v[i] = mean_square(c[PART_2], limited(g[i], c[SCALE], c[LIMIT]), v[i])
        new_a[i] = mean(c[PART_2], limited(g[i], c[SCALE], c[LIMIT]), a[i])
        new_m[i] = fma(c[MOMENTUM_TERM], m[i], rmsprop_step(
            c[RATE], limited(g[i], c[SCALE], c[LIMIT]), variance(new_v[i], new_a[i]), c[EPSILON]))
        new_p[i] = kept(c[DECAY], p[i]) - new_m[i]
        wrong |= nothing(g[i]) + nothing(new_p[i]) + nothing(new_v[i]) != 0
    return wrong


cdef inline int adam_loop(
    Py_ssize_t n, row_t p, row_t g, row_t m, row_t v, row_t new_p, row_t new_m, row_t new_v, row_t c
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_m[i] = mean(c[PART_1], limited(g[i], c[SCALE], c[LIMIT]), m[i])
        new_v[i] = mean_square(c[PART_2], limited(g[i], c[SCALE], c[LIMIT]), v[i])
        new_p[i] = kept(c[DECAY], p[i]) - adam_step(c[RATE], new_m[i], new_v[i], c[EPSILON])
        wrong |= nothing(g[i]) + nothing(new_p[i]) + nothing(new_v[i]) != 0
    return wrong


cdef inline int amsgrad_loop(
    Py_ssize_t n, row_t p, row_t g, row_t m, row_t v, row_t top, row_t new_p, row_t new_m, row_t new_v, row_t new_top,
    row_t c,
) noexcept nogil:
    """The largest v so far in the place of v."""
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_m[i] = mean(c[PART_1], limited(g[i], c[SCALE], c[LIMIT]), m[i])
        new_v[i] = mean_square(c[PART_2], limited(g[i], c[SCALE], c[LIMIT]), v[i])
        new_top[i] = larger(top[i], new_v[i])
        new_p[i] = kept(c[DECAY], p[i]) - adam_step(c[RATE], new_m[i], new_top[i], c[EPSILON])
        wrong |= nothing(g[i]) + nothing(new_p[i]) + nothing(new_v[i]) != 0
    return wrong


# -- the formulas, of an element


cdef inline floating limited(floating g, floating scale, floating limit) noexcept nogil:
    """The gradient that counts: g * scale, cut off at -limit and limit; NaN stays."""
    g = g * scale
    return larger(-limit, smaller(limit, g))


cdef inline floating kept(floating decay, floating p) noexcept nogil:
    """p + decay p: in one rounding, or the little that a small decay takes off would be lost."""
    return fma(decay, p, p)


cdef inline floating slowed(floating momentum, floating m, floating rate, floating g) noexcept nogil:
    """momentum m - rate g"""
    return fma(momentum, m, -rate * g)


cdef inline floating mean(floating part, floating g, floating m) noexcept nogil:
    """The running mean m of g: m + part (g - m)."""
    return fma(part, g - m, m)


cdef inline floating mean_square(floating part, floating g, floating v) noexcept nogil:
    return fma(part, fma(g, g, -v), v)


cdef inline floating variance(floating v, floating a) noexcept nogil:
    """v - a^2, which rounding must not make negative."""
    return larger(<floating>0, fma(-a, a, v))


cdef inline floating rmsprop_step(floating rate, floating g, floating v, floating epsilon) noexcept nogil:
    return rate * g / root(v + epsilon)


cdef inline floating adam_step(floating rate, floating m, floating v, floating epsilon) noexcept nogil:
    return rate * m / (root(v) + epsilon)


cdef inline floating smaller(floating a, floating b) noexcept nogil:
    """min(a, b); b where it is NaN."""
    return a if a < b else b


cdef inline floating nothing(floating x) noexcept nogil:
    """0, or NaN of what is infinite or NaN."""
    return x - x


cdef inline floating root(floating x) noexcept nogil:
    if floating is float:
        return sqrtf(x)
    else:
        return sqrt(x)


# -- tasks


cdef inline double squares_sum(Py_ssize_t n, row_t g) noexcept nogil:
    """The sum of g^2; in float64, or that of float32 would overflow from 2e19 on."""
    cdef double[SUMS] sums
    cdef Py_ssize_t j = 0, i
    clear(sums)
    while j + SUMS <= n:
        for i in range(SUMS):
            sums[i] = fma(<double>g[j + i], <double>g[j + i], sums[i])
        j += SUMS
    for i in range(n - j):
        sums[i] = fma(<double>g[j + i], <double>g[j + i], sums[i])
    return added_up(n, sums)


cdef inline void update_range(Update *j, Py_ssize_t i0, Py_ssize_t n, floating *c) noexcept nogil:
    cdef floating *p = <floating *>j.p + i0
    cdef floating *g = <floating *>j.g + i0
    cdef floating *new_p = <floating *>j.new_p + i0
    cdef floating *s[3]
    cdef floating *new_s[3]
    cdef int k, wrong
    for k in range(3):
        s[k] = <floating *>j.slots[k] + (i0 if k < j.slot_count else 0)
        new_s[k] = <floating *>j.new_slots[k] + (i0 if k < j.slot_count else 0)
    for k in range(TERMS):
        c[k] = <floating>j.terms[k]
    if j.method == SGD:
        wrong = sgd_loop(n, p, g, new_p, c)
    elif j.method == MOMENTUM:
        wrong = momentum_loop(n, p, g, s[0], new_p, new_s[0], c)
    elif j.method == NESTEROV:
        wrong = nesterov_loop(n, p, g, s[0], new_p, new_s[0], c)
    elif j.method == RMSPROP:
        wrong = rmsprop_loop(n, p, g, s[0], new_p, new_s[0], c)
    elif j.method == RMSPROP_MOMENTUM:
        wrong = rmsprop_momentum_loop(n, p, g, s[0], s[1], new_p, new_s[0], new_s[1], c)
    elif j.method == CENTERED:
        wrong = centered_loop(n, p, g, s[0], s[1], new_p, new_s[0], new_s[1], c)
    elif j.method == CENTERED_MOMENTUM:
        wrong = centered_momentum_loop(n, p, g, s[0], s[1], s[2], new_p, new_s[0], new_s[1], new_s[2], c)
    elif j.method == ADAM:
        wrong = adam_loop(n, p, g, s[0], s[1], new_p, new_s[0], new_s[1], c)
    else:
        wrong = amsgrad_loop(n, p, g, s[0], s[1], s[2], new_p, new_s[0], new_s[1], new_s[2], c)
    if wrong:
        CGRU_STORE(j.wrong, 1)


cdef void update_task(void *job, int task, int slot) noexcept nogil:
    cdef Update *j = <Update *>job
    cdef Py_ssize_t i0 = task * j.range, n = min(j.range, j.n - i0)
    cdef float[TERMS] single
    cdef double[TERMS] double_
    cdef unsigned was = cgru_flush_denormals()
    if j.method == SQUARES:
        j.sums[task] = squares_sum(n, <float *>j.g + i0) if j.single else squares_sum(n, <double *>j.g + i0)
    elif j.single:
        update_range(j, i0, n, <float *>single)
    else:
        update_range(j, i0, n, <double *>double_)
    cgru_restore_denormals(was)
