/* The thread pool and teams by themselves, without Python: every task runs once, in one place at a time; members of a team meet; threads
   sleep and wake; callers in several threads of the program get on. Exits with 0, or says what went wrong. Runs where Python does not
   (tests/kernels/test_native_threads.py). */
#if !defined(_WIN32)
#define _GNU_SOURCE /* as Python's headers do */
#endif
#include <stdio.h>
#include <stdlib.h>
#include "pool.h"
#include "cpu.h"

#define CHECK(condition)                                                     \
    if (!(condition)) {                                                      \
        printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);       \
        exit(1);                                                             \
    }
#define PATIENCE INT64_C(60000000000)
enum { TASKS = 97, STEPS = 100, CALLERS = 3 };

typedef struct { int ran[TASKS], slots; int64_t sum; } work;

static void one(void *job, int task, int slot) {
    work *w = (work *)job;
    CHECK(CGRU_ADD(w->ran[task], 1) == 0);
    CHECK(slot >= 0 && slot < w->slots);
    for (volatile int i = 0; i < 200; i++) {}
    CGRU_ADD(w->sum, (int64_t)task);
}

/* As a pass does: a call begins, runs a job, and ends. */
static void calls(int threads, int count) {
    for (int call = 0; call < count; call++) {
        work w = {{0}, threads, 0};
        cgru_begin(threads, threads - 1, cgru_now());
        cgru_run(threads, TASKS, one, &w);
        cgru_end(threads, cgru_now());
        for (int task = 0; task < TASKS; task++) CHECK(w.ran[task] == 1);
        CHECK(w.sum == TASKS * (TASKS - 1) / 2);
    }
}

/* Each member writes its own number of a step, and reads the others' of the step before: wrong if a meeting lets anybody through early. */
typedef struct { cgru_team team; int wanted, joined; int64_t written[CGRU_MOST_THREADS][2]; } meeting;

static void meet(void *job, int task, int slot) {
    meeting *m = (meeting *)job;
    cgru_member me = {&m->team, cgru_join(&m->team, m->wanted, 1 << 20), 0};
    (void)task, (void)slot;
    if (me.id < 0) return;
    CGRU_ADD(m->joined, 1);
    for (int step = 1; step <= STEPS; step++) {
        m->written[me.id][step % 2] = (int64_t)step * 64 + me.id;
        cgru_arrive(&me);
        cgru_await(&me);
        for (int other = 0; other < m->team.size; other++) CHECK(m->written[other][step % 2] == (int64_t)step * 64 + other);
    }
}

static int finished;

static cgru_ended CGRU_BODY caller(void *place) {
    calls(2 + (int)(intptr_t)place % 2, 100);
    CGRU_ADD(finished, 1);
    return 0;
}

int main(void) {
    static meeting m;
    int64_t start = cgru_now();
    int most = 0;
    CHECK(cgru_processors() >= 1);
    for (int i = 0; i < 1000; i++) CHECK(cgru_now() >= start);
    cgru_nap();
    CHECK(cgru_now() - start > 10000);
    for (int threads = 1; threads <= 4; threads++) calls(threads, 200);
    for (int round = 0; round < 9; round++) {
        m.wanted = 2 + round % 3, m.joined = 0;
        cgru_clear(&m.team, m.wanted);
        cgru_begin(m.wanted, m.wanted - 1, cgru_now());
        cgru_run(m.wanted, m.wanted, meet, &m);
        cgru_end(m.wanted, cgru_now());
        CHECK(m.joined == m.team.size && m.team.size >= 1);
        if (m.team.size > most) most = m.team.size;
    }
    for (int place = 0; place < CALLERS; place++) CHECK(cgru_create(caller, (void *)(intptr_t)place));
    start = cgru_now();
    while (CGRU_LOAD(finished) < CALLERS || CGRU_LOAD(pool.asleep) < CGRU_LOAD(pool.started)) {
        CHECK(cgru_now() - start < PATIENCE);
        cgru_nap();
    }
    calls(3, 100); /* who sleeps is woken */
#if defined(CGRU_ASK_CPU) && !defined(_WIN32)
    CHECK(cgru_has_avx2() == (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
    CHECK(cgru_has_avx512() == (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
                                && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")));
#endif
    printf("processors %d, workers %d, largest team %d, avx2 %d, avx512 %d\n", cgru_processors(), pool.started, most, cgru_has_avx2(), cgru_has_avx512());
    return 0;
}
