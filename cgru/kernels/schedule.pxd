"""Which rows of a batch take a step when, and where their input and output lie.

Steps are counted per row in processing order: at step k the rows 0 .. count - 1 run, sorted so that rows which run out
stand last. Row i of step k is packed row offset(k) + i; M packed rows in all. The arrays of the tape are in packed
order. A time of the batch may be named for each packed row (holes in a mask, lengths in the reverse direction); else it
is k.
"""


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


cdef inline Py_ssize_t block_end(const Schedule *s, Py_ssize_t k, Py_ssize_t most, bint even) noexcept nogil:
    """The end of the block of steps that starts at k: at least one step, at most `most` packed rows; `even`: of one
    count."""
    cdef Py_ssize_t end = k + 1, n = count(s, k)
    while end < s.K and offset(s, end + 1) - offset(s, k) <= most and (not even or count(s, end) == n):
        end += 1
    return end


cdef inline Py_ssize_t block_start_before(const Schedule *s, Py_ssize_t end, Py_ssize_t most) noexcept nogil:
    """The start of the block of steps that ends at `end`: at least one step, at most `most` packed rows."""
    cdef Py_ssize_t start = end - 1
    while start > 0 and offset(s, end) - offset(s, start - 1) <= most:
        start -= 1
    return start
