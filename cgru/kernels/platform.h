/* What Cython cannot say by itself: multiply-adds with one rounding, bit casts (memcpy is the portable one; compilers
 * reduce it to nothing and vectorise through it), atomics, pauses, and the flush-to-zero mode of this thread. */
#ifndef CGRU_PLATFORM_H
#define CGRU_PLATFORM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__) /* clang-cl is not GCC by its own word, and yet has all that is asked of it */
#define CGRU_GNU 1
#endif

#if defined(__linux__)
#include <unistd.h>
#endif

/* Bytes of this processor's second cache; where the system does not say, those of a small one. */
static inline ptrdiff_t cgru_second_cache(void) {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size > 0) return size;
#endif
  return 1 << 19;
}

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

/* a * b + c with one rounding where the target has the instruction; elsewhere with two, of which no compiler may make
 * one (-ffp-contract=off). Only what calls it fuses, so every build that fuses gives the same bits. */
#if defined(CGRU_GNU) && (defined(__FMA__) || defined(__aarch64__))
#define CGRU_FUSES 1
static inline float cgru_fma_float(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double cgru_fma_double(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
#define CGRU_FUSES 0
static inline float cgru_fma_float(float a, float b, float c) { return a * b + c; }
static inline double cgru_fma_double(double a, double b, double c) { return a * b + c; }
#endif

#if defined(CGRU_GNU)
#define CGRU_LOAD(v) __atomic_load_n(&(v), __ATOMIC_SEQ_CST)
#define CGRU_STORE(v, to) __atomic_store_n(&(v), to, __ATOMIC_SEQ_CST)
#define CGRU_ACQUIRE(v) __atomic_load_n(&(v), __ATOMIC_ACQUIRE)
#define CGRU_RELEASE(v, to) __atomic_store_n(&(v), to, __ATOMIC_RELEASE)
#define CGRU_ADD(v, n) __atomic_fetch_add(&(v), n, __ATOMIC_SEQ_CST)
#define CGRU_SWAP(v, to) __atomic_exchange_n(&(v), to, __ATOMIC_SEQ_CST)
#else /* without threads, see pool.h */
#define CGRU_LOAD(v) (v)
#define CGRU_STORE(v, to) ((v) = (to))
#define CGRU_ACQUIRE(v) (v)
#define CGRU_RELEASE(v, to) ((v) = (to))
#define CGRU_ADD(v, n) (((v) += (n)) - (n))
#define CGRU_SWAP(v, to) ((v) = (to), 0)
#endif

#if defined(CGRU_GNU)
#define CGRU_THREAD_LOCAL __thread
#elif defined(_MSC_VER)
#define CGRU_THREAD_LOCAL __declspec(thread)
#endif

#if defined(CGRU_GNU) && !defined(CGRU_NO_THREADS)
#define CGRU_THREADS 1
#include "system.h"
#define CGRU_SPINS 200   /* pauses of a wait, some 5 to 10 us, before the processor is given away: on an oversubscribed machine */
#define CGRU_YIELDS 1500 /* whom we wait for may need it; and after so many turns, some ms, we sleep between two looks */
#define CGRU_EAGER 100   /* looks without a pause, which may last as long as a meeting does */

static inline void cgru_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* One turn of a wait. */
static inline void cgru_pause(int spun) {
    if (spun < CGRU_SPINS) cgru_relax();
    else if (spun < CGRU_YIELDS) cgru_yield();
    else cgru_nap();
}
#else
#define CGRU_EAGER 0
static inline int64_t cgru_now(void) { return 0; }
static inline void cgru_pause(int spun) { (void)spun; }
static int cgru_processors(void) { return 1; }
#endif

/* Denormals as zero for this thread, and back. A decaying state would make every operation on it many times slower. */
#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
static inline unsigned cgru_flush_denormals(void) {
    unsigned was = _mm_getcsr();
    _mm_setcsr(was | 0x8040);
    return was;
}
static inline void cgru_restore_denormals(unsigned was) { _mm_setcsr((_mm_getcsr() & ~0x8040u) | (was & 0x8040u)); }
#elif defined(CGRU_GNU) && defined(__aarch64__)
#define CGRU_FLUSH (UINT64_C(1) << 24) /* of operands and results, FZ of the control register */
static inline uint64_t cgru_control(void) {
    uint64_t word;
    __asm__ volatile("mrs %0, fpcr" : "=r"(word) : : "memory");
    return word;
}
static inline void cgru_set_control(uint64_t word) { __asm__ volatile("msr fpcr, %0" : : "r"(word) : "memory"); }
static inline unsigned cgru_flush_denormals(void) {
    uint64_t was = cgru_control();
    cgru_set_control(was | CGRU_FLUSH);
    return (unsigned)was;
}
static inline void cgru_restore_denormals(unsigned was) {
    cgru_set_control((cgru_control() & ~CGRU_FLUSH) | (was & CGRU_FLUSH));
}
#else
static inline unsigned cgru_flush_denormals(void) { return 0; }
static inline void cgru_restore_denormals(unsigned was) { (void)was; }
#endif

#endif
