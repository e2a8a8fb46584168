/* Tiles of products with weights of 16 or 8 bits, C (R x PV vectors) = A (R x K) B (K x PV vectors), or +=, in float.
   The arrangement is that of tile.h: R rows of A, a_row apart and contiguous; P panels of V vectors, b_panel apart in B and
   c_panel in C.

   half, bfloat: 16 bits are widened on their way to a register; the sum is that of tile.h, so the result has the bits of a
   product with the widened weights.

   codes: of four k at a time, which stand side by side for each column as four bytes, the products of two integers of 8
   bits are added up in 32 bits. Such sums are exact, whatever the instructions for them; then
   C = sum * (scale of the column * scale of the row), and += is an addition of its own. */
#ifndef CGRU_NARROW_H
#define CGRU_NARROW_H
#include "tile.h"
#if defined(__AVX2__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__ARM_FEATURE_DOTPROD)
#define CGRU_DOTS_ALWAYS 1
#else
#define CGRU_DOTS_ALWAYS 0
#endif
#if defined(__AVX2__) && !defined(__AVX512F__)
#define CGRU_SORTS 1
#else
#define CGRU_SORTS 0
#endif

#if defined(CGRU_HAS_TILE)
typedef uint16_t half;
typedef uint16_t bfloat;
enum { CGRU_LANES = CGRU_VECTOR_BYTES / 4, CGRU_NARROW_WIDTH = CGRU_TILE_VECTORS * CGRU_LANES };
typedef int32_t int_v __attribute__((vector_size(CGRU_VECTOR_BYTES)));
typedef int32_t int_m __attribute__((vector_size(CGRU_VECTOR_BYTES), aligned(4), may_alias));
typedef uint16_t short_m __attribute__((vector_size(CGRU_VECTOR_BYTES / 2), aligned(2), may_alias));

/* A vector of float from 16 bits each. */
#if defined(__AVX512F__)
#define CGRU_WIDEN_half(at) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(at)))
#define CGRU_WIDEN_bfloat(at)                                                                                        \
  _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(at))), 16))
#elif defined(__AVX2__)
#define CGRU_WIDEN_half(at) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at)))
#define CGRU_WIDEN_bfloat(at)                                                                                        \
  _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(at))), 16))
#elif defined(__aarch64__)
#define CGRU_WIDEN_half(at) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)(at))))
#define CGRU_WIDEN_bfloat(at) vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t *)(at)), 16))
#else
#define CGRU_WIDEN_half(at) cgru_of_half(at)
#define CGRU_WIDEN_bfloat(at) cgru_of_bfloat(at)
static inline int_v cgru_of_short(const uint16_t *at) {
  return (int_v){at[0], at[1], at[2], at[3]};
}
static inline float_v cgru_of_bfloat(const uint16_t *at) { return (float_v)(cgru_of_short(at) << 16); }
/* By integers, because denormals count as zero while kernels run: a fraction is a number of 2^-24 where the exponent is
   zero, else the exponent moves by 112. There are no infinities among weights. */
static inline float_v cgru_of_half(const uint16_t *at) {
  const int_v bits = cgru_of_short(at), rest = bits & 0x7fff, small = rest < 0x400;
  const int_v tiny = (int_v)(__builtin_convertvector(rest, float_v) * 0x1p-24f);
  return (float_v)(((bits & 0x8000) << 16) | (small & tiny) | (~small & ((rest << 13) + (112 << 23))));
}
#endif

