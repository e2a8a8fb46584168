/* The register-blocked tile of a matrix product, C (R x PV vectors) = A (R x K) B (K x PV vectors), or +=. C and not
   Cython because accumulators that Cython declares leave the registers. One macro for both precisions; the compiler's
   vector types make it the same text for every instruction set but one (tile_neon.h). Each element of C is one sum over
   k in order of multiply-adds, fused where the target has the instruction (platform.h), whatever R, P, V and the width
   of a vector: a row's result depends neither on the rows beside it nor on the instruction set.

   R rows of A at a + r * a_row + k * a_k (so A may be transposed); P panels of V vectors, b_panel apart in B, c_panel
   in C; B's rows are ldb apart: the panel's width when it is packed, the matrix' when it is not. With ahead, for whole
   panels alone, it also fetches what is needed next from there on, ahead_k bytes for each k. */
#ifndef CGRU_TILE_H
#define CGRU_TILE_H
#include <stddef.h>
#include "platform.h"

#if defined(__AVX512F__)
#define CGRU_VECTOR_BYTES 64
#define CGRU_TILE_ROWS 6 /* 24 accumulators of 32 registers */
#define CGRU_TILE_VECTORS 4
#define CGRU_PIECE_BYTES 32768 /* of a panel, that stays in the first cache of 32 or 48 KB beside the rows of A */
#define CGRU_FAR_ROWS 1536 /* rows of a gradient in bytes, from which it is kept in panels; see passes.pxi */
#elif defined(__AVX2__)
#define CGRU_VECTOR_BYTES 32
#define CGRU_TILE_ROWS 6 /* 12 of 16; three vectors a row spill */
#define CGRU_TILE_VECTORS 2
#define CGRU_PIECE_BYTES 20480 /* a panel is narrower and so a piece longer, and A takes more of the cache */
#define CGRU_FAR_ROWS 1024
#elif defined(__aarch64__) && CGRU_FUSES
#define CGRU_VECTOR_BYTES 16
#define CGRU_TILE_ROWS 4 /* 16 of 32 */
#define CGRU_TILE_VECTORS 4
#define CGRU_PIECE_BYTES 20480
#define CGRU_FAR_ROWS 1024
#else
#define CGRU_VECTOR_BYTES 16
#define CGRU_TILE_ROWS 4
#define CGRU_TILE_VECTORS 2
#define CGRU_PIECE_BYTES 32768
#define CGRU_FAR_ROWS 1024
#endif

#if defined(CGRU_GNU)
#define CGRU_HAS_TILE 1
typedef float float_v __attribute__((vector_size(CGRU_VECTOR_BYTES)));
typedef double double_v __attribute__((vector_size(CGRU_VECTOR_BYTES)));
typedef float float_m __attribute__((vector_size(CGRU_VECTOR_BYTES), aligned(4), may_alias)); /* in memory */
typedef double double_m __attribute__((vector_size(CGRU_VECTOR_BYTES), aligned(8), may_alias));

/* a * b + c; GCC's vectors have no name for the fused one */
#if !CGRU_FUSES
#define CGRU_MULTIPLY_ADD(T, a, b, c) ((a) * (b) + (c))
#else
#define CGRU_MULTIPLY_ADD(T, a, b, c) CGRU_MULTIPLY_ADD_##T(a, b, c)
#if defined(__AVX512F__)
#define CGRU_MULTIPLY_ADD_float(a, b, c) _mm512_fmadd_ps(a, b, c)
#define CGRU_MULTIPLY_ADD_double(a, b, c) _mm512_fmadd_pd(a, b, c)
#elif defined(__AVX2__)
#define CGRU_MULTIPLY_ADD_float(a, b, c) _mm256_fmadd_ps(a, b, c)
#define CGRU_MULTIPLY_ADD_double(a, b, c) _mm256_fmadd_pd(a, b, c)
#else
#define CGRU_MULTIPLY_ADD_float(a, b, c) _mm_fmadd_ps(a, b, c)
#define CGRU_MULTIPLY_ADD_double(a, b, c) _mm_fmadd_pd(a, b, c)
#endif
#endif

