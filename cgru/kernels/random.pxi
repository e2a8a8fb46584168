# Random numbers: rows of masks whose every element is a function of a counter. Included by kernels.pxi; masks.pxi makes
# the jobs.
#
# Philox4x32-10, as cgru/masks.py says it in Python. LANES blocks are computed at once, whosever rows they belong to.

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    LANES = 16  # blocks, of 4 words each


cdef inline void philox(
    uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d,  # (LANES,) in: counters; out: words
    uint32_t k, uint32_t m,                              # the key
) noexcept nogil:
    cdef uint64_t left, right
    cdef int i, rounds
    for rounds in range(10):
        for i in range(LANES):
            left = <uint64_t>a[i] * <uint32_t>0xD2511F53
            right = <uint64_t>c[i] * <uint32_t>0xCD9E8D57
            a[i] = <uint32_t>(right >> 32) ^ b[i] ^ k
            b[i] = <uint32_t>right
            c[i] = <uint32_t>(left >> 32) ^ d[i] ^ m
            d[i] = <uint32_t>left
        k = k + <uint32_t>0x9E3779B9
        m = m + <uint32_t>0xBB67AE85


cdef inline void write_words(const Random *j, Py_ssize_t place, Py_ssize_t n, const uint32_t *words) noexcept nogil:
    """The elements place .. place + n - 1 of `out` from their words."""
    cdef uint32_t *numbers = <uint32_t *>j.out + place
    cdef unsigned char *kept = <unsigned char *>j.out + place
    cdef float *f32 = <float *>j.out + place
    cdef double *f64 = <double *>j.out + place
    cdef uint32_t least = j.threshold
    cdef double scale = j.scale
    cdef float single_scale = <float>j.scale
    cdef Py_ssize_t i
    if j.kind == WORDS:
        memcpy(numbers, words, n * sizeof(uint32_t))
    elif j.kind == KEPT:
        for i in range(n):
            kept[i] = words[i] >= least
    elif j.kind == SCALES_F32:
        for i in range(n):
            f32[i] = single_scale if words[i] >= least else <float>0
    else:
        for i in range(n):
            f64[i] = scale if words[i] >= least else <double>0


cdef void random_task(void *job, int task, int slot) noexcept nogil:
    """A range of rows."""
    cdef Random *j = <Random *>job
    cdef Py_ssize_t row = task * j.range, blocks = (j.F + 3) // 4, left = (min(row + j.range, j.rows) - row) * blocks
    cdef Py_ssize_t example = row // j.per_example, t = row % j.per_example, block = 0, column = 0, lane, used, n, at
    cdef uint32_t[LANES] a, b, c, d
    cdef uint32_t[4 * LANES] words
    memset(a, 0, sizeof(a))
    memset(b, 0, sizeof(b))
    memset(c, 0, sizeof(c))
    memset(d, 0, sizeof(d))
    while left > 0:
        used = min(LANES, left)
        left -= used
        for lane in range(used):
            a[lane] = <uint32_t>block
            b[lane] = step_of(j, example * j.per_example + t, t)
            c[lane] = <uint32_t>j.examples[example]
            d[lane] = <uint32_t>(<uint64_t>j.examples[example] >> 32)
            block += 1
            if block == blocks:
                block = 0
                t += 1
                if t == j.per_example:
                    t = 0
                    example += 1
        philox(a, b, c, d, j.key[0], j.key[1])
        for lane in range(LANES):
            words[4 * lane] = a[lane]
            words[4 * lane + 1] = b[lane]
            words[4 * lane + 2] = c[lane]
            words[4 * lane + 3] = d[lane]
        at = 0
        while at < 4 * used:  # the pieces of rows among them
            n = min(4 * used - at, 4 * blocks - column)
            write_words(j, row * j.F + column, min(n, j.F - column), words + at)
            at += n
            column += n
            if column == 4 * blocks:
                column = 0
                row += 1


cdef inline uint32_t step_of(const Random *j, Py_ssize_t row, Py_ssize_t t) noexcept nogil:
    """The counter's word for the step of a row, the t-th of its example: 0 without one."""
    if j.first < 0:
        return 0
    return <uint32_t>(1 + j.first + (t if j.steps == NULL else j.steps[row]))
