# Calls: a forward or a backward pass that is ready to run, alone or beside another one.

cdef struct Pass:
    void *job
    bint backward, finished


cdef void advance_task(void *passes, int task, int slot) noexcept nogil:
    cdef Pass *p = <Pass *>passes + task
    if not p.finished:
        p.finished = advance_backward(<Backward *>p.job) if p.backward else advance_forward(<Forward *>p.job)


def run_calls(list calls, int threads):
    """Run passes that do not depend on each other: at once where each would leave a thread idle, else one after the
    other.

    Between pieces of work it looks for signals, so Ctrl-C ends it, with what the calls write left unfinished.
    """
    cdef Pass[2] passes
    cdef int n = <int>len(calls), i, left = 0
    cdef bint at_once = n > 1 and threads > 1
    cdef Py_ssize_t work = 0
    cdef Call call
    assert 1 <= n <= 2
    for i in range(n):
        call = calls[i]
        passes[i].job, passes[i].backward, passes[i].finished = &call.job, call.backward, call.finished
        # By rows each keeps all threads busy, and BLAS is not called from two threads.
        if call.job.forward.way.by_rows or call.by_blas():
            at_once = False
        work += call.work()
    if at_once and work >= limits.thread_work:
        for i in range(n):
            call = calls[i]
            call.job.forward.way.threads = 1
    else:
        at_once = False
    while True:
        with nogil:
            if at_once:
                run(threads, n, advance_task, passes)
            else:
                advance_task(passes, left, 0)
        while left < n and passes[left].finished:
            left += 1
        if left == n:
            return
        PyErr_CheckSignals()