#define CGRU_NARROW_TILE(S, R, P, V)                                                                                 \
  static void S##_tile_##R##_##P##_##V(ptrdiff_t K, const float *a, ptrdiff_t a_row, const uint16_t *b,              \
      ptrdiff_t ldb, ptrdiff_t b_panel, float *c, ptrdiff_t ldc, ptrdiff_t c_panel, int accumulate) {                \
    float_v acc[R][P][V];                                                                                            \
    CGRU_UNROLL for (int r = 0; r < R; r++) CGRU_UNROLL for (int p = 0; p < P; p++)                                  \
        CGRU_UNROLL for (int v = 0; v < V; v++)                                                                      \
            acc[r][p][v] = accumulate ? (float_v)*(const float_m *)(c + r * ldc + p * c_panel + v * CGRU_LANES)      \
                                      : (float_v){0};                                                                \
    for (const float *end = a + K; a != end; a++, b += ldb)                                                          \
      CGRU_UNROLL for (int p = 0; p < P; p++) {                                                                      \
        float_v w[V];                                                                                                \
        CGRU_UNROLL for (int v = 0; v < V; v++) w[v] = (float_v)CGRU_WIDEN_##S(b + p * b_panel + v * CGRU_LANES);    \
        CGRU_UNROLL for (int r = 0; r < R; r++) {                                                                    \
          const float_v row = a[r * a_row] - (float_v){0};                                                           \
          CGRU_UNROLL for (int v = 0; v < V; v++)                                                                    \
              acc[r][p][v] = CGRU_NARROW_ADD(w[v], row, acc[r][p][v]);                                               \
        }                                                                                                            \
      }                                                                                                              \
    CGRU_UNROLL for (int r = 0; r < R; r++) CGRU_UNROLL for (int p = 0; p < P; p++)                                  \
        CGRU_UNROLL for (int v = 0; v < V; v++)                                                                      \
            *(float_m *)(c + r * ldc + p * c_panel + v * CGRU_LANES) = acc[r][p][v];                                 \
  }
#if defined(__aarch64__) && CGRU_FUSES
#define CGRU_NARROW_ADD(w, row, sum) vfmaq_f32(sum, w, row)
#else
#define CGRU_NARROW_ADD(w, row, sum) CGRU_MULTIPLY_ADD(float, w, row, sum)
#endif

/* Whole panels, and single vectors for what is left of the columns: of up to CGRU_TILE_ROWS rows, of one and two rows in
   several panels, since what widens takes longer than what multiplies. */
#if CGRU_TILE_VECTORS == 4
#define CGRU_NARROW_V 4
#define CGRU_NARROW_FEW(M, S) M(S, 1, 2, 4) M(S, 1, 3, 4) M(S, 2, 2, 4)
#define CGRU_MOST_PANELS 3 /* of a single row */
#define CGRU_NARROW_PAIR 2 /* of two rows */
#else
#define CGRU_NARROW_V 2
#define CGRU_NARROW_FEW(M, S) M(S, 1, 2, 2) M(S, 1, 3, 2) M(S, 1, 6, 2) M(S, 2, 2, 2)
#define CGRU_MOST_PANELS 6
#define CGRU_NARROW_PAIR 2
#endif
#define CGRU_JOIN(M, S, R, P, V) M(S, R, P, V)
#define CGRU_NARROW_BOTH(M, S, R) M(S, R, 1, 1) CGRU_JOIN(M, S, R, 1, CGRU_NARROW_V)
#define CGRU_NARROW_4(M, S)                                                                                          \
  CGRU_NARROW_BOTH(M, S, 1) CGRU_NARROW_BOTH(M, S, 2) CGRU_NARROW_BOTH(M, S, 3) CGRU_NARROW_BOTH(M, S, 4)
#if CGRU_TILE_ROWS == 6
#define CGRU_NARROW_ROWS(M, S) CGRU_NARROW_4(M, S) CGRU_NARROW_BOTH(M, S, 5) CGRU_NARROW_BOTH(M, S, 6)
#else
#define CGRU_NARROW_ROWS(M, S) CGRU_NARROW_4(M, S)
#endif
#define CGRU_NARROW_ENTRY(S, R, P, V) S##_tile_##R##_##P##_##V,

#define CGRU_NARROW_TILES(S)                                                                                         \
  CGRU_NARROW_ROWS(CGRU_NARROW_TILE, S) CGRU_NARROW_FEW(CGRU_NARROW_TILE, S)                                         \
  static const narrow_tile_t S##_rows[] = {CGRU_NARROW_ROWS(CGRU_NARROW_ENTRY, S)};                                  \
  static const narrow_tile_t S##_few[] = {CGRU_NARROW_FEW(CGRU_NARROW_ENTRY, S)};
