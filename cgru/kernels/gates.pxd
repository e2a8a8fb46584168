"""The elementwise updates of one row of one step, forward and backward: the equations of reference.py in loops that
vectorise.

Design: every loop runs over units of a single row, so a row's arithmetic does not depend on its neighbours, and the
reset stands in functions of its own between the gates and the candidate, which lets the other loops serve both reset
modes. The two loops with an activation are compiled once for each (6 + 6 loops, not 36 pairs); backward needs no
copies, its slopes are one formula in the output. The pointers of one call never overlap (restrict): without that
promise GCC would version every loop for aliasing.

Layouts of a row: the tape's gates r z n q, or r z n when the reset comes before; they hold the products first and are
transformed in place. The gate gradients dg: n r z q, or n r z: [n r z] meets the input, [r z q] the state.
"""

from libc.math cimport NAN

from cython cimport floating

from activations cimport (
    HARD_SIGMOID,
    HARD_SIGMOID_KERAS2,
    LINEAR,
    RELU,
    SIGMOID,
    TANH,
    activate,
    fma,
)

cdef extern from *:
    """
    typedef float *CYTHON_RESTRICT float_row;
    typedef double *CYTHON_RESTRICT double_row;
    """
    ctypedef float *float_row
    ctypedef double *double_row

ctypedef fused row_t:
    float_row
    double_row


cdef inline floating one_minus(floating v) noexcept nogil:
    """In the type of v: Cython writes a bare 1 as 1.0, and the loop would run in double."""
    return <floating>1 - v


cdef inline floating where(bint chosen, floating v) noexcept nogil:
    """v or 0, in the type of v."""
    return v if chosen else <floating>0


cdef inline floating either(bint first, floating a, floating b) noexcept nogil:
    """a or b, which are both read: what is read on a condition keeps a loop from vectors."""
    return a if first else b


cdef enum:
    SLOPE_TERMS = 6


cdef inline void slope_terms(int activation, row_t terms) noexcept nogil:
    """terms (SLOPE_TERMS,): a, b, c, low, high, bounded; see `slope`."""
    terms[0] = 1
    terms[1] = 0
    terms[2] = 0
    terms[3] = 0
    terms[4] = NAN
    terms[5] = 0
    if activation == SIGMOID:
        terms[0] = 0
        terms[1] = 1
        terms[2] = -1
    elif activation == TANH:
        terms[2] = -1
    elif activation == RELU:
        terms[5] = 1
    elif activation == HARD_SIGMOID or activation == HARD_SIGMOID_KERAS2:
        terms[0] = 1.0 / 6.0 if activation == HARD_SIGMOID else 0.2
        terms[4] = 1
        terms[5] = 1


cdef inline floating slope(
    floating y, floating a, floating b, floating c, floating low, floating high, floating bounded
) noexcept nogil:
    """The slope where the activation's value is y: a + b y + c y^2; if bounded, only within low < y < high, else 0.
    It follows from the output, so that backward keeps no inputs.

    A constant slope does not read y, or that of an infinite output would be 0 times infinity; NaN lies within no
    bounds and passes through a curve. Selections, because GCC does not vectorise an `or`; a high of NaN is no bound.
    """
    cdef floating curved = <floating>0 if c == 0 else y
    cdef floating where = <floating>1 if bounded == 0 else y
    cdef floating value = fma(curved, fma(curved, c, b), a)
    value = value if where > low else <floating>0
    return <floating>0 if where >= high else value


# ---- forward ----

cdef inline void gates_loop(const int f, Py_ssize_t n, row_t gates, row_t bias) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        gates[j] = activate(f, gates[j] + bias[j])


cdef inline void gates_forward(
    int f,
    Py_ssize_t n,
    row_t gates,  # (n,) in: x W + h U of r, z or both; out: r, z
    row_t bias,   # (n,)
) noexcept nogil:
    """r = f(x W_r + h U_r + b_r), z = f(x W_z + h U_z + b_z)"""
    if f == SIGMOID:
        gates_loop(SIGMOID, n, gates, bias)
    elif f == TANH:
        gates_loop(TANH, n, gates, bias)
    elif f == RELU:
        gates_loop(RELU, n, gates, bias)
    elif f == LINEAR:
        gates_loop(LINEAR, n, gates, bias)
    elif f == HARD_SIGMOID:
        gates_loop(HARD_SIGMOID, n, gates, bias)
    else:
        gates_loop(HARD_SIGMOID_KERAS2, n, gates, bias)


