"""Activations of one number, for the loops of the kernels; their slopes are in gates.pxd.

Each function is inline, without branches and without libm, so that GCC vectorises a loop over it on every instruction
set (flags: -O3 -fno-math-errno -fno-trapping-math; never -ffast-math, which would reassociate the rounding below and
lose NaN). One body for float and double; only constants and the degree of one polynomial differ.

Every multiply-add is written as `fma`, no other multiplication fuses with an addition (platform.h).

exp, sigmoid and tanh rest on one range reduction, x = k ln(2) + r with |r| <= ln(2) / 2, and on one polynomial q:

    exp(r) = 1 + (r + r^2 q(r))

    sigmoid(x) = 1 / (1 + 2^k exp(r))                                        reduced from -x
    tanh(x)    = m / (m + 2),  m = 2^k (r + r^2 q(r)) + (2^k - 1)            reduced from 2 x

m = exp(2 x) - 1 has no cancellation: where x is small, k is 0 and m is the polynomial itself, so that tanh needs no
second formula near 0. sigmoid and tanh are within 2.7 units in the last place (benchmarks/activation_accuracy.py;
coefficients: benchmarks/fit_activations.py), saturate exactly, and pass NaN on. tanh(-x) and -tanh(x) may differ in the
last place.
"""

from cython cimport floating
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "platform.h" nogil:
    float cgru_fma_float(float a, float b, float c) noexcept
    double cgru_fma_double(double a, double b, double c) noexcept
    uint32_t cgru_bits_of_float(float x) noexcept
    float cgru_float_of_bits(uint32_t bits) noexcept
    uint64_t cgru_bits_of_double(double x) noexcept
    double cgru_double_of_bits(uint64_t bits) noexcept


cdef enum Activation:
    SIGMOID = 0
    TANH = 1
    RELU = 2
    LINEAR = 3
    HARD_SIGMOID = 4
    HARD_SIGMOID_KERAS2 = 5


cdef inline floating fma(floating a, floating b, floating c) noexcept nogil:
    """a * b + c, fused where the build has the instruction."""
    if floating is float:
        return cgru_fma_float(a, b, c)
    else:
        return cgru_fma_double(a, b, c)


cdef inline floating clip(floating x, floating low, floating high) noexcept nogil:
    """x within [low, high]; NaN stays NaN, both comparisons being false for it."""
    x = low if low > x else x
    return high if high < x else x


cdef inline floating reduced(floating x, floating *r) noexcept nogil:
    """k as the low bits of a number (see `power`), and r[0] = x - k ln(2) with |r[0]| <= ln(2) / 2.

    Adding 1.5 * 2^23 (double: 1.5 * 2^52) rounds to an integer, which SSE2 has no instruction for, and leaves it in the
    low bits. The exponent's bias is added with it. The high part of ln(2) is short enough that k times it is exact.
    """
    cdef floating shifted
    cdef floating k
    if floating is float:
        shifted = fma(x, <float>1.44269504088896341, <float>(12582912 + 127))
        k = shifted - <float>(12582912 + 127)
        r[0] = fma(k, <float>-1.42860682030941723e-6, fma(k, <float>-0.693145751953125, x))
    else:
        shifted = fma(x, 1.44269504088896341, <double>(6755399441055744 + 1023))
        k = shifted - <double>(6755399441055744 + 1023)
        r[0] = fma(k, -1.9082149292705878e-10, fma(k, -0.6931471803691238, x))
    return shifted


cdef inline floating power(floating shifted) noexcept nogil:
    """2^k from what `reduced` returned, for k from -127 to 128 (double: -1023 to 1024), whose ends give 0 and
    infinity: the exponent's bias is in the low bits, so one shift does it."""
    if floating is float:
        return cgru_float_of_bits(cgru_bits_of_float(shifted) << 23)
    else:
        return cgru_double_of_bits(cgru_bits_of_double(shifted) << 52)


