/* The thread pool: workers that sleep, or spin while calls run and for a while after them, and claim the tasks of a job from an
   atomic counter, so that one who comes late costs nothing: the caller has done the work by then. Nobody waits for a sleeper: a caller
   wakes him, begins alone, and finds him ready (his beat is fresh) at a later block. A pool that is busy, or a process without threads,
   runs the job on the caller alone. How it gets on with NumPy's pool: benchmarks/pools.py. */
#ifndef CGRU_POOL_H
#define CGRU_POOL_H
#include "team.h"
#if defined(_WIN32)
__declspec(dllexport)
#elif defined(CGRU_GNU)
__attribute__((visibility("default"), used)) /* by its name threadpoolctl knows us */
#endif
int cgru_pool_of_threads = 1;
typedef void (*cgru_task)(void *job, int task, int slot);

#ifdef CGRU_THREADS
#include "threads.h"
#define CGRU_LINGER_NS 30000    /* how long a worker spins at least after the last call */
#define CGRU_LONGEST_NS 1000000 /* and at most; between: twice the usual time between calls */
#define CGRU_POLITE_NS 50000    /* after so long a wait a spinning worker offers its processor at every look */
#define CGRU_FRESH_NS 20000     /* age of a beat up to which its worker is taken to be on a processor */

static struct {
  cgru_mutex lock;
  cgru_condition wake;
  int busy, started, asleep; /* asleep: written under the lock */
  int calls;                 /* that are under way and want workers */
  int64_t until;             /* workers spin until then though there is no call */
  int creator;               /* the processor of the thread that starts workers */
  int64_t ended, gap;        /* when the last call ended, and the usual time until the next one begins */
  unsigned epoch;            /* of the job below */
  int open, inside;          /* whether workers may still enter, and how many are in */
  cgru_task task;
  void *job;
  int tasks, slots, next, done, joined;
  struct { int64_t beat; char line[56]; } seats[CGRU_MOST_THREADS]; /* of each worker: when it last looked for work */
} pool = {CGRU_MUTEX, CGRU_CONDITION, 0};

static void cgru_claim(int slot) {
  for (int i; (i = CGRU_ADD(pool.next, 1)) < pool.tasks; CGRU_ADD(pool.done, 1)) pool.task(pool.job, i, slot);
}

static int cgru_may_sleep(unsigned seen, int64_t now) {
  return CGRU_LOAD(pool.epoch) == seen && !CGRU_LOAD(pool.calls) && now > CGRU_LOAD(pool.until);
}

static void cgru_sleep(int seat, unsigned seen) {
  cgru_lock(&pool.lock);
  CGRU_STORE(pool.seats[seat].beat, (int64_t)0);
  for (CGRU_ADD(pool.asleep, 1); cgru_may_sleep(seen, cgru_now());) cgru_wait(&pool.wake, &pool.lock);
  CGRU_ADD(pool.asleep, -1);
  cgru_unlock(&pool.lock);
}

static cgru_ended CGRU_BODY cgru_worker(void *place) {
  int seat = (int)(intptr_t)place;
  cgru_move_off(CGRU_LOAD(pool.creator));
  for (unsigned seen = 0;;) {
    int64_t now = cgru_now(), since = now;
    for (int spun = 1; CGRU_LOAD(pool.epoch) == seen; spun++) {
      cgru_relax();
      if (spun % 32) continue;
      now = cgru_now();
      CGRU_STORE(pool.seats[seat].beat, now);
      if (cgru_may_sleep(seen, now)) cgru_sleep(seat, seen), since = cgru_now();
      else if (now - since > CGRU_POLITE_NS) cgru_yield();
    }
    seen = CGRU_LOAD(pool.epoch);
    CGRU_ADD(pool.inside, 1);
    if (CGRU_LOAD(pool.open)) {
      int slot = CGRU_ADD(pool.joined, 1);
      if (slot < pool.slots) cgru_claim(slot);
    }
    CGRU_STORE(pool.seats[seat].beat, cgru_now()); /* before the caller can look again */
    CGRU_ADD(pool.inside, -1);
  }
  return 0;
}

static void cgru_after_fork(void) { /* the child has no workers; locks may have been held */
  cgru_renew(&pool.lock, &pool.wake);
  pool.busy = pool.started = pool.asleep = pool.calls = pool.open = pool.inside = 0;
}

static void cgru_start(int workers) { /* by the holder of pool.busy */
  CGRU_STORE(pool.creator, cgru_this_processor());
  if (workers >= CGRU_MOST_THREADS) workers = CGRU_MOST_THREADS - 1;
  for (; pool.started < workers; CGRU_ADD(pool.started, 1)) {
    if (!pool.started) { static int once; if (!once++) cgru_in_forks(cgru_after_fork); }
    CGRU_STORE(pool.seats[pool.started].beat, (int64_t)0);
    if (!cgru_create(cgru_worker, (void *)(intptr_t)pool.started)) break;
  }
}

