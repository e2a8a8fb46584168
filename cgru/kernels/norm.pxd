"""Layer normalisation of the products of one row, and the gradients of it, in loops that vectorise:
LN(v) = gain * (v - mean(v)) * scale with scale = 1 / sqrt(var(v) + EPSILON).

Sums run over the units alone, not over what pads them, as SUMS sums side by side (softmax.pxd): one order, whatever the
width of a vector and whoever shares the units. A group may have two blocks, those of r and z.
"""

from cython cimport floating
from libc.math cimport sqrt, sqrtf

from activations cimport fma
from gates cimport row_t
from softmax cimport SUMS, added_up, clear


cdef inline floating normal_scale(floating variance) noexcept nogil:
    cdef floating epsilon = 1e-5
    if floating is float:
        return <floating>1 / sqrtf(variance + epsilon)
    else:
        return <floating>1 / sqrt(variance + epsilon)


cdef inline void add_values(Py_ssize_t n, row_t v, floating *sums) noexcept nogil:
    cdef Py_ssize_t j = 0, i
    while j + SUMS <= n:
        for i in range(SUMS):
            sums[i] = sums[i] + v[j + i]
        j += SUMS
    for i in range(n - j):
        sums[i] = sums[i] + v[j + i]


cdef inline void add_squares(Py_ssize_t n, row_t v, floating mean, floating *sums) noexcept nogil:
    cdef Py_ssize_t j = 0, i
    while j + SUMS <= n:
        for i in range(SUMS):
            sums[i] = fma(v[j + i] - mean, v[j + i] - mean, sums[i])
        j += SUMS
    for i in range(n - j):
        sums[i] = fma(v[j + i] - mean, v[j + i] - mean, sums[i])


cdef inline void statistics(
    Py_ssize_t H, int blocks, Py_ssize_t between,
    floating *v,    # blocks of H, `between` apart
    floating *out,  # (2,) mean and scale
) noexcept nogil:
    cdef floating[SUMS] sums
    cdef floating count = <floating>(blocks * H)
    cdef int block
    clear(sums)
    for block in range(blocks):
        add_values(H, v + block * between, sums)
    out[0] = added_up(H, sums) / count
    clear(sums)
    for block in range(blocks):
        add_squares(H, v + block * between, out[0], sums)
    out[1] = normal_scale(added_up(H, sums) / count)


cdef inline void normalised(
    Py_ssize_t n,
    row_t v,     # (n,)
    row_t gain,  # (n,)
    floating mean, floating scale,
    row_t out,   # (n,) LN(v)
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = gain[j] * ((v[j] - mean) * scale)


cdef inline void normalised_sum(
    Py_ssize_t n,
    row_t v,       # (n,) of the input
    row_t gain,    # (n,)
    floating mean, floating scale,
    row_t w,       # (n,) of the state
    row_t gain_w,  # (n,)
    floating mean_w, floating scale_w,
    row_t out,     # (n,) LN(v) + LN(w)
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = fma(gain[j], (v[j] - mean) * scale, gain_w[j] * ((w[j] - mean_w) * scale_w))


cdef inline void add_gradient_sums(
    Py_ssize_t n,
    row_t d,     # (n,) gradient of LN(v)
    row_t gain,  # (n,)
    row_t v,     # (n,)
    floating mean, floating scale,
    floating *sums,      # (SUMS,) += d * gain
    floating *products,  # (SUMS,) += d * gain * (v - mean) * scale
) noexcept nogil:
    cdef Py_ssize_t j = 0, i
    while j + SUMS <= n:
        for i in range(SUMS):
            sums[i] = fma(d[j + i], gain[j + i], sums[i])
            products[i] = fma(d[j + i] * gain[j + i], (v[j + i] - mean) * scale, products[i])
        j += SUMS
    for i in range(n - j):
        sums[i] = fma(d[j + i], gain[j + i], sums[i])
        products[i] = fma(d[j + i] * gain[j + i], (v[j + i] - mean) * scale, products[i])


cdef inline void normalised_backward(
    Py_ssize_t n,
    row_t d,     # (n,) gradient of LN(v)
    row_t gain,  # (n,)
    row_t v,     # (n,)
    floating mean, floating scale,
    floating of_sum, floating of_product,  # means of d * gain, and of that times (v - mean) * scale
    row_t out,   # (n,) gradient of v
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = scale * (fma(d[j], gain[j], -of_sum) - (v[j] - mean) * scale * of_product)


cdef inline void add_gain_gradient(
    Py_ssize_t n,
    row_t d,      # (n,) gradient of LN(v)
    row_t v,      # (n,)
    floating mean, floating scale,
    row_t total,  # (n,) += gradient of the gain
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        total[j] = fma(d[j], (v[j] - mean) * scale, total[j])