cdef inline floating tail(floating r, floating r2) noexcept nogil:
    """q(r) = (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2, given r2 = r * r.

    Estrin's order, not Horner's: a row of units is short, so the depth of the chain counts (float: 10-20 % of a step's
    elementwise update, double: 20-30 %).
    """
    cdef floating low
    cdef floating middle
    cdef floating high
    if floating is float:
        low = fma(r, <float>0.16666543, <float>0.49999997)
        high = fma(r2, <float>0.001388252, fma(r, <float>0.00836653, <float>0.0416672))
        return fma(r2, high, low)
    else:
        low = fma(
            r2, fma(r, 0.008333333333389618, 0.04166666666657665), fma(r, 0.16666666666666588, 0.5000000000000006))
        middle = fma(r, 0.00019841269718896235, 0.001388888893160161)
        high = fma(r, 2.755740759844138e-06, 2.480150522664573e-05)
        high = fma(r2, fma(r, 2.5053773876560583e-08, 2.762605766156571e-07), high)
        return fma(r2 * r2, fma(r2, high, middle), low)


cdef inline floating exp_(floating x) noexcept nogil:
    """exp(x) of any x: 0 and infinity where it leaves the type. The underscore keeps clear of the C library's name."""
    cdef floating r
    cdef floating r2
    cdef floating shifted
    cdef floating value
    cdef uint32_t biased
    cdef uint64_t wide
    if floating is float:
        x = clip(x, <float>-104, <float>89)
    else:
        x = clip(x, -746, 710)
    shifted = reduced(x, &r)
    r2 = r * r
    value = <floating>1 + fma(r2, tail(r, r2), r)
    # 2^k in two factors, since the ends of the range are beyond one: each half of k + 2 * bias is an exponent with its
    # bias. What else is in the bits, the shifts remove.
    if floating is float:
        biased = cgru_bits_of_float(shifted) + 127
        value = value * cgru_float_of_bits((biased >> 1) << 23)
        return value * cgru_float_of_bits((biased - (biased >> 1)) << 23)
    else:
        wide = cgru_bits_of_double(shifted) + 1023
        value = value * cgru_double_of_bits((wide >> 1) << 52)
        return value * cgru_double_of_bits((wide - (wide >> 1)) << 52)


cdef inline floating sigmoid(floating x) noexcept nogil:
    """1 / (1 + exp(-x))."""
    cdef floating r
    cdef floating r2
    cdef floating scale
    # Below the lower limit exp is infinite and the sigmoid 0; above the upper one it is 1 long since.
    if floating is float:
        x = clip(x, <float>-89, <float>88)
    else:
        x = clip(x, -710, 708)
    scale = power(reduced(-x, &r))
    r2 = r * r
    return <floating>1 / fma(scale, <floating>1 + fma(r2, tail(r, r2), r), <floating>1)


cdef inline floating tanh_(floating x) noexcept nogil:
    """Hyperbolic tangent."""
    cdef floating r
    cdef floating r2
    cdef floating scale
    cdef floating m
    # Past +-10 (double: +-20) the quotient is exactly +-1.
    if floating is float:
        x = clip(x, <float>-10, <float>10)
    else:
        x = clip(x, -20, 20)
    scale = power(reduced(x + x, &r))
    r2 = r * r
    m = fma(scale, fma(r2, tail(r, r2), r), scale - <floating>1)
    return m / (m + <floating>2)


cdef inline floating relu(floating x) noexcept nogil:
    """max(x, 0), NaN passing."""
    return <floating>0 if <floating>0 > x else x


cdef inline floating linear(floating x) noexcept nogil:
    """x."""
    return x


cdef inline floating hard_sigmoid(floating x) noexcept nogil:
    """clip(x / 6 + 0.5, 0, 1): Keras 3, PyTorch."""
    return clip(fma(x, <floating>0.16666666666666667, <floating>0.5), <floating>0, <floating>1)


cdef inline floating hard_sigmoid_keras2(floating x) noexcept nogil:
    """clip(0.2 x + 0.5, 0, 1): Keras 2, ONNX."""
    return clip(fma(x, <floating>0.2, <floating>0.5), <floating>0, <floating>1)


cdef inline floating activate(int code, floating x) noexcept nogil:
    """The activation of this code (Activation) at x. With a constant code the compiler keeps just that function."""
    if code == SIGMOID:
        return sigmoid(x)
    if code == TANH:
        return tanh_(x)
    if code == RELU:
        return relu(x)
    if code == HARD_SIGMOID:
        return hard_sigmoid(x)
    if code == HARD_SIGMOID_KERAS2:
        return hard_sigmoid_keras2(x)
    return linear(x)
