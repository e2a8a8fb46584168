"""Softmax of a row, its gradient, and what cross-entropy sees of it, in loops that vectorise.

A sum over a row runs as SUMS sums side by side, element j going to sum j modulo SUMS, and these are added up in halves:
one order, whatever the width of a vector. Padding takes part in nothing.
"""

from libc.math cimport INFINITY

from cython cimport floating

from activations cimport exp_, fma
from gates cimport row_t

cdef enum:
    SUMS = 64


cdef inline void clear(floating *sums) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(SUMS):
        sums[i] = 0


cdef inline floating added_up(Py_ssize_t n, floating *sums) noexcept nogil:
    """The sum of the sums of n elements; those beyond n are zero."""
    cdef Py_ssize_t half = SUMS // 2, i
    while half >= n and half > 1:
        half //= 2
    while half > 0:
        for i in range(half):
            sums[i] = sums[i] + sums[half + i]
        half //= 2
    return sums[0]


cdef inline floating larger(floating a, floating b) noexcept nogil:
    """max(a, b); b where a is NaN."""
    return a if a > b else b


cdef inline floating biased_maximum(
    Py_ssize_t n,
    row_t z,     # (n,) in: logits without their biases; out: with
    row_t bias,  # (n,)
    floating *tops,  # (SUMS,)
) noexcept nogil:
    """The maximum of the row; NaN counts for nothing."""
    cdef Py_ssize_t j = 0, i
    for i in range(SUMS):
        tops[i] = -INFINITY
    while j + SUMS <= n:
        for i in range(SUMS):
            z[j + i] = z[j + i] + bias[j + i]
            tops[i] = larger(z[j + i], tops[i])
        j += SUMS
    for i in range(n - j):
        z[j + i] = z[j + i] + bias[j + i]
        tops[i] = larger(z[j + i], tops[i])
    return maximum_of(SUMS, tops)


cdef inline floating maximum_of(Py_ssize_t n, floating *tops) noexcept nogil:
    cdef Py_ssize_t i
    while n > 1:
        n //= 2
        for i in range(n):
            tops[i] = larger(tops[i], tops[n + i])
    return tops[0]


cdef inline floating exponentials(
    Py_ssize_t n,
    row_t z,  # (n,) in: logits; out: exp(z - top)
    floating top,
    floating *sums,  # (SUMS,)
) noexcept nogil:
    """The sum of the exponentials."""
    cdef Py_ssize_t j = 0, i
    clear(sums)
    while j + SUMS <= n:
        for i in range(SUMS):
            z[j + i] = exp_(z[j + i] - top)
            sums[i] = sums[i] + z[j + i]
        j += SUMS
    for i in range(n - j):
        z[j + i] = exp_(z[j + i] - top)
        sums[i] = sums[i] + z[j + i]
    return added_up(n, sums)


cdef inline void scaled(Py_ssize_t n, row_t z, floating by) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        z[j] = z[j] * by


cdef inline void scaled_twice(Py_ssize_t n, row_t z, floating by, floating again) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        z[j] = (z[j] * by) * again


cdef inline Py_ssize_t first_largest(Py_ssize_t n, row_t z, floating by, floating *tops) noexcept nogil:
    """Where z * by is the largest, and for the first time; -1 if nothing is, as in a row of NaN."""
    cdef Py_ssize_t j = 0, i
    cdef int found
    cdef floating top
    for i in range(SUMS):
        tops[i] = -INFINITY
    while j + SUMS <= n:
        for i in range(SUMS):
            tops[i] = larger(z[j + i] * by, tops[i])
        j += SUMS
    for i in range(n - j):
        tops[i] = larger(z[j + i] * by, tops[i])
    top = maximum_of(SUMS, tops)
    j = 0
    while j + SUMS <= n:
        found = 0
        for i in range(SUMS):
            found += z[j + i] * by == top
        if found:
            break
        j += SUMS
    while j < n:
        if z[j] * by == top:
            return j
        j += 1
    return -1


cdef inline floating products_sum(
    Py_ssize_t n,
    row_t d,  # (n,)
    row_t y,  # (n,)
    floating *sums,  # (SUMS,)
) noexcept nogil:
    """The sum of d * y."""
    cdef Py_ssize_t j = 0, i
    clear(sums)
    while j + SUMS <= n:
        for i in range(SUMS):
            sums[i] = fma(d[j + i], y[j + i], sums[i])
        j += SUMS
    for i in range(n - j):
        sums[i] = fma(d[j + i], y[j + i], sums[i])
    return added_up(n, sums)


cdef inline void softmax_backward(
    Py_ssize_t n,
    row_t d,      # (n,) of the outputs
    row_t y,      # (n,) the outputs
    floating mean,  # the sum of d * y
    row_t out,    # (n,) of the logits
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = y[j] * (d[j] - mean)