typedef void (*narrow_tile_t)(ptrdiff_t, const float *, ptrdiff_t, const uint16_t *, ptrdiff_t, ptrdiff_t, float *,
    ptrdiff_t, ptrdiff_t, int);
CGRU_NARROW_TILES(half)
CGRU_NARROW_TILES(bfloat)

/* Groups of rows from which on a piece is widened before them all, which writes it to memory and so has to pay: with
   AVX-512 what widens takes the place of multiply-adds. */
#if defined(__AVX512F__) || (!defined(__AVX2__) && !defined(__aarch64__))
#define CGRU_WIDENED_ONCE 5
#else
#define CGRU_WIDENED_ONCE 1000000
#endif

/* out (K x w) = B, which has rows of ldb. */
#define CGRU_WIDENS(S)                                                                                               \
  static void S##_widen(ptrdiff_t K, ptrdiff_t w, const uint16_t *b, ptrdiff_t ldb, float *out) {                    \
    for (; K > 0; K--, b += ldb, out += w)                                                                           \
      if (w == CGRU_NARROW_WIDTH)                                                                                    \
        CGRU_UNROLL for (int v = 0; v < CGRU_TILE_VECTORS; v++)                                                      \
            *(float_m *)(out + v * CGRU_LANES) = (float_v)CGRU_WIDEN_##S(b + v * CGRU_LANES);                        \
      else                                                                                                           \
        for (ptrdiff_t j = 0; j < w; j += CGRU_LANES) *(float_m *)(out + j) = (float_v)CGRU_WIDEN_##S(b + j);        \
  }
CGRU_WIDENS(half)
CGRU_WIDENS(bfloat)
static void narrow_widen(int halves, ptrdiff_t K, ptrdiff_t w, const uint16_t *b, ptrdiff_t ldb, float *out) {
  (halves ? half_widen : bfloat_widen)(K, w, b, ldb, out);
}

static void narrow_tile(int halves, int R, int P, int V, ptrdiff_t K, const float *a, ptrdiff_t a_row, const uint16_t *b,
    ptrdiff_t ldb, ptrdiff_t b_panel, float *c, ptrdiff_t ldc, ptrdiff_t c_panel, int accumulate) {
  const int last = CGRU_MOST_PANELS == 6 ? 3 : 2, few = R == 2 ? last : P == 6 ? 2 : P - 2;
  if (P > 1) {
    (halves ? half_few : bfloat_few)[few](K, a, a_row, b, ldb, b_panel, c, ldc, c_panel, accumulate);
  } else if (V == CGRU_NARROW_V) {
    (halves ? half_rows : bfloat_rows)[2 * R - 1](K, a, a_row, b, ldb, 0, c, ldc, 0, accumulate);
  } else {
    for (int v = 0; v < V; v++)
      (halves ? half_rows : bfloat_rows)[2 * R - 2](
          K, a, a_row, b + v * CGRU_LANES, ldb, 0, c + v * CGRU_LANES, ldc, 0, accumulate);
  }
}

/* -- codes of 8 bits. A form F of it has F_acc, the sums of a vector of columns; F_row, four codes of A for all of them;
   F_FIRST, the first sums, from the columns' own ones; F_ROW; F_DOT; and F_SUM, what a vector of columns has. */
