/* Which builds of the kernels the CPU and its operating system can run, of those for x86-64. */
#ifndef CGRU_CPU_H
#define CGRU_CPU_H
#include "platform.h"

#if defined(CGRU_GNU) && defined(__x86_64__)
/* The leaf of cpuid, as eax, ebx, ecx, edx. */
static void cgru_cpuid(unsigned leaf, unsigned part, unsigned found[4]) {
    __asm__ volatile("cpuid" : "=a"(found[0]), "=b"(found[1]), "=c"(found[2]), "=d"(found[3]) : "a"(leaf), "c"(part));
}

#if defined(_WIN32) || defined(CGRU_ASK_CPU)
/* Where compilers have a word for it that their linker does not know. */
static int cgru_cpu_has(unsigned of_first, unsigned of_seventh, unsigned states) {
    unsigned limit[4], first[4], seventh[4], saved, high;
    cgru_cpuid(0, 0, limit);
    if (limit[0] < 7) return 0;
    cgru_cpuid(1, 0, first);
    cgru_cpuid(7, 0, seventh);
    if (!(first[2] >> 27 & 1)) return 0; /* the system does not save what is wider than SSE */
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    return (first[2] & of_first) == of_first && (seventh[1] & of_seventh) == of_seventh && (saved & states) == states;
}
static int cgru_has_avx2(void) { return cgru_cpu_has(1u << 12 | 1u << 28 | 1u << 29, 1u << 5, 0x06); } /* FMA, AVX, F16C; AVX2 */
static int cgru_has_avx512(void) { /* F, DQ, BW, VL */
    return cgru_has_avx2() && cgru_cpu_has(0, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, 0xe6);
}
#else
static int cgru_has_avx2(void) {
    unsigned first[4];
    cgru_cpuid(1, 0, first);
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && first[2] >> 29 & 1; /* F16C */
}
static int cgru_has_avx512(void) {
    return cgru_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#endif
#else
static int cgru_has_avx2(void) { return 0; }
static int cgru_has_avx512(void) { return 0; }
#endif
#endif
