"""Which rows of a batch take a step when, and where their input and output lie.

Steps are counted per row in processing order: at step k the rows 0 .. count - 1 run, sorted so that rows which run out
stand last. Row i of step k is packed row offset(k) + i; M packed rows in all. The arrays of the tape are in packed
order. A time of the batch may be named for each packed row (holes in a mask, lengths in the reverse direction); else it
is k.
"""

from libc.string cimport memcpy
from cython cimport floating


cdef struct Schedule:
    Py_ssize_t N               # rows
    Py_ssize_t K               # steps
    const Py_ssize_t *rows     # (N,) row of the batch for each sorted row; NULL: the same
    const Py_ssize_t *offsets  # (K + 1,) packed rows before step k; NULL: k * N
    const Py_ssize_t *times    # (M,) time for each packed row; NULL: k


cdef inline Py_ssize_t offset(const Schedule *s, Py_ssize_t k) noexcept nogil:
    return s.offsets[k] if s.offsets != NULL else k * s.N


cdef inline Py_ssize_t count(const Schedule *s, Py_ssize_t k) noexcept nogil:
    """Rows that run at step k; none after the last."""
    return 0 if k == s.K else offset(s, k + 1) - offset(s, k)


cdef inline Py_ssize_t batch_row(const Schedule *s, Py_ssize_t i) noexcept nogil:
    return s.rows[i] if s.rows != NULL else i


cdef inline Py_ssize_t place(
    const Schedule *s, Py_ssize_t k, Py_ssize_t i, Py_ssize_t stride_n, Py_ssize_t stride_t
) noexcept nogil:
    """Elements from the start of a batch array to the features of row i at step k."""
    cdef Py_ssize_t t = s.times[offset(s, k) + i] if s.times != NULL else k
    return batch_row(s, i) * stride_n + t * stride_t


cdef inline Py_ssize_t block_end(const Schedule *s, Py_ssize_t k, Py_ssize_t most) noexcept nogil:
    """The end of the block of steps that starts at k: at least one step, at most `most` packed rows."""
    cdef Py_ssize_t end = k + 1
    while end < s.K and offset(s, end + 1) - offset(s, k) <= most:
        end += 1
    return end


cdef inline Py_ssize_t block_start_before(const Schedule *s, Py_ssize_t end, Py_ssize_t most) noexcept nogil:
    """The start of the block of steps that ends at `end`: at least one step, at most `most` packed rows."""
    cdef Py_ssize_t start = end - 1
    while start > 0 and offset(s, end) - offset(s, start - 1) <= most:
        start -= 1
    return start


cdef inline Py_ssize_t dense_stride(
    const Schedule *s, Py_ssize_t features, Py_ssize_t stride_n, Py_ssize_t stride_t
) noexcept nogil:
    """Elements from one packed row to the next where a batch array already lies in packed order, as BLAS can read it;
    else 0."""
    cdef Py_ssize_t stride = stride_t if s.N == 1 else stride_n
    if s.times != NULL or s.rows != NULL or s.offsets != NULL:
        return 0
    if s.N > 1 and stride_t != s.N * stride_n:
        return 0
    return stride if features <= stride < 2147483647 else 0


cdef inline void gather(
    const Schedule *s, Py_ssize_t k0, Py_ssize_t k1, Py_ssize_t features,
    const floating *batch, Py_ssize_t stride_n, Py_ssize_t stride_t,
    floating *packed,  # (rows of the steps k0 .. k1 - 1, features) out
) noexcept nogil:
    cdef Py_ssize_t k, i
    for k in range(k0, k1):
        for i in range(count(s, k)):
            memcpy(packed, batch + place(s, k, i, stride_n, stride_t), features * sizeof(floating))
            packed += features


cdef inline void scatter(
    const Schedule *s, Py_ssize_t k0, Py_ssize_t k1, Py_ssize_t features,
    const floating *packed,  # (rows of the steps k0 .. k1 - 1, features)
    floating *batch, Py_ssize_t stride_n, Py_ssize_t stride_t,
) noexcept nogil:
    cdef Py_ssize_t k, i
    for k in range(k0, k1):
        for i in range(count(s, k)):
            memcpy(batch + place(s, k, i, stride_n, stride_t), packed, features * sizeof(floating))
            packed += features
