# What the layers around the recurrence do with rows: activations over a row and their gradients, softmax with
# cross-entropy in one pass, rows of a table. Included by kernels.pxi; dense.pxi makes the jobs.
#
# A task is a range of rows, each worked on alone, so that a row's result depends on no other.

cdef inline void activation_rows(Rows *j, Py_ssize_t i0, Py_ssize_t i1, floating *dtype) noexcept nogil:
    """y = activation(y + bias)"""
    cdef Py_ssize_t i
    for i in range(i0, i1):
        gates_forward(j.activation, j.N, <floating *>j.y + i * j.ldy, <floating *>j.bias)


cdef inline void softmax_rows(Rows *j, Py_ssize_t i0, Py_ssize_t i1, floating *dtype) noexcept nogil:
    """y = softmax(y + bias)"""
    cdef Py_ssize_t i
    cdef floating[SUMS] sums
    cdef floating *y
    for i in range(i0, i1):
        y = <floating *>j.y + i * j.ldy
        scaled(j.N, y, <floating>1 / exponentials(j.N, y, biased_maximum(j.N, y, <floating *>j.bias, sums), sums))


cdef inline void crossentropy_rows(Rows *j, Py_ssize_t i0, Py_ssize_t i1, floating *dtype) noexcept nogil:
    """y = (softmax(y + bias) - onehot(label)) * scale; seen: of each row the label's probability, its logit less the
    largest one, and the sum of the exponentials; best: the class of the largest probability."""
    cdef Py_ssize_t i, label
    cdef floating[SUMS] sums
    cdef floating *y
    cdef floating *seen
    cdef floating top, scale
    for i in range(i0, i1):
        y, seen, label = <floating *>j.y + i * j.ldy, <floating *>j.seen + 3 * i, j.labels[i]
        top = biased_maximum(j.N, y, <floating *>j.bias, sums)
        seen[1] = y[label] - top
        seen[2] = exponentials(j.N, y, top, sums)
        seen[0] = y[label] * (<floating>1 / seen[2])
        if j.best != NULL:
            j.best[i] = first_largest(j.N, y, <floating>1 / seen[2], sums)
        scale = <floating>j.scales[i]
        scaled_twice(j.N, y, <floating>1 / seen[2], scale)
        y[label] = (seen[0] - <floating>1) * scale


cdef inline void slope_loop(
    Py_ssize_t n, row_t d, row_t y, row_t terms, row_t out
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = d[j] * slope(y[j], terms[0], terms[1], terms[2], terms[3], terms[4], terms[5])


cdef inline void gradient_rows(Rows *j, Py_ssize_t i0, Py_ssize_t i1, floating *dtype) noexcept nogil:
    """out = d of the input of the activation whose output is y, from d of that output"""
    cdef Py_ssize_t i
    cdef floating[SUMS] sums
    cdef floating[SLOPE_TERMS] terms
    cdef floating *y
    cdef floating *d
    cdef floating *out
    slope_terms(j.activation, terms)
    for i in range(i0, i1):
        y, d, out = <floating *>j.y + i * j.ldy, <floating *>j.d + i * j.N, <floating *>j.out + i * j.N
        if j.activation == SOFTMAX:
            softmax_backward(j.N, d, y, products_sum(j.N, d, y, sums), out)
        else:
            slope_loop(j.N, d, y, terms, out)


cdef inline void gather_rows(Rows *j, Py_ssize_t i0, Py_ssize_t i1, floating *dtype) noexcept nogil:
    """y[places[i]] = table[labels[i]]"""
    cdef Py_ssize_t i
    for i in range(i0, i1):
        memcpy(
            <floating *>j.y + (i if j.places == NULL else j.places[i]) * j.ldy,
            <floating *>j.d + j.labels[i] * j.N, j.N * sizeof(floating),
        )


cdef inline void scatter_columns(Rows *j, Py_ssize_t c0, Py_ssize_t c1, floating *dtype) noexcept nogil:
    """table[labels[i]] += y[places[i]], row after row, in these columns"""
    cdef Py_ssize_t i
    for i in range(j.M):
        add(
            c1 - c0, <floating *>j.out + j.labels[i] * j.N + c0,
            <floating *>j.y + (i if j.places == NULL else j.places[i]) * j.ldy + c0,
        )


cdef inline void rows_by_type(Rows *j, int task, floating *dtype) noexcept nogil:
    cdef Py_ssize_t i0 = task * j.range, i1 = min(i0 + j.range, j.N if j.what == SCATTER else j.M)
    if j.what == SOFTMAX_FORWARD:
        softmax_rows(j, i0, i1, dtype)
    elif j.what == ACTIVATION:
        activation_rows(j, i0, i1, dtype)
    elif j.what == CROSSENTROPY:
        crossentropy_rows(j, i0, i1, dtype)
    elif j.what == GRADIENT:
        gradient_rows(j, i0, i1, dtype)
    elif j.what == GATHER:
        gather_rows(j, i0, i1, dtype)
    else:
        scatter_columns(j, i0, i1, dtype)


cdef void rows_task(void *job, int task, int slot) noexcept nogil:
    cdef Rows *j = <Rows *>job
    cdef unsigned was = cgru_flush_denormals()
    if j.single:
        rows_by_type(j, task, <float *>NULL)
    else:
        rows_by_type(j, task, <double *>NULL)
    cgru_restore_denormals(was)
