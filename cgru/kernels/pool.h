/* The thread pool: workers that sleep, or spin for a moment after a job, and claim its tasks from an atomic counter, so that one who
   comes late costs nothing: the caller has done the work by then. A pool that is busy, or a process without threads, runs the job on the
   caller alone. How it gets on with NumPy's pool: benchmarks/pools.py. */
#ifndef CGRU_POOL_H
#define CGRU_POOL_H
#include "team.h"
#if defined(__GNUC__)
__attribute__((visibility("default"), used)) /* by its name threadpoolctl knows us */
#endif
int cgru_pool_of_threads = 1;
typedef void (*cgru_task)(void *job, int task, int slot);

#if defined(__GNUC__) && !defined(_WIN32) && !defined(CGRU_NO_THREADS)
#include <pthread.h>
#include <time.h>
#define CGRU_CLOSE_NS 30000 /* between the starts of two calls of microseconds: the workers still spin then */

static struct {
  pthread_mutex_t lock;
  pthread_cond_t wake;
  int busy, started, asleep; /* asleep: written under the lock */
  unsigned epoch;            /* of the job below */
  int open, inside;          /* whether workers may still enter, and how many are in */
  cgru_task task;
  void *job;
  int tasks, slots, next, done, joined;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void cgru_claim(int slot) {
  for (int i; (i = CGRU_ADD(pool.next, 1)) < pool.tasks; CGRU_ADD(pool.done, 1)) pool.task(pool.job, i, slot);
}

static void *cgru_worker(void *unused) {
  for (unsigned seen = 0;;) {
    for (int spun = 0; CGRU_LOAD(pool.epoch) == seen && spun < CGRU_SPINS; spun++) cgru_pause(spun);
    if (CGRU_LOAD(pool.epoch) == seen) {
      pthread_mutex_lock(&pool.lock);
      for (CGRU_ADD(pool.asleep, 1); CGRU_LOAD(pool.epoch) == seen;) pthread_cond_wait(&pool.wake, &pool.lock);
      CGRU_ADD(pool.asleep, -1);
      pthread_mutex_unlock(&pool.lock);
    }
    seen = CGRU_LOAD(pool.epoch);
    CGRU_ADD(pool.inside, 1);
    if (CGRU_LOAD(pool.open)) {
      int slot = CGRU_ADD(pool.joined, 1);
      if (slot < pool.slots) cgru_claim(slot);
    }
    CGRU_ADD(pool.inside, -1);
  }
  return unused;
}

static void cgru_after_fork(void) { /* the child has no workers; locks may have been held */
  pthread_mutex_init(&pool.lock, 0);
  pthread_cond_init(&pool.wake, 0);
  pool.busy = pool.started = pool.asleep = pool.open = pool.inside = 0;
}

static int cgru_start(int workers) {
  pthread_t thread;
  for (; pool.started < workers; pool.started++) {
    if (!pool.started) { static int once; if (!once++) pthread_atfork(0, 0, cgru_after_fork); }
    if (pthread_create(&thread, 0, cgru_worker, 0)) break;
    pthread_detach(thread);
  }
  return pool.started;
}

/* Run task(job, 0 .. tasks - 1, slot) on at most `threads` threads, the caller with slot 0 among them. */
static void cgru_run(int threads, int tasks, cgru_task task, void *job) {
  if (threads < 2 || tasks < 2 || CGRU_SWAP(pool.busy, 1)) {
    for (int i = 0; i < tasks; i++) task(job, i, 0);
    return;
  }
  cgru_start(threads - 1);
  pool.task = task, pool.job = job, pool.tasks = tasks, pool.slots = threads;
  CGRU_STORE(pool.next, 0), CGRU_STORE(pool.done, 0), CGRU_STORE(pool.joined, 1), CGRU_STORE(pool.open, 1);
  CGRU_ADD(pool.epoch, 1);
  pthread_mutex_lock(&pool.lock);
  if (pool.asleep) pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.lock);
  cgru_claim(0);
  for (int spun = 0; CGRU_LOAD(pool.done) < tasks; spun++) cgru_pause(spun);
  CGRU_STORE(pool.open, 0);
  for (int spun = 0; CGRU_LOAD(pool.inside); spun++) cgru_pause(spun);
  CGRU_STORE(pool.busy, 0);
}

/* How many of `threads` a call of microseconds should use. Waking a worker takes as long as such a call, so: those that still spin
   after the last one; and where calls follow each other closely, a worker is woken for the next ones. */
static int cgru_awake(int threads) {
  static int64_t last;
  struct timespec t;
  int awake = 1 + pool.started - CGRU_LOAD(pool.asleep);
  if (threads < 2 || CGRU_LOAD(pool.busy)) return 1;
  if (awake > 1) return awake < threads ? awake : threads;
  clock_gettime(CLOCK_MONOTONIC, &t);
  int64_t now = t.tv_sec * (int64_t)1000000000 + t.tv_nsec;
  return now - CGRU_SWAP(last, now) < CGRU_CLOSE_NS ? 2 : 1;
}
#else
static int cgru_awake(int threads) { (void)threads; return 1; }
static void cgru_run(int threads, int tasks, cgru_task task, void *job) {
  for (int i = 0; i < tasks; i++) task(job, i, 0);
}
#endif
#endif
