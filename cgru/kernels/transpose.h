/* Transposed copies for packing: out (m x n) = sign * in^T, in (n x m). In C for vector types as in tile.h: squares of
   L x L elements go through registers, in log2(L) rounds that interleave the rows i and i + L/2. Some four times as fast
   as element by element where weights are read across their rows. */
#ifndef CGRU_TRANSPOSE_H
#define CGRU_TRANSPOSE_H
#include <stddef.h>
#define CGRU_STRIP 64 /* rows of out at a time: they stay in the first cache */

#if defined(CGRU_GNU) && (defined(__AVX2__) || defined(__aarch64__))
#if defined(__clang__)
#define CGRU_SHUFFLE(I, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define CGRU_SHUFFLE(I, a, b, ...) __builtin_shuffle(a, b, (I){__VA_ARGS__})
#endif
#if defined(__AVX2__)
#define CGRU_LINE_BYTES 32
#define CGRU_float_LANES 8
#define CGRU_double_LANES 4
#define CGRU_float_LOW(a, b) CGRU_SHUFFLE(float_places, a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define CGRU_float_HIGH(a, b) CGRU_SHUFFLE(float_places, a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define CGRU_double_LOW(a, b) CGRU_SHUFFLE(double_places, a, b, 0, 4, 1, 5)
#define CGRU_double_HIGH(a, b) CGRU_SHUFFLE(double_places, a, b, 2, 6, 3, 7)
#else
#define CGRU_LINE_BYTES 16
#define CGRU_float_LANES 4
#define CGRU_double_LANES 2
#define CGRU_float_LOW(a, b) CGRU_SHUFFLE(float_places, a, b, 0, 4, 1, 5)
#define CGRU_float_HIGH(a, b) CGRU_SHUFFLE(float_places, a, b, 2, 6, 3, 7)
#define CGRU_double_LOW(a, b) CGRU_SHUFFLE(double_places, a, b, 0, 2)
#define CGRU_double_HIGH(a, b) CGRU_SHUFFLE(double_places, a, b, 1, 3)
#endif
typedef float float_line __attribute__((vector_size(CGRU_LINE_BYTES), aligned(4), may_alias));
typedef double double_line __attribute__((vector_size(CGRU_LINE_BYTES), aligned(8), may_alias));
typedef int float_places __attribute__((vector_size(CGRU_LINE_BYTES)));
typedef long long double_places __attribute__((vector_size(CGRU_LINE_BYTES)));
#define CGRU_EACH_LINE _Pragma("GCC unroll 8")
#define CGRU_ROUND(T, L, a, b)                                                                                       \
  for (int i = 0; i < L / 2; i++) {                                                                                  \
    b[2 * i] = CGRU_##T##_LOW(a[i], a[i + L / 2]);                                                                   \
    b[2 * i + 1] = CGRU_##T##_HIGH(a[i], a[i + L / 2]);                                                              \
  }
#define CGRU_SQUARE(T, L)                                                                                            \
  static inline void T##_square(const T *in, ptrdiff_t in_row, T *out, ptrdiff_t out_row, T sign) {                  \
    T##_line a[L], b[L];                                                                                             \
    CGRU_EACH_LINE for (int i = 0; i < L; i++) a[i] = *(const T##_line *)(in + i * in_row) * sign;                   \
    CGRU_ROUND(T, L, a, b)                                                                                           \
    if (L > 2) CGRU_ROUND(T, L, b, a)                                                                                \
    if (L > 4) CGRU_ROUND(T, L, a, b)                                                                                \
    CGRU_EACH_LINE for (int i = 0; i < L; i++) *(T##_line *)(out + i * out_row) = L == 4 ? a[i] : b[i];              \
  }
#else
#define CGRU_float_LANES 1
#define CGRU_double_LANES 1
#define CGRU_SQUARE(T, L)                                                                                            \
  static inline void T##_square(const T *in, ptrdiff_t in_row, T *out, ptrdiff_t out_row, T sign) { *out = *in * sign; }
#endif

#define CGRU_TRANSPOSE(T, L)                                                                                         \
  CGRU_SQUARE(T, L)                                                                                                  \
  static void T##_transpose(ptrdiff_t m, ptrdiff_t n, const T *in, ptrdiff_t in_row, T *out, ptrdiff_t out_row,      \
      T sign) {                                                                                                      \
    for (ptrdiff_t strip = 0; strip < m; strip += CGRU_STRIP) {                                                      \
      ptrdiff_t end = strip + CGRU_STRIP < m ? strip + CGRU_STRIP : m;                                               \
      for (ptrdiff_t j = 0; j < n; j += L)                                                                           \
        for (ptrdiff_t i = strip; i < end; i += L) {                                                                 \
          if (i + L <= end && j + L <= n) {                                                                          \
            T##_square(in + j * in_row + i, in_row, out + i * out_row + j, out_row, sign);                           \
            continue;                                                                                                \
          }                                                                                                          \
          for (ptrdiff_t y = i; y < end && y < i + L; y++)                                                           \
            for (ptrdiff_t x = j; x < n && x < j + L; x++) out[y * out_row + x] = in[x * in_row + y] * sign;         \
        }                                                                                                            \
    }                                                                                                                \
  }
CGRU_TRANSPOSE(float, CGRU_float_LANES)
CGRU_TRANSPOSE(double, CGRU_double_LANES)
#endif
