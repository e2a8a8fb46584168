"""What exists once per process, compiled with baseline flags: what this CPU can run, and the threads."""

import os

cdef extern from *:
    """
    #if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
      static int cgru_has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
      static int cgru_has_avx512(void) {
        return cgru_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
            && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
      }
    #else
      static int cgru_has_avx2(void) { return 0; }
      static int cgru_has_avx512(void) { return 0; }
    #endif
    """
    bint cgru_has_avx2() nogil
    bint cgru_has_avx512() nogil


def supported_isas():
    """Names of the kernel builds that this CPU can run, best first."""
    isas = ["baseline"]
    if cgru_has_avx2():
        isas.insert(0, "avx2")
    if cgru_has_avx512():
        isas.insert(0, "avx512")
    return tuple(isas)


# ---- threads ----

cdef extern from "pool.h" nogil:
    enum:
        CGRU_MOST_THREADS
    int cgru_awake(int threads) noexcept
    void cgru_run(int threads, int tasks, task_t task, void *job) noexcept


cdef void run(int threads, int tasks, task_t task, void *job) noexcept nogil:
    """task(job, 0 .. tasks - 1, slot) on up to `threads` threads, the caller's among them; slot numbers the thread."""
    cgru_run(threads, tasks, task, job)


cdef int awake(int threads) noexcept nogil:
    """How many of `threads` a call of microseconds should use: those that are awake."""
    return cgru_awake(threads)


def _initial_threads():
    """OMP_NUM_THREADS where it is set, else the CPUs that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(wanted) if wanted.isdigit() and int(wanted) > 0 else cpus, CGRU_MOST_THREADS)


_threads = _initial_threads()


def get_num_threads():
    """The most threads that a call uses, its own among them."""
    return _threads


def set_num_threads(n):
    """Set the most threads that a call uses, its own among them, for the whole process.

    Parameters
    ----------
    n : int
        From 1 on. The start value is OMP_NUM_THREADS, else the number of CPUs that the process may use.

    Raises
    ------
    TypeError, ValueError
        If n is not an integer of at least 1.
    """
    global _threads
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n: expected an integer, got {n!r}")
    n = n.__index__()
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    _threads = min(n, CGRU_MOST_THREADS)
