/* The body of a tile (tile.h) on aarch64, where a multiply-add takes its multiplier from a lane of a vector: of each row
   of A some k lie in vectors, so no element is loaded and spread by itself; of a transposed A a vector has one k of
   several rows. Loads move their pointers on and fetch up to four vectors. So whole panels take 1.2 to 1.3 instructions
   for each multiply-add (.ci/instructions.py looks). */
#ifndef CGRU_TILE_NEON_H
#define CGRU_TILE_NEON_H
#include <arm_neon.h>

#define CGRU_TIMES_float vfmaq_n_f32 /* c + a * b of a number b, fused; one that is a lane of a vector stays there */
#define CGRU_TIMES_double vfmaq_n_f64

/* T_load_V: V vectors from `at` on; returns where the next ones are, step bytes further. */
#define CGRU_LOAD_OF(T, V)                                                                                           \
  static inline __attribute__((always_inline)) const T *T##_load_##V(const T *at, ptrdiff_t step, T##_v *to)
#if defined(__clang__)
#define CGRU_LOAD_VECTORS(T, V, NAME)                                                                                \
  CGRU_LOAD_OF(T, NAME) {                                                                                            \
    CGRU_UNROLL for (int v = 0; v < V; v++) to[v] = *((const T##_m *)at + v);                                        \
    __asm__ volatile("" : "+r"(at) : : "memory"); /* or all loads come first, and find no registers */               \
    return (const T *)((const char *)at + step);                                                                     \
  }
#define CGRU_LOADS(T, X, SIZE)                                                                                       \
  CGRU_LOAD_VECTORS(T, 1, 1) CGRU_LOAD_VECTORS(T, 2, 2) CGRU_LOAD_VECTORS(T, 3, 3) CGRU_LOAD_VECTORS(T, 4, 4)        \
  CGRU_LOAD_VECTORS(T, 2, pair)
#else /* in assembly: GCC makes three instructions of it; %S to %V are the first to fourth of several registers */
#define CGRU_LOAD_VECTORS(T, V, VECTORS, REGISTERS)                                                                  \
  CGRU_LOAD_OF(T, V) {                                                                                               \
    VECTORS x;                                                                                                       \
    __asm__("ld1 {" REGISTERS "}, [%1], %2"                                                                          \
            : "=w"(x), "+r"(at)                                                                                      \
            : "r"(step), "m"(*(const T(*)[V * CGRU_VECTOR_BYTES / sizeof(T)])at));                                   \
    CGRU_UNROLL for (int v = 0; v < V; v++) to[v] = (T##_v)x.val[v];                                                 \
    return at;                                                                                                       \
  }
#define CGRU_LOADS(T, X, SIZE)                                                                                       \
  CGRU_LOAD_OF(T, 1) {                                                                                               \
    __asm__("ld1 {%0" SIZE "}, [%1], %2" : "=w"(to[0]), "+r"(at) : "r"(step), "m"(*(const T##_m *)at));              \
    return at;                                                                                                       \
  }                                                                                                                  \
  CGRU_LOAD_VECTORS(T, 2, X##2_t, "%S0" SIZE " - %T0" SIZE)                                                          \
  CGRU_LOAD_VECTORS(T, 3, X##3_t, "%S0" SIZE " - %U0" SIZE)                                                          \
  CGRU_LOAD_VECTORS(T, 4, X##4_t, "%S0" SIZE " - %V0" SIZE)                                                          \
  CGRU_LOAD_OF(T, pair) { /* two to any registers, where ld1 takes neighbours; its step is a constant */             \
    __asm__("ldp %q0, %q1, [%2], %3"                                                                                 \
            : "=w"(to[0]), "=w"(to[1]), "+r"(at)                                                                     \
            : "n"(2 * CGRU_VECTOR_BYTES), "m"(*(const T(*)[2 * CGRU_VECTOR_BYTES / sizeof(T)])at));                  \
    return at;                                                                                                       \
  }
#endif
CGRU_LOADS(float, float32x4x, ".4s")
CGRU_LOADS(double, float64x2x, ".2d")

/* The load of weights, and of four k of a row. */
#define CGRU_LOAD_WEIGHTS(T, V, at, step, to) T##_load_##V(at, step, to)
#define CGRU_LOAD_FOUR_float float_load_1
#define CGRU_LOAD_FOUR_double double_load_pair

/* One k of all P panels, of V vectors each: acc += B's row * MULTIPLIER, which is A's element of row r. */
#define CGRU_TILE_STEP(T, R, P, V, MULTIPLIER)                                                                       \
  CGRU_UNROLL for (int p = 0; p < P; p++) {                                                                          \
    T##_v w[V];                                                                                                      \
    panel[p] = CGRU_LOAD_WEIGHTS(T, V, panel[p], step, w);                                                           \
    CGRU_UNROLL for (int r = 0; r < R; r++) CGRU_UNROLL for (int v = 0; v < V; v++)                                  \
        acc[r][p][v] = CGRU_TIMES_##T(acc[r][p][v], w[v], MULTIPLIER);                                               \
  }

#define CGRU_TILE_OF(NAME, AHEAD, T, R, P, V)                                                                        \
  static void NAME##_##R##_##P##_##V(ptrdiff_t K, const T *a, ptrdiff_t a_row, ptrdiff_t a_k, const T *b,            \
      ptrdiff_t ldb, ptrdiff_t b_panel, T *c, ptrdiff_t ldc, ptrdiff_t c_panel, int accumulate, const char *ahead,   \
      ptrdiff_t ahead_k) {                                                                                           \
    enum { LANES = CGRU_VECTOR_BYTES / sizeof(T), KS = R == 1 ? 4 * LANES : 4 };                                     \
    const ptrdiff_t step = ldb * (ptrdiff_t)sizeof(T);                                                               \
    const T *panel[P], *end;                                                                                         \
    T##_v acc[R][P][V];                                                                                              \
    CGRU_UNROLL for (int p = 0; p < P; p++) panel[p] = b + p * b_panel;                                              \
    CGRU_UNROLL for (int r = 0; r < R; r++) CGRU_UNROLL for (int p = 0; p < P; p++)                                  \
        CGRU_UNROLL for (int v = 0; v < V; v++)                                                                      \
            acc[r][p][v] =                                                                                           \
                accumulate ? (T##_v)*(const T##_m *)(c + r * ldc + p * c_panel + v * LANES) : (T##_v){0};            \
    if (a_k == 1) { /* KS k of each row in vectors */                                                                \
      const T *row[R];                                                                                               \
      CGRU_UNROLL for (int r = 0; r < R; r++) row[r] = a + r * a_row;                                                \
      for (end = a + K / KS * KS; row[0] != end;) {                                                                  \
        T##_v ks[R][4];                                                                                              \
        if (R == 1) row[0] = T##_load_4(row[0], 4 * CGRU_VECTOR_BYTES, ks[0]);                                       \
        else CGRU_UNROLL for (int r = 0; r < R; r++)                                                                 \
            row[r] = CGRU_LOAD_FOUR_##T(row[r], 4 * sizeof(T), ks[r]);                                               \
        if (AHEAD) {                                                                                                 \
          CGRU_UNROLL for (int k = 0; k < KS; k++) __builtin_prefetch(ahead + k * ahead_k, 0, 2);                    \
          ahead += KS * ahead_k;                                                                                     \
        }                                                                                                            \
        CGRU_UNROLL for (int i = 0; i < KS / LANES; i++) CGRU_UNROLL for (int k = 0; k < LANES; k++)                 \
            CGRU_TILE_STEP(T, R, P, V, ks[r][i][k])                                                                  \
      }                                                                                                              \
      a = end;                                                                                                       \
      K %= KS;                                                                                                       \
    } else if (R % LANES == 0 && a_row == 1) { /* all rows of a k in vectors */                                      \
      for (end = a + K * a_k; a != end;) {                                                                           \
        T##_v rows[2];                                                                                               \
        if (R == LANES) a = T##_load_1(a, a_k * (ptrdiff_t)sizeof(T), rows);                                         \
        else a = T##_load_2(a, a_k * (ptrdiff_t)sizeof(T), rows);                                                    \
        CGRU_TILE_STEP(T, R, P, V, rows[r / LANES][r % LANES])                                                       \
      }                                                                                                              \
      K = 0;                                                                                                         \
    }                                                                                                                \
    for (end = a + K * a_k; a != end; a += a_k) CGRU_TILE_STEP(T, R, P, V, a[r * a_row])                             \
    __asm__("" : "+r"(c), "+r"(ldc)); /* its addresses anew, which need no registers until then */                   \
    CGRU_UNROLL for (int r = 0; r < R; r++) CGRU_UNROLL for (int p = 0; p < P; p++)                                  \
        CGRU_UNROLL for (int v = 0; v < V; v++)                                                                      \
            *(T##_m *)(c + r * ldc + p * c_panel + v * LANES) = acc[r][p][v];                                        \
  }
#endif
