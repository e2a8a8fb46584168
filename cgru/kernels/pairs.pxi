# Products of many pairs of small matrices, whose rows stand one below the other: what attention multiplies. Included by
# calls.pyx.
#
# A call for each pair takes longer than its product. So a task is some pairs, and what is large is shared by itself.

cdef enum PairWork:
    PAIR_WEIGHTS = 0  # weights (m, n) = softmax(steps (m, F) memory (n, F)^T), or the gradient of a softmax
    PAIR_STEPS = 1    # steps = weights memory
    PAIR_MEMORY = 2   # memory = weights^T steps


cdef struct Pairs:
    const Py_ssize_t *steps_ends   # (count + 1,): the rows of a pair
    const Py_ssize_t *memory_ends
    const Py_ssize_t *places       # (count + 1,): where its weights stand
    char *steps
    char *memory
    char *weights
    char *outputs      # of the softmax whose gradient is wanted, as the weights stand; or NULL
    const void *zeros  # as many as the longest memory has steps
    void *work
    Py_ssize_t steps_ld, memory_ld, F, slot_work
    Py_ssize_t first, last, each  # pairs that are worked on, and those of a task
    int what
    bint single


cdef Py_ssize_t pair_jobs(const Pairs *p, Py_ssize_t i, Product *j, Rows *rows) noexcept nogil:
    """Make the jobs of a pair, but for the sharing, and return the number of multiplications."""
    cdef Py_ssize_t size = 4 if p.single else 8
    cdef Py_ssize_t m = p.steps_ends[i + 1] - p.steps_ends[i], n = p.memory_ends[i + 1] - p.memory_ends[i]
    cdef char *steps = p.steps + p.steps_ends[i] * p.steps_ld * size
    cdef char *memory = p.memory + p.memory_ends[i] * p.memory_ld * size
    cdef char *weights = p.weights + p.places[i] * size
    memset(j, 0, sizeof(j[0]))
    memset(rows, 0, sizeof(rows[0]))
    j.single = rows.single = p.single
    if p.what == PAIR_WEIGHTS:
        j.M, j.K, j.N, j.c, j.ldc = m, p.F, n, weights, n
        j.a, j.a_row, j.a_k, j.b, j.b_k, j.b_column = steps, p.steps_ld, 1, memory, 1, p.memory_ld
        rows.M, rows.N, rows.ldy, rows.range, rows.activation = m, n, n, m, SOFTMAX
        rows.what, rows.y, rows.bias, rows.d, rows.out = SOFTMAX_FORWARD, weights, p.zeros, weights, weights
        if p.outputs != NULL:
            rows.what, rows.y = GRADIENT, p.outputs + p.places[i] * size
    elif p.what == PAIR_STEPS:
        j.M, j.K, j.N, j.c, j.ldc = m, n, p.F, steps, p.steps_ld
        j.a, j.a_row, j.a_k, j.b, j.b_k, j.b_column = weights, n, 1, memory, p.memory_ld, 1
    else:
        j.M, j.K, j.N, j.c, j.ldc = n, m, p.F, memory, p.memory_ld
        j.a, j.a_row, j.a_k, j.b, j.b_k, j.b_column = weights, 1, n, steps, p.steps_ld, 1
    return j.M * j.K * j.N


cdef void clear_rows(const Product *j) noexcept nogil:
    """C = 0: what a product over nothing is."""
    cdef Py_ssize_t size = 4 if j.single else 8, i
    for i in range(j.M):
        memset(<char *>j.c + i * j.ldc * size, 0, j.N * size)


cdef void pairs_task(void *job, int task, int slot) noexcept nogil:
    cdef Pairs *p = <Pairs *>job
    cdef Product j
    cdef Rows rows
    cdef Py_ssize_t i, first = p.first + task * p.each
    cdef int block
    for i in range(first, min(first + p.each, p.last)):
        if pair_jobs(p, i, &j, &rows) == 0:
            clear_rows(&j)
            continue
        for block in range(share_product(&j, 1)):
            j.work, j.slot_work = p.work, p.slot_work
            build.product(&j, block, slot)
        if rows.M > 0:
            build.rows(&rows, 0, slot)


def multiply_pairs(
    int what,
    steps,        # (M, F), rows contiguous
    steps_ends,   # (count + 1,) rows ends[i] .. ends[i + 1] are those of pair i
    memory,       # (L, F), rows contiguous
    memory_ends,  # (count + 1,)
    weights,      # flat: of each pair (m, n) from places[i] on
    places,       # (count + 1,)
    outputs,      # as weights, or None
    int threads,
):
    """Write one of the three from the other two, for each pair: a PairWork says which. Weights go through a softmax, or
    with its `outputs` are gradients of these and become those of its inputs. Every element is one sum in order."""
    cdef Pairs p
    cdef Product j
    cdef Rows rows
    cdef View own, other, starts, space
    cdef int tasks, most
    see(&own, steps_ends, 1, INDEX, WHOLE)
    see(&other, memory_ends, 1, INDEX, WHOLE)
    see(&starts, places, 1, INDEX, WHOLE)
    cdef Py_ssize_t size = steps.itemsize, count = own.shape[0] - 1, i, work, pair, longest = 0
    assert other.shape[0] == starts.shape[0] == count + 1 and memory.itemsize == weights.itemsize == size
    assert steps.shape[1] == memory.shape[1] and weights.size == places[count]
    memset(&p, 0, sizeof(p))
    p.what, p.single, p.F = what, size == 4, steps.shape[1]
    p.steps_ends, p.memory_ends = <const Py_ssize_t *>own.data, <const Py_ssize_t *>other.data
    p.places = <const Py_ssize_t *>starts.data
    p.steps, p.memory, p.weights = <char *>address(steps), <char *>address(memory), <char *>address(weights)
    p.steps_ld, p.memory_ld = steps.strides[0] // size, memory.strides[0] // size
    for i in range(count):
        longest = max(longest, p.memory_ends[i + 1] - p.memory_ends[i])
        if pair_jobs(&p, i, &j, &rows) > 0:
            share_product(&j, 1)
            p.slot_work = max(p.slot_work, j.slot_work)
    zeros = np.zeros(longest, steps.dtype)
    p.zeros = address(zeros)
    if outputs is not None:
        p.outputs = <char *>address(outputs)
    work_space = np.empty(size * (ALIGN + threads * p.slot_work), np.uint8)
    see(&space, work_space, 1, BYTES, WHOLE | WRITTEN)
    p.work = first_aligned(space.data)
    while p.first < count:
        p.last, work = p.first, 0
        while p.last < count and work < limits.signal_work:
            pair = pair_jobs(&p, p.last, &j, &rows)
            if pair > 0 and pair >= limits.thread_work:
                break
            work += pair + 1
            p.last += 1
        if p.last == p.first:
            run_product(&j, threads, PACKED)
            if rows.M > 0:
                run_rows(&rows, threads)
            p.first += 1
        else:
            most = helpers(work, threads)
            p.each = max(1, (p.last - p.first) // (8 * most)) if most > 1 else p.last - p.first
            tasks = <int>((p.last - p.first + p.each - 1) // p.each)
            if work < limits.gil_work:
                run_shared(most, threads, work, tasks, pairs_task, &p)
            else:
                with nogil:
                    run_shared(most, threads, work, tasks, pairs_task, &p)
            p.first = p.last
        PyErr_CheckSignals()