#define CGRU_CODES_ROWS 3
#define CGRU_CODES_TILE(F, R, P, V)                                                                                  \
  static void F##_tile_##R##_##P##_##V(ptrdiff_t K, const int32_t *a, ptrdiff_t a_row, const int32_t *b,             \
      ptrdiff_t ldb, ptrdiff_t b_panel, float *c, ptrdiff_t ldc, ptrdiff_t c_panel, int accumulate,                  \
      const float *scales, const int32_t *sums, const float *row_scales) {                                           \
    F##_acc acc[R][P][V];                                                                                            \
    CGRU_UNROLL for (int r = 0; r < R; r++) CGRU_UNROLL for (int p = 0; p < P; p++)                                  \
        CGRU_UNROLL for (int v = 0; v < V; v++)                                                                      \
            acc[r][p][v] = F##_FIRST((int_v)*(const int_m *)(sums + p * c_panel + v * CGRU_LANES));                  \
    for (const int32_t *end = a + K; a != end; a++, b += ldb) {                                                      \
      F##_row row[R];                                                                                                \
      CGRU_UNROLL for (int r = 0; r < R; r++) row[r] = F##_ROW(a[r * a_row]);                                        \
      CGRU_UNROLL for (int p = 0; p < P; p++) CGRU_UNROLL for (int v = 0; v < V; v++) {                              \
        const int_v w = *(const int_m *)(b + p * b_panel + v * CGRU_LANES);                                          \
        CGRU_UNROLL for (int r = 0; r < R; r++) acc[r][p][v] = F##_DOT(acc[r][p][v], w, row[r]);                     \
      }                                                                                                              \
    }                                                                                                                \
    CGRU_UNROLL for (int r = 0; r < R; r++) CGRU_UNROLL for (int p = 0; p < P; p++)                                  \
        CGRU_UNROLL for (int v = 0; v < V; v++) {                                                                    \
      float_m *to = (float_m *)(c + r * ldc + p * c_panel + v * CGRU_LANES);                                         \
      const float_v scale = *(const float_m *)(scales + p * c_panel + v * CGRU_LANES) * row_scales[r];               \
      const float_v product = __builtin_convertvector(F##_SUM(acc[r][p][v]), float_v) * scale;                       \
      *to = accumulate ? (float_v)*to + product : product;                                                           \
    }                                                                                                                \
  }

/* pairs: products and their sums by multiplications of 8 bits that add up two neighbours in 16 bits, which hold 2 * 127 *
   127: of the absolute values of A's codes, whose signs B's take over. dots: by instructions for just this, where the CPU
   has them. For AVX2 without them, see `sorted`. */
#if defined(__AVX512F__)
typedef int_v pairs_acc, dots_acc;
typedef struct { __m512i size; __mmask64 signs; } pairs_row;
typedef __m512i dots_row;
static inline pairs_row pairs_ROW(int32_t codes) {
  const __m512i all = _mm512_set1_epi32(codes);
  return (pairs_row){_mm512_abs_epi8(all), _mm512_movepi8_mask(all)};
}
#define pairs_DOT(acc, w, row)                                                                                       \
  ((acc) + (int_v)_mm512_madd_epi16(                                                                                 \
               _mm512_maddubs_epi16((row).size,                                                                      \
                   _mm512_mask_sub_epi8((__m512i)(w), (row).signs, _mm512_setzero_si512(), (__m512i)(w))),           \
               _mm512_set1_epi16(1)))
#define dots_ROW(codes) _mm512_set1_epi32((codes) ^ 0x80808080)
static inline int_v dots_DOT(int_v acc, int_v w, __m512i row) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(row), "vm"(w));
  return acc;
}
#elif defined(__AVX2__)
typedef int_v dots_acc;
typedef __m256i dots_row;
#define dots_ROW(codes) _mm256_set1_epi32((codes) ^ 0x80808080)
static inline int_v dots_DOT(int_v acc, int_v w, __m256i row) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(row), "xm"(w));
  return acc;
}
#elif defined(__aarch64__)
typedef struct { int32x4_t low, high; } pairs_acc;
typedef int_v dots_acc;
typedef int8x8_t pairs_row;
typedef int8x16_t dots_row;
#define pairs_ROW(codes) vreinterpret_s8_s32(vdup_n_s32(codes))
static inline pairs_acc pairs_DOT(pairs_acc acc, int_v w, int8x8_t row) {
  const int8x16_t codes = vreinterpretq_s8_s32((int32x4_t)w);
  acc.low = vpadalq_s16(acc.low, vmull_s8(vget_low_s8(codes), row));
  acc.high = vpadalq_s16(acc.high, vmull_s8(vget_high_s8(codes), row));
  return acc;
}
#define pairs_FIRST(sums) ((pairs_acc){vdupq_n_s32(0), vdupq_n_s32(0)})
#define pairs_SUM(acc) ((int_v)vpaddq_s32((acc).low, (acc).high))
#define dots_ROW(codes) vreinterpretq_s8_s32(vdupq_n_s32(codes))
#define dots_FIRST(sums) ((int_v){0})
static inline int_v dots_DOT(int_v acc, int_v w, int8x16_t row) {
  __asm__(".arch armv8.2-a+dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(w), "w"(row));
  return acc;
}
#elif defined(__SSE2__)
typedef struct { __m128i low, high; } pairs_acc;
typedef __m128i pairs_row;
static inline __m128i cgru_signed_low(__m128i codes) { return _mm_srai_epi16(_mm_unpacklo_epi8(codes, codes), 8); }
static inline __m128i cgru_signed_high(__m128i codes) { return _mm_srai_epi16(_mm_unpackhi_epi8(codes, codes), 8); }
#define pairs_ROW(codes) cgru_signed_low(_mm_set1_epi32(codes))
static inline pairs_acc pairs_DOT(pairs_acc acc, int_v w, __m128i row) {
  acc.low = _mm_add_epi32(acc.low, _mm_madd_epi16(cgru_signed_low((__m128i)w), row));
  acc.high = _mm_add_epi32(acc.high, _mm_madd_epi16(cgru_signed_high((__m128i)w), row));
  return acc;
}
#define pairs_FIRST(sums) ((pairs_acc){_mm_setzero_si128(), _mm_setzero_si128()})
static inline int_v pairs_SUM(pairs_acc acc) {
  const __m128 low = _mm_castsi128_ps(acc.low), high = _mm_castsi128_ps(acc.high);
  return (int_v)_mm_castps_si128(_mm_shuffle_ps(low, high, 0x88)) +
         (int_v)_mm_castps_si128(_mm_shuffle_ps(low, high, 0xdd));
}
#else
typedef int_v pairs_acc;
typedef int32_t pairs_row;
#define pairs_ROW(codes) (codes)
static inline int_v pairs_DOT(int_v acc, int_v w, int32_t row) {
  for (int k = 0; k < 32; k += 8) acc += (w << (24 - k) >> 24) * ((int32_t)((uint32_t)row << (24 - k)) >> 24);
  return acc;
}
#define pairs_FIRST(sums) ((int_v){0})
#define pairs_SUM(acc) (acc)
#endif
#if defined(__AVX2__) /* of AVX-512 as well */
#define pairs_FIRST(sums) ((int_v){0})
#define pairs_SUM(acc) (acc)
#define dots_FIRST(sums) (-128 * (sums)) /* A's codes come 128 larger */
#endif
#if defined(__AVX2__) || defined(__aarch64__)
#define CGRU_HAS_DOTS 1
#define dots_SUM(acc) (acc)
#endif

#define CGRU_CODES_TILES(F)                                                                                          \
  CGRU_NARROW_BOTH(CGRU_CODES_TILE, F, 1)                                                                            \
  CGRU_NARROW_BOTH(CGRU_CODES_TILE, F, 2)                                                                            \
  CGRU_NARROW_BOTH(CGRU_CODES_TILE, F, 3)                                                                            \
  CGRU_JOIN(CGRU_CODES_TILE, F, 1, 2, CGRU_NARROW_V)                                                                 \
  CGRU_JOIN(CGRU_CODES_TILE, F, 1, 3, CGRU_NARROW_V)                                                                 \
  static const codes_tile_t F##_tiles[] = {CGRU_NARROW_BOTH(CGRU_NARROW_ENTRY, F, 1)                                 \
      CGRU_NARROW_BOTH(CGRU_NARROW_ENTRY, F, 2) CGRU_NARROW_BOTH(CGRU_NARROW_ENTRY, F, 3)                            \
      CGRU_JOIN(CGRU_NARROW_ENTRY, F, 1, 2, CGRU_NARROW_V) CGRU_JOIN(CGRU_NARROW_ENTRY, F, 1, 3, CGRU_NARROW_V)};
