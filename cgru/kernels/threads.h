/* Threads, locks, and where threads run: POSIX or Windows, for pool.h alone. */
#ifndef CGRU_THREADS_H
#define CGRU_THREADS_H
#include "platform.h"

#if defined(_WIN32)
#include <process.h>

typedef SRWLOCK cgru_mutex;
typedef CONDITION_VARIABLE cgru_condition;
#define CGRU_MUTEX SRWLOCK_INIT
#define CGRU_CONDITION CONDITION_VARIABLE_INIT
static void cgru_lock(cgru_mutex *lock) { AcquireSRWLockExclusive(lock); }
static void cgru_unlock(cgru_mutex *lock) { ReleaseSRWLockExclusive(lock); }
static void cgru_wait(cgru_condition *wake, cgru_mutex *lock) { SleepConditionVariableSRW(wake, lock, INFINITE, 0); }
static void cgru_wake_all(cgru_condition *wake) { WakeAllConditionVariable(wake); }
static void cgru_renew(cgru_mutex *lock, cgru_condition *wake) { InitializeSRWLock(lock), InitializeConditionVariable(wake); }
static void cgru_in_forks(void (*child)(void)) { (void)child; } /* there are none */

/* Whether a thread now runs body(place). */
typedef unsigned cgru_ended;
#define CGRU_BODY __stdcall
static int cgru_create(cgru_ended (CGRU_BODY *body)(void *), void *place) {
    uintptr_t thread = _beginthreadex(0, 0, body, place, 0, 0);
    if (thread) CloseHandle((HANDLE)thread);
    return thread != 0;
}

static void cgru_move_off(int processor) { (void)processor; } /* a new thread starts on an idle processor there */
static int cgru_this_processor(void) { return -1; }

#else
#include <pthread.h>
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* By the versions that they have had from the beginning, and not by those of glibc 2.34: what is built on a new system runs on an old one. */
#if __GLIBC_PREREQ(2, 34) && defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5\n.symver pthread_detach, pthread_detach@GLIBC_2.2.5");
#elif __GLIBC_PREREQ(2, 34) && defined(__aarch64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.17\n.symver pthread_detach, pthread_detach@GLIBC_2.17");
#endif
#endif

typedef pthread_mutex_t cgru_mutex;
typedef pthread_cond_t cgru_condition;
#define CGRU_MUTEX PTHREAD_MUTEX_INITIALIZER
#define CGRU_CONDITION PTHREAD_COND_INITIALIZER
static void cgru_lock(cgru_mutex *lock) { pthread_mutex_lock(lock); }
static void cgru_unlock(cgru_mutex *lock) { pthread_mutex_unlock(lock); }
static void cgru_wait(cgru_condition *wake, cgru_mutex *lock) { pthread_cond_wait(wake, lock); }
static void cgru_wake_all(cgru_condition *wake) { pthread_cond_broadcast(wake); }
static void cgru_renew(cgru_mutex *lock, cgru_condition *wake) { pthread_mutex_init(lock, 0), pthread_cond_init(wake, 0); }
static void cgru_in_forks(void (*child)(void)) { pthread_atfork(0, 0, child); }

/* Whether a thread now runs body(place). */
typedef void *cgru_ended;
#define CGRU_BODY
static int cgru_create(cgru_ended (CGRU_BODY *body)(void *), void *place) {
    pthread_t thread;
    if (pthread_create(&thread, 0, body, place)) return 0;
    pthread_detach(thread);
    return 1;
}

/* Move the calling thread off this processor once, and let it go where it likes afterwards. A new thread starts where its creator runs
   and would share that processor with it for milliseconds. */
static void cgru_move_off(int processor) {
#if defined(__linux__)
    cpu_set_t mask, others;
    if (processor < 0 || sched_getaffinity(0, sizeof mask, &mask) || CPU_COUNT(&mask) < 2) return;
    others = mask;
    CPU_CLR(processor, &others);
    if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof others, &others)) sched_setaffinity(0, sizeof mask, &mask);
#else
    (void)processor;
#endif
}

static int cgru_this_processor(void) {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}
#endif
#endif
