"""What exists once per process, compiled with baseline flags: what this CPU can run, and the threads."""

import os

from libc.stdint cimport int64_t

cdef extern from "cpu.h":
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

cdef extern from *:
    """
    #include "pool.h"
    /* Of the calling thread: its own limit (0: none), the processors that it may use, as of a look at them, and its
       own backend (-1 - code; 0: none). */
    typedef struct { int limit, processors, backend; int64_t looked; } cgru_thread;
    static CGRU_THREAD_LOCAL cgru_thread cgru_mine;
    #define CGRU_LOOK_NS 10000000
    """
    enum:
        CGRU_MOST_THREADS
        CGRU_LOOK_NS
    int cgru_awake(int threads, int64_t now) noexcept nogil
    void cgru_run(int threads, int tasks, task_t task, void *job) noexcept nogil
    void cgru_begin(int threads, int wake, int64_t now) noexcept nogil
    void cgru_end(int threads, int64_t now) noexcept nogil
    void cgru_park() noexcept nogil
    int64_t cgru_gap() noexcept nogil
    int64_t cgru_now() noexcept nogil
    int cgru_processors() noexcept nogil
    ctypedef struct cgru_thread:
        int limit
        int processors
        int backend
        int64_t looked
    cgru_thread cgru_mine


cdef void run(int threads, int tasks, task_t task, void *job) noexcept nogil:
    """task(job, 0 .. tasks - 1, slot) on up to `threads` threads, the caller's among them; slot numbers the thread."""
    cgru_run(threads, tasks, task, job)


cdef int awake(int threads, int64_t now) noexcept nogil:
    """How many of `threads` could work on a job that starts now, without anybody being woken."""
    return cgru_awake(threads, now)


cdef void begin(int threads, int wake, int64_t now) noexcept nogil:
    """A call begins, which ends with `end`: with more than one thread workers stay awake until then. `wake` of them are
    woken if they sleep; nobody waits for that."""
    cgru_begin(threads, wake, now)


cdef void end(int threads, int64_t now) noexcept nogil:
    cgru_end(threads, now)


cdef void park() noexcept nogil:
    """Let the workers sleep, for somebody else's threads."""
    cgru_park()


cdef int64_t gap() noexcept nogil:
    """The usual time between two calls, ns."""
    return cgru_gap()


cdef int64_t now() noexcept nogil:
    """A clock, ns."""
    return cgru_now()


cdef int processors(int64_t now) noexcept nogil:
    """How many processors the calling thread may use; looked at again every 10 ms."""
    if cgru_mine.processors == 0 or now - cgru_mine.looked > CGRU_LOOK_NS:
        cgru_mine.looked = now
        cgru_mine.processors = max(1, cgru_processors())
    return min(cgru_mine.processors, _quota) if _quota > 0 else cgru_mine.processors


cdef int _quota = 0   # processors' worth of time that the control group may use; 0: no limit
cdef int64_t _quota_looked = 0
cdef int _threads = 0  # set by the program or the environment; 0: as many as there are processors


def read_quota(root="/"):
    """Processors' worth of time that this process's control groups allow (version 1 or 2), rounded down but at least
    1; None without a limit.

    Parameters
    ----------
    root : str
        Folder that holds proc and sys; another one in tests.
    """
    try:
        with open(os.path.join(root, "proc/self/cgroup")) as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            found += _limits_above(os.path.join(root, "sys/fs/cgroup"), path, _quota_of_v2)
        elif "cpu" in controllers.split(","):
            for folder in (controllers, "cpu"):
                found += _limits_above(os.path.join(root, "sys/fs/cgroup", folder), path, _quota_of_v1)
    return max(1, int(min(found))) if found else None


def _limits_above(base, path, read):
    """The limits of a group and of those it is in; in a container its own stands at the top."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    found = []
    for depth in range(len(parts), -1, -1):
        try:
            quota = read(os.path.join(base, *parts[:depth]))
        except (OSError, ValueError):
            continue
        if quota is not None:
            found.append(quota)
    return found


def _quota_of_v2(folder):
    with open(os.path.join(folder, "cpu.max")) as file:
        quota, period = file.read().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_of_v1(folder):
    with open(os.path.join(folder, "cpu.cfs_quota_us")) as file:
        quota = int(file.read())
    with open(os.path.join(folder, "cpu.cfs_period_us")) as file:
        period = int(file.read())
    return None if quota <= 0 or period <= 0 else quota / period


def _look_at_quota():
    global _quota, _quota_looked
    _quota_looked = cgru_now()
    _quota = min(read_quota() or 0, CGRU_MOST_THREADS)


def _threads_of_environment():
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(wanted), CGRU_MOST_THREADS) if wanted.isdigit() else 0


def get_num_threads():
    """The most threads that a call from this Python thread uses, its own among them.

    That is what `set_num_threads` set, else OMP_NUM_THREADS, else the number of processors that the thread may use:
    those of its affinity mask, within the time that its control group may take. `limit_threads` may lower it.
    """
    if cgru_mine.limit == 1 or _threads == 1:
        return 1  # whatever the files say: a step that must not be late reads none
    cdef int64_t time = cgru_now()
    if time - _quota_looked > 1_000_000_000:
        _look_at_quota()
    n = _threads if _threads > 0 else min(processors(time), CGRU_MOST_THREADS)
    return min(n, cgru_mine.limit) if cgru_mine.limit > 0 else n


def set_num_threads(n):
    """Set the most threads that a call uses, its own among them, for the whole process.

    More threads than there are processors are not used.

    Parameters
    ----------
    n : int or None
        From 1 on; None goes back to the start value (see `get_num_threads`).

    Raises
    ------
    TypeError, ValueError
        If n is not an integer of at least 1.
    """
    global _threads
    _threads = _threads_of_environment() if n is None else _checked(n)


def swap_thread_limit(n):
    """Set the limit of this Python thread, None for none, and return what it was."""
    before = cgru_mine.limit
    cgru_mine.limit = 0 if n is None else _checked(n)
    return before if before > 0 else None


def _checked(n):
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n: expected an integer, got {n!r}")
    n = n.__index__()
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    return min(n, CGRU_MOST_THREADS)


_threads = _threads_of_environment()
_look_at_quota()


# ---- backends ----

BACKENDS = ("native", "blas")  # by their codes

cdef int _backend = 0


cdef int backend() noexcept nogil:
    """The code of the backend in use by this thread."""
    return -1 - cgru_mine.backend if cgru_mine.backend < 0 else _backend


def get_backend():
    """The backend of the matrix products of this thread's calls, "native" or "blas"."""
    return BACKENDS[backend()]


def set_backend(name):
    """Choose what computes the matrix products of the calls that follow, for the whole process.

    Parameters
    ----------
    name : {"native", "blas"}
        "native": our own kernels. Results are the same bits for any number of threads, any batch around a row and any
        way to cut a sequence. "blas": SciPy's BLAS with its own threads, which promises none of that.

    Raises
    ------
    ValueError
        If there is no such backend.

    Notes
    -----
    A layer takes the other backend at its next call. A tape keeps the one that it was made with. The start value is
    CGRU_BACKEND, else "native".
    """
    global _backend
    _backend = _code_of(name)


def swap_backend(name):
    """Set the backend of this Python thread, None for none of its own, and return what it was."""
    before = cgru_mine.backend
    cgru_mine.backend = 0 if name is None else -1 - <int>_code_of(name)
    return BACKENDS[-1 - before] if before < 0 else None


def _code_of(name):
    if not isinstance(name, str) or name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS.index(name)


_backend = _code_of(os.environ.get("CGRU_BACKEND") or "native")