typedef void (*codes_tile_t)(ptrdiff_t, const int32_t *, ptrdiff_t, const int32_t *, ptrdiff_t, ptrdiff_t, float *,
    ptrdiff_t, ptrdiff_t, int, const float *, const int32_t *, const float *);
#if CGRU_SORTS
#define pairs_tiles dots_tiles /* not asked for: `sorted` takes their place */
#else
CGRU_CODES_TILES(pairs)
#endif
#if defined(CGRU_HAS_DOTS)
CGRU_CODES_TILES(dots)
#else
#define dots_tiles pairs_tiles
#endif

static void codes_tile(int dots, int R, int P, int V, ptrdiff_t K, const int32_t *a, ptrdiff_t a_row, const int32_t *b,
    ptrdiff_t ldb, ptrdiff_t b_panel, float *c, ptrdiff_t ldc, ptrdiff_t c_panel, int accumulate, const float *scales,
    const int32_t *sums, const float *row_scales) {
  const codes_tile_t *tiles = dots ? dots_tiles : pairs_tiles;
  if (P > 1 || V == CGRU_NARROW_V) {
    tiles[P > 1 ? 4 + P : 2 * R - 1](
        K, a, a_row, b, ldb, b_panel, c, ldc, c_panel, accumulate, scales, sums, row_scales);
  } else {
    for (int v = 0; v < V * CGRU_LANES; v += CGRU_LANES)
      tiles[2 * R - 2](K, a, a_row, b + v, ldb, 0, c + v, ldc, 0, accumulate, scales + v, sums + v, row_scales);
  }
}

