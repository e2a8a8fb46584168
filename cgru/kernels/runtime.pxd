"""What the kernels ask of the run time: threads."""

ctypedef void (*task_t)(void *job, int task, int slot) noexcept nogil

cdef int awake(int threads) noexcept nogil
cdef void run(int threads, int tasks, task_t task, void *job) noexcept nogil
