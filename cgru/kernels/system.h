/* What an operating system is asked for while threads wait: the time, to give the processor away, and how many processors there are;
   POSIX or Windows. For platform.h alone, in builds with threads. threads.h has the threads themselves. */
#ifndef CGRU_SYSTEM_H
#define CGRU_SYSTEM_H

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#undef far /* a word of ours, of theirs for computers with segments */
#undef near

static inline int64_t cgru_now(void) { /* ns */
    static int64_t frequency; /* written by whoever comes first, the same by all */
    LARGE_INTEGER ticks;
    int64_t hz = __atomic_load_n(&frequency, __ATOMIC_RELAXED);
    if (!hz) {
        QueryPerformanceFrequency(&ticks);
        __atomic_store_n(&frequency, hz = ticks.QuadPart, __ATOMIC_RELAXED);
    }
    QueryPerformanceCounter(&ticks);
    return ticks.QuadPart / hz * 1000000000 + ticks.QuadPart % hz * 1000000000 / hz;
}

static inline void cgru_yield(void) { SwitchToThread(); }
static inline void cgru_nap(void) { Sleep(1); }

/* Processors that the process may use. Where there are several groups of 64, a process that was not confined has all of them. */
static int cgru_processors(void) {
    DWORD_PTR own = 0, all = 0;
    WORD groups = GetActiveProcessorGroupCount();
    int n = 0;
    if (groups > 1) return (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
    if (!GetProcessAffinityMask(GetCurrentProcess(), &own, &all)) return 1;
    for (; own; own &= own - 1) n++;
    return n;
}

#else
#include <sched.h>
#include <time.h>
#include <unistd.h>

static inline int64_t cgru_now(void) { /* ns */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * (int64_t)1000000000 + t.tv_nsec;
}

static inline void cgru_yield(void) { sched_yield(); }
static inline void cgru_nap(void) {
    static const struct timespec nap = {0, 20000};
    nanosleep(&nap, 0);
}

/* Processors that the calling thread may use; 0 where that is not known. */
static int cgru_processors(void) {
#if defined(__linux__)
    cpu_set_t mask;
    if (!sched_getaffinity(0, sizeof mask, &mask)) return CPU_COUNT(&mask);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}
#endif
#endif