/* Whether the CPU has the instructions of `dots`. */
static int cgru_has_dots(void) {
#if defined(__AVX2__)
  unsigned a = 0, b = 0, c = 0, d = 0;
#if defined(__AVX512F__)
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && c >> 11 & 1;
#else
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
#endif
#elif defined(__aarch64__) && defined(__linux__)
  return (int)(getauxval(AT_HWCAP) >> 20 & 1);
#else
  return CGRU_DOTS_ALWAYS;
#endif
}

/* The scale of a row (K) of codes, and the factor that makes codes of it, or 0: of the largest absolute value 127 is
   the code. States have no fixed scale, though activations give them a range: it would leave few codes, or none, of small
   ones. A row that is not finite has the scale NaN. */
static float cgru_scale(ptrdiff_t K, const float *restrict a, float *factor) {
  uint32_t top = 0;
  float m;
  for (ptrdiff_t k = 0; k < K; k++) {
    const uint32_t bits = cgru_bits_of_float(a[k]) & 0x7fffffff;
    top = bits > top ? bits : top;
  }
  m = cgru_float_of_bits(top);
  *factor = 0;
  if (top >= 0x7f800000) return cgru_float_of_bits(0x7fc00000);
  if (m < 0x1p-119f) return 0; /* below, 127 / m were infinite */
  *factor = 127 / m;
  return m / 127;
}

/* The codes of a row (K), a whole number of fours with zeros at the end, and their scale. */
static float cgru_encode(ptrdiff_t K, const float *restrict a, int8_t *restrict codes) {
  float factor;
  const float scale = cgru_scale(K, a, &factor);
  memset(codes + K, 0, -K & 3);
  if (factor == 0) {
    memset(codes, 0, K);
    return scale;
  }
  for (ptrdiff_t k = 0; k < K; k++) /* 1.5 * 2^23: rounds to the nearest, then even */
    codes[k] = (int8_t)cgru_bits_of_float(a[k] * factor + 12582912.f);
  return scale;
}