cdef inline void reset_after_forward(
    Py_ssize_t H,
    row_t r,  # (H,)
    row_t q,  # (H,) in: h U_n; out: h U_n + c_n
    row_t c,  # (H,) the recurrent bias of the candidate
    row_t n,  # (H,) in: x W_n; out: x W_n + r * q
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(H):
        q[j] = q[j] + c[j]
        n[j] = fma(r[j], q[j], n[j])


cdef inline void reset_before_forward(
    Py_ssize_t H,
    row_t r,  # (H,)
    row_t h,  # (H,)
    row_t s,  # (H,) out: r * h
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(H):
        s[j] = r[j] * h[j]


cdef inline void candidate_loop(
    const int g, Py_ssize_t H, row_t n, row_t bias, row_t z, row_t h, row_t h_next
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(H):
        n[j] = activate(g, n[j] + bias[j])
        h_next[j] = fma(z[j], n[j], one_minus(z[j]) * h[j])


cdef inline void candidate_forward(
    int g,
    Py_ssize_t H,
    row_t n,       # (H,) in: x W_n + r * q, or x W_n + (r * h) U_n; out: n
    row_t bias,    # (H,) of n
    row_t z,       # (H,)
    row_t h,       # (H,) the state before the step
    row_t h_next,  # (H,) out
) noexcept nogil:
    """n = g(. + b_n), h' = (1 - z) * h + z * n"""
    if g == TANH:
        candidate_loop(TANH, H, n, bias, z, h, h_next)
    elif g == SIGMOID:
        candidate_loop(SIGMOID, H, n, bias, z, h, h_next)
    elif g == RELU:
        candidate_loop(RELU, H, n, bias, z, h, h_next)
    elif g == LINEAR:
        candidate_loop(LINEAR, H, n, bias, z, h, h_next)
    elif g == HARD_SIGMOID:
        candidate_loop(HARD_SIGMOID, H, n, bias, z, h, h_next)
    else:
        candidate_loop(HARD_SIGMOID_KERAS2, H, n, bias, z, h, h_next)


cdef inline void times(Py_ssize_t n, row_t a, row_t b, row_t out) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = a[j] * b[j]


cdef inline void zones_forward(
    Py_ssize_t n,
    const unsigned char *taken,  # (n,) whether the unit takes its new state
    row_t h,       # (n,) the state before the step
    row_t h_next,  # (n,) in: the new state; out: that of the unit
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        h_next[j] = either(taken[j] != 0, h_next[j], h[j])


cdef inline void zones_expected(Py_ssize_t n, floating rate, row_t h, row_t h_next) noexcept nogil:
    """h' = rate * h + (1 - rate) * h'"""
    cdef Py_ssize_t j
    for j in range(n):
        h_next[j] = fma(rate, h[j], one_minus(rate) * h_next[j])


# ---- backward ----

cdef inline void candidate_backward(
    row_t f,   # slope_terms of the gates
    row_t g,   # slope_terms of the candidate
    Py_ssize_t H,
    row_t z,   # (H,)
    row_t n,   # (H,)
    row_t h,   # (H,) the state before the step
    row_t dh,  # (H,) in: of the state after the step; out: its direct part in the state before
    row_t dn,  # (H,) out, of the pre-activation
    row_t dz,  # (H,) out, of the pre-activation
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(H):
        dn[j] = dh[j] * z[j] * slope(n[j], g[0], g[1], g[2], g[3], g[4], g[5])
        dz[j] = dh[j] * (n[j] - h[j]) * slope(z[j], f[0], f[1], f[2], f[3], f[4], f[5])
        dh[j] = dh[j] * one_minus(z[j])


cdef inline void reset_after_backward(
    row_t f,   # slope_terms of the gates
    Py_ssize_t H,
    row_t r,   # (H,)
    row_t q,   # (H,)
    row_t dn,  # (H,)
    row_t dr,  # (H,) out, of the pre-activation
    row_t dq,  # (H,) out
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(H):
        dq[j] = dn[j] * r[j]
        dr[j] = dn[j] * q[j] * slope(r[j], f[0], f[1], f[2], f[3], f[4], f[5])


cdef inline void reset_before_backward(
    row_t f,   # slope_terms of the gates
    Py_ssize_t H,
    row_t r,   # (H,)
    row_t h,   # (H,) the state before the step
    row_t ds,  # (H,) of r * h: dn U_n^T
    row_t dr,  # (H,) out, of the pre-activation
    row_t dh,  # (H,) in and out
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(H):
        dr[j] = ds[j] * h[j] * slope(r[j], f[0], f[1], f[2], f[3], f[4], f[5])
        dh[j] = fma(ds[j], r[j], dh[j])


cdef inline void zones_backward(
    Py_ssize_t n,
    const unsigned char *taken,  # (n,)
    row_t dh,    # (n,) in: of the unit's state after the step; out: of the new state
    row_t kept,  # (n,) out: what goes to the old state past the gates
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        kept[j] = where(taken[j] == 0, dh[j])
        dh[j] = where(taken[j] != 0, dh[j])


cdef inline void zones_expected_backward(Py_ssize_t n, floating rate, row_t dh, row_t kept) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        kept[j] = rate * dh[j]
        dh[j] = one_minus(rate) * dh[j]


cdef inline void add_times(Py_ssize_t n, row_t a, row_t b, row_t total) noexcept nogil:
    """total += a * b"""
    cdef Py_ssize_t j
    for j in range(n):
        total[j] = fma(a[j], b[j], total[j])


cdef inline void add(Py_ssize_t n, row_t total, row_t term) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        total[j] = total[j] + term[j]
