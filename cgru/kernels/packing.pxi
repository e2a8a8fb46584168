# Packing: the gates' blocks of weights and gradients, between arrays of any layout and matrices (projection.pxd).
# Included by kernels.pxi; products.pxi and dense.pxi make the jobs.

cdef extern from "transpose.h" nogil:
    void float_transpose(
        Py_ssize_t m, Py_ssize_t n, const float *source, Py_ssize_t row, float *out, Py_ssize_t out_row, float sign
    ) noexcept
    void double_transpose(
        Py_ssize_t m, Py_ssize_t n, const double *source, Py_ssize_t row, double *out, Py_ssize_t out_row, double sign
    ) noexcept


cdef void pack_task(void *job, int task, int slot) noexcept nogil:
    cdef Packing *packing = <Packing *>job
    if packing.single:
        pack_strip(packing, task, <float *>NULL)
    else:
        pack_strip(packing, task, <double *>NULL)


cdef inline void pack_strip(Packing *job, int task, floating *dtype) noexcept nogil:
    """A panel's width of one block."""
    cdef int gate = task // job.strips
    cdef Py_ssize_t width = panel_width(sizeof(floating)), j = task % job.strips * width, ld = job.ld
    cdef Py_ssize_t k0 = job.places[gate] if job.below else 0, before = 0 if job.below else job.places[gate]
    cdef Py_ssize_t columns = min(width, job.columns - j)
    cdef bint negate = job.negate and gate == 1
    cdef floating *outside = <floating *>job.array + job.starts[gate] + j * job.column
    cdef floating *inside = <floating *>job.matrix
    if ld == 0:
        ld = min(width, job.block_columns - j)
        inside += (before + j) * job.K + k0 * ld
    else:
        inside += before + j + k0 * ld
    if job.inverse:
        move(job.rows, columns, inside, ld, 1, outside, job.row, job.column, negate)
    else:
        move(job.rows, columns, outside, job.row, job.column, inside, ld, 1, negate)


cdef inline void move(
    Py_ssize_t rows, Py_ssize_t columns, const floating *source, Py_ssize_t row, Py_ssize_t column,
    floating *out, Py_ssize_t out_row, Py_ssize_t out_column, bint negate,
) noexcept nogil:
    """out = source or -source, of any strides."""
    cdef Py_ssize_t k, j
    cdef floating sign = <floating>-1 if negate else <floating>1
    if column == 1 and out_column == 1:
        for k in range(rows):
            for j in range(columns):
                out[k * out_row + j] = sign * source[k * row + j]
    elif row == 1 and out_column == 1:
        transpose(rows, columns, source, column, out, out_row, sign)
    elif column == 1 and out_row == 1:
        transpose(columns, rows, source, row, out, out_column, sign)
    else:
        for k in range(rows):
            for j in range(columns):
                out[k * out_row + j * out_column] = sign * source[k * row + j * column]


cdef inline void transpose(
    Py_ssize_t m, Py_ssize_t n, const floating *source, Py_ssize_t row, floating *out, Py_ssize_t out_row, floating sign
) noexcept nogil:
    if floating is float:
        float_transpose(m, n, source, row, out, out_row, sign)
    else:
        double_transpose(m, n, source, row, out, out_row, sign)