#define CGRU_UNROLL _Pragma("GCC unroll 8")
#if defined(__aarch64__) && CGRU_FUSES
#include "tile_neon.h"
#else
#define CGRU_TILE_OF(NAME, AHEAD, T, R, P, V)                                                                        \
  static void NAME##_##R##_##P##_##V(ptrdiff_t K, const T *a, ptrdiff_t a_row, ptrdiff_t a_k, const T *b,            \
      ptrdiff_t ldb, ptrdiff_t b_panel, T *c, ptrdiff_t ldc, ptrdiff_t c_panel, int accumulate, const char *ahead,   \
      ptrdiff_t ahead_k) {                                                                                           \
    enum { LANES = CGRU_VECTOR_BYTES / sizeof(T) };                                                                  \
    T##_v acc[R][P][V];                                                                                              \
    CGRU_UNROLL for (int r = 0; r < R; r++) CGRU_UNROLL for (int p = 0; p < P; p++)                                  \
        CGRU_UNROLL for (int v = 0; v < V; v++)                                                                      \
            acc[r][p][v] =                                                                                           \
                accumulate ? (T##_v)*(const T##_m *)(c + r * ldc + p * c_panel + v * LANES) : (T##_v){0};            \
    for (const T *end = a + K * a_k; a != end; a += a_k, b += ldb) {                                                 \
      if (AHEAD) {                                                                                                   \
        __builtin_prefetch(ahead, 0, 2); /* to the second cache: the first is full of this piece */                  \
        ahead += ahead_k;                                                                                            \
      }                                                                                                              \
      CGRU_UNROLL for (int p = 0; p < P; p++) {                                                                      \
        T##_v w[V]; /* and one element of a at a time: with all of them AVX2 would run out of registers */           \
        CGRU_UNROLL for (int v = 0; v < V; v++) w[v] = *(const T##_m *)(b + p * b_panel + v * LANES);                \
        CGRU_UNROLL for (int r = 0; r < R; r++) {                                                                    \
          const T##_v row = a[r * a_row] - (T##_v){0};                                                               \
          CGRU_UNROLL for (int v = 0; v < V; v++)                                                                    \
              acc[r][p][v] = CGRU_MULTIPLY_ADD(T, w[v], row, acc[r][p][v]);                                          \
        }                                                                                                            \
      }                                                                                                              \
    }                                                                                                                \
    CGRU_UNROLL for (int r = 0; r < R; r++) CGRU_UNROLL for (int p = 0; p < P; p++)                                  \
        CGRU_UNROLL for (int v = 0; v < V; v++)                                                                      \
            *(T##_m *)(c + r * ldc + p * c_panel + v * LANES) = acc[r][p][v];                                        \
  }
#endif
#define CGRU_TILE(T, R, P, V) CGRU_TILE_OF(T##_tile, 0, T, R, P, V)
#define CGRU_TILE_AHEAD(T, R, P, V) CGRU_TILE_OF(T##_ahead, 1, T, R, P, V)

/* A function and its table entry for every (R, P, V) in use: one panel of up to CGRU_TILE_ROWS rows, and up to three
   panels of one or two rows, which alone have too few accumulators to hide the latency of a multiply-add; and again
   whole panels of three rows and more that fetch ahead, which costs small products some per cent. */
#define CGRU_ENTRY(T, R, P, V) T##_tile_##R##_##P##_##V,
#define CGRU_ENTRY_AHEAD(T, R, P, V) T##_ahead_##R##_##P##_##V,
#define CGRU_WIDTHS_2(M, T, R, P) M(T, R, P, 1) M(T, R, P, 2)
#if CGRU_TILE_VECTORS == 4
#define CGRU_WIDTHS(M, T, R, P) CGRU_WIDTHS_2(M, T, R, P) M(T, R, P, 3) M(T, R, P, 4)
#define CGRU_WHOLE(M, T, R) M(T, R, 1, 4)
#else
#define CGRU_WIDTHS(M, T, R, P) CGRU_WIDTHS_2(M, T, R, P)
#define CGRU_WHOLE(M, T, R) M(T, R, 1, 2)
#endif
#define CGRU_ROWS_4(M, T)                                                                                            \
  CGRU_WIDTHS(M, T, 1, 1) CGRU_WIDTHS(M, T, 2, 1) CGRU_WIDTHS(M, T, 3, 1) CGRU_WIDTHS(M, T, 4, 1)
#if CGRU_TILE_ROWS == 6
#define CGRU_ROWS(M, T) CGRU_ROWS_4(M, T) CGRU_WIDTHS(M, T, 5, 1) CGRU_WIDTHS(M, T, 6, 1)
#define CGRU_WHOLES(M, T) CGRU_WHOLE(M, T, 3) CGRU_WHOLE(M, T, 4) CGRU_WHOLE(M, T, 5) CGRU_WHOLE(M, T, 6)
#else
#define CGRU_ROWS(M, T) CGRU_ROWS_4(M, T)
#define CGRU_WHOLES(M, T) CGRU_WHOLE(M, T, 3) CGRU_WHOLE(M, T, 4)
#endif
#define CGRU_FEW(M, T)                                                                                               \
  CGRU_WIDTHS(M, T, 1, 2) CGRU_WIDTHS(M, T, 2, 2) CGRU_WIDTHS(M, T, 1, 3) CGRU_WIDTHS(M, T, 2, 3)

#define CGRU_TILES(T)                                                                                                \
  CGRU_ROWS(CGRU_TILE, T) CGRU_FEW(CGRU_TILE, T) CGRU_WHOLES(CGRU_TILE_AHEAD, T)                                     \
  typedef void (*T##_tile_t)(ptrdiff_t, const T *, ptrdiff_t, ptrdiff_t, const T *, ptrdiff_t, ptrdiff_t, T *,       \
      ptrdiff_t, ptrdiff_t, int, const char *, ptrdiff_t);                                                           \
  static const T##_tile_t T##_rows[] = {CGRU_ROWS(CGRU_ENTRY, T)};                                                   \
  static const T##_tile_t T##_few[] = {CGRU_FEW(CGRU_ENTRY, T)};                                                     \
  static const T##_tile_t T##_wholes[] = {CGRU_WHOLES(CGRU_ENTRY_AHEAD, T)};                                         \
  static void T##_tile(int R, int P, int V, ptrdiff_t K, const T *a, ptrdiff_t a_row, ptrdiff_t a_k, const T *b,     \
      ptrdiff_t ldb, ptrdiff_t b_panel, T *c, ptrdiff_t ldc, ptrdiff_t c_panel, int accumulate, const void *ahead,   \
      ptrdiff_t ahead_k) {                                                                                           \
    (ahead && R > 2 ? T##_wholes[R - 3]                                                                              \
         : P == 1   ? T##_rows[(R - 1) * CGRU_TILE_VECTORS + V - 1]                                                  \
                    : T##_few[((P - 2) * 2 + R - 1) * CGRU_TILE_VECTORS + V - 1])(                                   \
        K, a, a_row, a_k, b, ldb, b_panel, c, ldc, c_panel, accumulate, (const char *)ahead, ahead_k);               \
  }
CGRU_TILES(float)
CGRU_TILES(double)
#endif
#endif
