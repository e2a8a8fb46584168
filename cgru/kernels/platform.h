/* What Cython cannot say by itself: bit casts between floating-point and unsigned integer values.
 * memcpy is the portable cast; compilers reduce it to nothing and vectorise through it. */
#ifndef CGRU_PLATFORM_H
#define CGRU_PLATFORM_H

#include <stdint.h>
#include <string.h>

static inline uint32_t cgru_bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float cgru_float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint64_t cgru_bits_of_double(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline double cgru_double_of_bits(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
