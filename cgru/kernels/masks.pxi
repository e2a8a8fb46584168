# Masks of training, drawn from counters (cgru/masks.py). Included by calls.pyx.

def random_rows(
    uint32_t key_0, uint32_t key_1,
    examples,                # (N,)
    Py_ssize_t per_example,  # rows of each, one after the other
    Py_ssize_t first,        # step of the first of them; below 0: none has a step
    steps,                   # (rows,) of each; None: 0 .. per_example - 1
    out,                     # (rows, F) C-contiguous: uint32, bool, float32 or float64, as `kind` says
    int kind, uint32_t threshold, double scale, int threads,
):
    """Fill `out` with words, or with what words that reach the threshold stand for: True, or the scale; else 0."""
    cdef Random j
    cdef View owners, times
    see(&owners, examples, 1, INDEX, WHOLE)
    see(&times, steps, 1, INDEX, WHOLE)
    memset(&j, 0, sizeof(j))
    j.rows, j.F = out.shape
    assert owners.shape[0] * per_example == j.rows and (steps is None or times.shape[0] == j.rows)
    assert out.flags.c_contiguous and out.itemsize == (4, 1, 4, 8)[kind]
    if j.rows == 0 or j.F == 0:
        return
    j.key[0], j.key[1], j.per_example, j.first = key_0, key_1, per_example, first
    j.examples, j.steps = <const Py_ssize_t *>owners.data, <const Py_ssize_t *>times.data
    j.kind, j.threshold, j.scale, j.out = kind, threshold, scale, <void *>address(out)
    cdef Py_ssize_t work = ELEMENT_WORK * j.rows * j.F
    cdef int most = threads, tasks
    threads = helpers(work, threads)
    j.range = j.rows if threads == 1 else max(1, RANGE // j.F)
    tasks = <int>((j.rows + j.range - 1) // j.range)
    with nogil:
        run_shared(threads, most, work, tasks, build.random, &j)
