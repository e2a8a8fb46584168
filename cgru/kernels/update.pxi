# Updates of an optimizer: one pass over parameter, gradient and what the optimizer remembers. Included by kernels.pxi;
# dense.pxi makes the jobs. Each element is on its own, so the tasks, ranges of them, change no bit.

cdef extern from "platform.h" nogil:
    int CGRU_STORE(int v, int to) noexcept


cdef inline int adam_loop(
    Py_ssize_t n, row_t p, row_t g, row_t m, row_t v, row_t new_p, row_t new_m, row_t new_v,
    floating part_1, floating part_2, floating rate, floating epsilon,
) noexcept nogil:
    """m += part_1 (g - m), v += part_2 (g^2 - v), p -= rate m / (sqrt(v) + epsilon). Return whether a new value is not
    finite."""
    cdef Py_ssize_t i
    cdef int wrong = 0
    for i in range(n):
        new_m[i] = fma(part_1, g[i] - m[i], m[i])
        new_v[i] = fma(part_2, fma(g[i], g[i], -v[i]), v[i])
        new_p[i] = p[i] - rate * new_m[i] / (root(new_v[i]) + epsilon)
        wrong |= infinite(new_p[i]) | infinite(new_v[i])
    return wrong


cdef inline int infinite(floating x) noexcept nogil:
    """Whether x is infinite or NaN."""
    return x - x != 0


cdef inline floating root(floating x) noexcept nogil:
    if floating is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline void update_range(Update *j, Py_ssize_t i0, Py_ssize_t n, floating *dtype) noexcept nogil:
    cdef floating *p = <floating *>j.p + i0
    cdef floating *g = <floating *>j.g + i0
    cdef floating *new_p = <floating *>j.new_p + i0
    cdef int wrong = 0
    if j.method == ADAM:
        wrong = adam_loop(
            n, p, g, <floating *>j.slots[0] + i0, <floating *>j.slots[1] + i0, new_p,
            <floating *>j.new_slots[0] + i0, <floating *>j.new_slots[1] + i0,
            <floating>j.terms[0], <floating>j.terms[1], <floating>j.terms[2], <floating>j.terms[3],
        )
    if wrong:
        CGRU_STORE(j.wrong, 1)


cdef void update_task(void *job, int task, int slot) noexcept nogil:
    cdef Update *j = <Update *>job
    cdef Py_ssize_t i0 = task * j.range, n = min(j.range, j.n - i0)
    cdef unsigned was = cgru_flush_denormals()
    if j.single:
        update_range(j, i0, n, <float *>NULL)
    else:
        update_range(j, i0, n, <double *>NULL)
    cgru_restore_denormals(was)