/* -- sorted: codes of 8 bits on AVX2 without instructions for them, for one row of A after the other. Multiplications
   of the absolute values of its codes add up two neighbours in 16 bits. Where those of two fours of k, a pair, are 255
   at most, the sums of both fit into 16 bits too, and are brought to 32 bits together: such pairs come first. The
   weights of a negative code have their bits inverted, which makes -w - 1 of w; what is missing then, the sum of the
   absolute values of negative codes, is the same for all columns.

   A row as cgru_encode_sorted leaves it: how many pairs go together; what is missing; and, for the next whole number of
   eight fours, absolute values, signs, and the order of the pairs. The last pair may read a row of B behind the last,
   where the scales stand at the latest, times zero. */
#if CGRU_SORTS
static inline __m256i sorted_products(const int32_t *sizes, const int32_t *signs, const int32_t *w) {
  const __m256i turned = _mm256_xor_si256(_mm256_set1_epi32(*signs), _mm256_loadu_si256((const __m256i *)w));
  return _mm256_maddubs_epi16(_mm256_set1_epi32(*sizes), turned);
}
#define CGRU_SORTED_ONE(k, w) _mm256_madd_epi16(sorted_products(sizes + (k), signs + (k), w), ones)
#define CGRU_SORTED_BOTH(k, w)                                                                                       \
  _mm256_madd_epi16(_mm256_add_epi16(sorted_products(sizes + (k), signs + (k), w),                                   \
                        sorted_products(sizes + (k) + 1, signs + (k) + 1, (w) + row)), ones)
#define CGRU_SORTED_TILE(P, V)                                                                                       \
  static void sorted_tile_##P##_##V(ptrdiff_t K, const int32_t *a, const int32_t *b, ptrdiff_t ldb,                  \
      ptrdiff_t b_panel, ptrdiff_t panels, float *c, int accumulate, const float *scales, float row_scale) {         \
    const ptrdiff_t padded = (K + 7) / 8 * 8, row = V > 1 ? CGRU_NARROW_WIDTH : ldb;                                 \
    const int32_t *sizes = a + 2, *signs = sizes + padded, *first = signs + padded;                                  \
    const int32_t *together = first + a[0], *end = first + (K + 1) / 2;                                              \
    const __m256i ones = _mm256_set1_epi16(1);                                                                       \
    for (; panels > 0; panels -= P, b += P * b_panel) {                                                              \
      const int32_t *pair = first;                                                                                   \
      int_v acc[P][V];                                                                                               \
      CGRU_UNROLL for (int p = 0; p < P; p++)                                                                        \
          CGRU_UNROLL for (int v = 0; v < V; v++) acc[p][v] = (int_v)_mm256_set1_epi32(a[1]);                        \
      for (; pair != together; pair++) {                                                                             \
        const ptrdiff_t k = 2 * (ptrdiff_t)*pair;                                                                    \
        const int32_t *w = b + k * row;                                                                              \
        CGRU_UNROLL for (int p = 0; p < P; p++, w += b_panel) CGRU_UNROLL for (int v = 0; v < V; v++)                \
            acc[p][v] += (int_v)CGRU_SORTED_BOTH(k, w + v * CGRU_LANES);                                             \
      }                                                                                                              \
      for (; pair != end; pair++) {                                                                                  \
        const ptrdiff_t k = 2 * (ptrdiff_t)*pair;                                                                    \
        const int32_t *w = b + k * row;                                                                              \
        CGRU_UNROLL for (int p = 0; p < P; p++, w += b_panel) CGRU_UNROLL for (int v = 0; v < V; v++)                \
            acc[p][v] += (int_v)CGRU_SORTED_ONE(k, w + v * CGRU_LANES) +                                             \
                (int_v)CGRU_SORTED_ONE(k + 1, w + row + v * CGRU_LANES);                                             \
      }                                                                                                              \
      CGRU_UNROLL for (int p = 0; p < P; p++) CGRU_UNROLL for (int v = 0; v < V; v++) {                              \
        const float_v scale = *(const float_m *)scales * row_scale;                                                  \
        const float_v product = __builtin_convertvector(acc[p][v], float_v) * scale;                                 \
        *(float_m *)c = accumulate ? (float_v)*(float_m *)c + product : product;                                     \
        c += CGRU_LANES;                                                                                             \
        scales += CGRU_LANES;                                                                                        \
      }                                                                                                              \
    }                                                                                                                \
  }