static void cgru_wake(void) {
  cgru_lock(&pool.lock); /* a worker on its way to sleep either saw the news or waits by now */
  cgru_unlock(&pool.lock);
  cgru_wake_all(&pool.wake);
}

/* How many threads could work on a job that starts now: the caller, and the workers that are looking for work. */
static int cgru_awake(int threads, int64_t now) {
  int awake = 1, started = CGRU_LOAD(pool.started);
  if (threads < 2 || started == 0 || CGRU_LOAD(pool.busy)) return 1;
  for (int i = 0; i < started && awake < threads; i++) awake += now - CGRU_LOAD(pool.seats[i].beat) < CGRU_FRESH_NS;
  return awake;
}

/* Run task(job, 0 .. tasks - 1, slot) on at most `threads` threads, the caller with slot 0 among them. Sleepers are woken, and help if
   they come before the work is done. */
static void cgru_run(int threads, int tasks, cgru_task task, void *job) {
  if (threads < 2 || tasks < 2 || CGRU_SWAP(pool.busy, 1)) {
    for (int i = 0; i < tasks; i++) task(job, i, 0);
    return;
  }
  cgru_start(threads - 1);
  pool.task = task, pool.job = job, pool.tasks = tasks, pool.slots = threads;
  CGRU_STORE(pool.next, 0), CGRU_STORE(pool.done, 0), CGRU_STORE(pool.joined, 1), CGRU_STORE(pool.open, 1);
  CGRU_ADD(pool.epoch, 1);
  if (pool.started - CGRU_LOAD(pool.asleep) < threads - 1) cgru_wake();
  cgru_claim(0);
  for (int spun = 0; CGRU_LOAD(pool.done) < tasks; spun++) cgru_pause(spun);
  CGRU_STORE(pool.open, 0);
  for (int spun = 0; CGRU_LOAD(pool.inside); spun++) cgru_pause(spun);
  CGRU_STORE(pool.busy, 0);
}

/* A call begins that may use so many threads, at the time `now`. With more than one the workers stay awake until it ends; `wake`: those that sleep are
   woken, for this call or, by a call that works alone, for the next. */
static void cgru_begin(int threads, int wake, int64_t now) {
  int64_t gap = now - CGRU_LOAD(pool.ended);
  if (gap > 4 * CGRU_LONGEST_NS) gap = 4 * CGRU_LONGEST_NS;
  CGRU_STORE(pool.gap, (3 * CGRU_LOAD(pool.gap) + gap) / 4);
  if (threads > 1) CGRU_ADD(pool.calls, 1);
  if (!wake) return;
  if (CGRU_LOAD(pool.started) < wake && !CGRU_SWAP(pool.busy, 1)) {
    cgru_start(wake);
    CGRU_STORE(pool.busy, 0);
  }
  if (threads < 2) CGRU_STORE(pool.until, now + CGRU_LONGEST_NS);
  if (CGRU_LOAD(pool.asleep)) cgru_wake();
}

static void cgru_end(int threads, int64_t now) {
  int64_t linger = 2 * CGRU_LOAD(pool.gap);
  if (linger > 2 * CGRU_LONGEST_NS || linger < CGRU_LINGER_NS) linger = CGRU_LINGER_NS;
  if (linger > CGRU_LONGEST_NS) linger = CGRU_LONGEST_NS;
  CGRU_STORE(pool.ended, now);
  if (threads < 2) return;
  CGRU_STORE(pool.until, now + linger);
  CGRU_ADD(pool.calls, -1);
}

/* Let the workers sleep as soon as they have nothing to do, for somebody else's threads (BLAS'). */
static void cgru_park(void) { CGRU_STORE(pool.until, (int64_t)0); }

/* The usual time between calls, ns. */
static int64_t cgru_gap(void) { return CGRU_LOAD(pool.gap); }
#else
static int cgru_awake(int threads, int64_t now) { (void)threads, (void)now; return 1; }
static void cgru_begin(int threads, int wake, int64_t now) { (void)threads, (void)wake, (void)now; }
static void cgru_end(int threads, int64_t now) { (void)threads, (void)now; }
static void cgru_park(void) {}
static int64_t cgru_gap(void) { return 0; }
static void cgru_run(int threads, int tasks, cgru_task task, void *job) {
  (void)threads;
  for (int i = 0; i < tasks; i++) task(job, i, 0);
}
#endif
#endif
