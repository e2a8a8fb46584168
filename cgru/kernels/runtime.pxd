"""What the kernels ask of the run time: threads."""

from libc.stdint cimport int64_t

ctypedef void (*task_t)(void *job, int task, int slot) noexcept nogil

cdef int awake(int threads, int64_t now) noexcept nogil
cdef void run(int threads, int tasks, task_t task, void *job) noexcept nogil
cdef void begin(int threads, int wake, int64_t now) noexcept nogil
cdef void end(int threads, int64_t now) noexcept nogil
cdef void park() noexcept nogil
cdef int64_t gap() noexcept nogil
cdef int64_t now() noexcept nogil
cdef int processors(int64_t now) noexcept nogil
cdef int backend() noexcept nogil