CGRU_SORTED_TILE(1, 1)
CGRU_SORTED_TILE(1, 2)
CGRU_SORTED_TILE(4, 2)

/* C (1 x columns), of whole panels of B, or of a part of one. */
static void sorted_tile(int part, ptrdiff_t K, const int32_t *a, const int32_t *b, ptrdiff_t ldb, ptrdiff_t b_panel,
    ptrdiff_t columns, float *c, int accumulate, const float *scales, float row_scale) {
  const ptrdiff_t width = part ? CGRU_LANES : CGRU_NARROW_WIDTH, panels = columns / width;
  const ptrdiff_t fours = part ? 0 : panels / 4 * 4, rest = part ? CGRU_LANES : b_panel;
  sorted_tile_4_2(K, a, b, ldb, b_panel, fours, c, accumulate, scales, row_scale);
  (part ? sorted_tile_1_1 : sorted_tile_1_2)(K, a, b + fours * b_panel, ldb, rest, panels - fours, c + fours * width,
      accumulate, scales + fours * width, row_scale);
}

/* The codes of cgru_encode; returns their scale. */
static float cgru_encode_sorted(ptrdiff_t K, const float *restrict a, int32_t *restrict sorted) {
  const ptrdiff_t padded = (K + 31) / 32 * 8;
  const __m256i zero = _mm256_setzero_si256(), places = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  int32_t *sizes = sorted + 2, *signs = sizes + padded, *order = signs + padded;
  ptrdiff_t front = 0, back = (K + 7) / 8;
  __m256i missing = zero;
  float factor, end[32];
  const float scale = cgru_scale(K, a, &factor);
  for (ptrdiff_t k = 0; k < K; k += 32, sizes += 8, signs += 8) {
    const float *at = a + k;
    __m256i whole[4];
    if (factor == 0 || K - k < 32) {
      memset(end, 0, sizeof(end));
      if (factor != 0) memcpy(end, at, (K - k) * sizeof(float));
      at = end;
    }
    for (int i = 0; i < 4; i++)
      whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(at + 8 * i), _mm256_set1_ps(factor)));
    const __m256i low = _mm256_packs_epi32(whole[0], whole[1]), high = _mm256_packs_epi32(whole[2], whole[3]);
    const __m256i codes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), places);
    const __m256i size = _mm256_abs_epi8(codes), sign = _mm256_cmpgt_epi8(zero, codes);
    const __m256i fours = _mm256_maddubs_epi16(size, _mm256_set1_epi8(1));
    const __m256i pairs = _mm256_add_epi16(fours, _mm256_srli_epi64(fours, 32));
    const uint32_t large = (uint32_t)_mm256_movemask_epi8(_mm256_cmpgt_epi16(pairs, _mm256_set1_epi16(255)));
    _mm256_storeu_si256((__m256i *)sizes, size);
    _mm256_storeu_si256((__m256i *)signs, sign);
    missing = _mm256_add_epi64(missing, _mm256_sad_epu8(_mm256_and_si256(size, sign), zero));
    for (int i = 0; i < 4 && front < back; i++) {
      const int apart = (large >> 8 * i & 255) != 0;
      order[front] = order[back - 1] = (int32_t)(k / 8 + i); /* in both places, of which one counts: without a branch */
      front += !apart;
      back -= apart;
    }
  }
  sorted[0] = (int32_t)front;
  sorted[1] = (int32_t)(missing[0] + missing[1] + missing[2] + missing[3]);
  return scale;
}
#else
static void sorted_tile(int part, ptrdiff_t K, const int32_t *a, const int32_t *b, ptrdiff_t ldb, ptrdiff_t b_panel,
    ptrdiff_t columns, float *c, int accumulate, const float *scales, float row_scale) {}
static float cgru_encode_sorted(ptrdiff_t K, const float *a, int32_t *sorted) { return 0; }
#endif
#endif
#endif
