"""Jobs: all that a pass knows, as the threads that share it see it; and the table of what a build of the kernels does
with them. Types are void, because C structs cannot be fused."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from gates cimport SLOPE_TERMS
from schedule cimport Schedule, batch_row, count, place

ctypedef void (*task_t)(void *job, int task, int slot) noexcept nogil


cdef enum Route:
    PACKED = 0  # the tile on panels
    BLAS = 1    # gemm on the row-major matrix
    HALF = 2    # the next three: panels of 16 or 8 bits an element, see narrow.pxd
    BFLOAT = 3
    CODES = 4


cdef struct Matrix:  # see projection.pxd
    const void *data
    Py_ssize_t K        # rows
    Py_ssize_t columns  # of a block, padded to the vector
    Py_ssize_t blocks
    Py_ssize_t ld       # from row to row, unless packed
    Route route
    bint dots           # whether the CPU has instructions for codes


cdef enum:
    PIECE_ROWS = 4096  # of CODES that share the scale of a row of A, and whose sums stand behind the panels


cdef inline Matrix matrix(
    const void *data, Py_ssize_t K, Py_ssize_t columns, Py_ssize_t blocks, int route
) noexcept nogil:
    cdef Matrix m
    m.data = data
    m.K = K
    m.columns = columns
    m.blocks = blocks
    m.ld = blocks * columns
    m.route = <Route>route
    m.dots = False
    return m


cdef struct Limits:  # where one way of working ends and another begins; `tune` moves them
    Py_ssize_t signal_work  # multiplications between two looks for signals: some 10 to 100 ms
    Py_ssize_t gil_work     # multiplications below which a step keeps the GIL: some 20 us; taking it back can cost 5 ms
    Py_ssize_t thread_work  # multiplications of a call from which threads are expected to pay
    Py_ssize_t small_work   # the same where they are awake; below half of it they are not tried
    Py_ssize_t cold_work    # multiplications of a call from which threads that sleep are woken for it
    Py_ssize_t close_ns     # time between calls up to which threads are woken for the next ones
    Py_ssize_t team_work    # multiplications of a step from which threads are expected to pay though they meet in it
    Py_ssize_t few_rows     # rows from which threads are expected to share a batch by rows; below, by units
    Py_ssize_t step_rows    # rows from which a step reads its own input; below, the steps of a block do it together
    Py_ssize_t block_rows   # packed rows of such a block
    Py_ssize_t large_rows   # packed rows of a block in backward
    Py_ssize_t blas_rows    # the same, and of a block in forward, where BLAS multiplies
    Py_ssize_t dx_rows      # packed rows of a task of dx
    Py_ssize_t turned_bytes  # of x and h in such a block from which they are turned for the large products
    Py_ssize_t alone_work   # multiplications of a block while the caller is alone and workers may come
    Py_ssize_t measured     # whether calls are shared as was fast before; 0: as expected, with all threads waited for
    Py_ssize_t product_rows   # of a task of a product: a piece of A stays in the second cache
    Py_ssize_t product_bytes  # of a row of such a task
    Py_ssize_t dots           # whether codes of 8 bits are multiplied by instructions for it; 1 where the CPU has them
    Py_ssize_t near_bytes     # of float32 weights that the second cache keeps
    Py_ssize_t near_rows      # packed rows of a call from which such weights of 16 bits are widened for all of them
    Py_ssize_t far_steps      # steps of a call from which others are
    Py_ssize_t many_rows      # if so many rows or more take them together
    Py_ssize_t product_k      # of K that such a task works on at once, if that much of a panel fits the first cache


cdef struct Sharing:
    bint by_rows, by_blas
    int threads
    Py_ssize_t range_rows  # of a task, by rows; of a block, by BLAS


cdef extern from "team.h" nogil:
    ctypedef struct cgru_team:
        int size


cdef struct Forward:
    Schedule s
    Py_ssize_t D, H, Hp, G  # G: elements of a row of gates
    Py_ssize_t products_at  # of such a row: where products stand, see normed.pxi; else 0
    bint reset_after, training, single  # single: float32
    bint zones              # whether units keep old states, by `taken` or, without it, in expectation
    double zoneout          # the probability of it
    int f, g
    Sharing way
    const Limits *limits
    Matrix W, U
    const void *x
    const void *bias
    const void *gain             # (6Hp,) of the input r z n, of the state r z n; NULL: products are not normalised
    const unsigned char *taken   # (M, H) whether a unit takes its new state
    void *mask    # (N, Hp) factors of the states as the products read them; or NULL
    void *read    # (2, N, Hp) such states, in turns; in backward (N, Hp)
    void *y
    void *h
    void *gates   # (M, G) the tape's; in inference (slots, scratch_rows, G)
    void *states  # (N + M, Hp) the tape's; in inference two times (N, Hp), in turns
    void *reset   # (N, Hp) r * h
    void *rows    # (slots, N, D) input rows brought together; by BLAS (scratch_rows, D)
    Py_ssize_t xn, xt, yn, yt, scratch_rows
    Py_ssize_t k0, k1  # the block of steps
    int members        # of the team that walks through it, at most
    double slow        # ns a packed row beyond which it is not worth going on with others; 0: nobody looks
    cgru_team *team


cdef struct Backward:
    Forward forward          # the sizes, the tape and x
    Matrix U_back            # U^T: (3H, H), rows r z n
    Matrix W_back            # W^T: (3H, D), rows n r z
    Route route              # of the large products
    const void *dy
    void *dx
    void *dh0                # (N, H) out
    void *dh                 # (N, Hp) of the state, sorted rows
    void *dread              # (N, Hp) of the state as the products read it
    void *kept               # (N, Hp) of the state, past the gates
    void *dg                 # (block, dG) n r z q or n r z; normalised, then those of the products, see the two below
    Py_ssize_t dG, input_at, state_at, candidate_at  # of a row: those that meet x, n r z; h, r z q; and r * h, n
    void *ds                 # (N, Hp) of r * h
    void *x_block            # (block, D)
    void *h_block            # (block, Hp) the states before each packed row
    void *reset_block        # (block, Hp) r * h
    void *dx_block           # (block, Dp)
    void *x_turned           # (D, block), and so on: for the large products
    void *h_turned
    void *reset_turned
    bint turned              # whether they are in use
    void *dkernel            # (D, 3Hp) n r z, row-major or in panels as a Matrix
    void *drecurrent_kernel  # (H, 3Hp) r z n, the same
    bint kernel_in_panels, recurrent_in_panels
    void *dbias              # (4Hp,) n r z q, or (3Hp,) n r z
    void *dgain              # (6Hp,)
    void *bias_block         # as dbias
    void *gain_block         # (6Hp,)
    void *panels             # (slots, block, panel) of dg
    Py_ssize_t Dp, dyn, dyt, dxn, dxt, most
    double[SLOPE_TERMS] f64  # slopes of the gates and of the candidate, in the job's type
    double[SLOPE_TERMS] g64
    float[SLOPE_TERMS] f32
    float[SLOPE_TERMS] g32


cdef struct Packing:
    # Three blocks of an array outside, each (rows, columns), and where they stand in a matrix; see `pack`.
    void *array
    void *matrix
    Py_ssize_t[3] starts, places
    Py_ssize_t rows, columns, row, column  # sizes and strides of a block of the array
    Py_ssize_t K, block_columns, ld
    int strips                             # of each block, a panel wide
    bint below, negate, inverse, single


cdef struct Product:
    # C (M, N) = op(A) (M, K) op(B) (K, N), or += with `accumulate`; then C = activation(C + bias) if there is a bias.
    const void *a     # M and K by the strides below
    const void *b     # K and N likewise; or packed, one block of `padded` N columns (projection.pxd)
    Matrix narrow     # B, if its data are not NULL: of 16 or 8 bits (narrow.pxd)
    void *c           # rows contiguous
    const void *bias  # (N,), or NULL
    void *sums        # (N,) out: the sums of B's columns, or NULL
    void *work        # (slots, slot_work)
    Py_ssize_t M, K, N, a_row, a_k, b_k, b_column, ldc
    Py_ssize_t rows, columns  # of a task; the columns are whole panels
    Py_ssize_t piece          # of K, that a task works on at once
    Py_ssize_t group          # columns of B, whole panels, that are packed at once
    Py_ssize_t slot_work
    int row_tasks, activation
    bint packed, accumulate, single


cdef enum:
    SOFTMAX = 6  # beside the codes of activations.pxd; over a row


cdef enum RowWork:
    SOFTMAX_FORWARD = 0
    CROSSENTROPY = 1
    GRADIENT = 2
    GATHER = 3
    SCATTER = 4
    ACTIVATION = 5


cdef struct Rows:  # what rows.pxi does with M rows of N features
    void *y                    # (M, N), rows ldy apart
    const void *d              # (M, N) gradient of y; or the table of which rows are taken
    const void *bias           # (N,)
    void *out                  # (M, N) gradient; or the table to whose rows some are added
    const Py_ssize_t *labels   # (M,) classes, or rows of the table
    const Py_ssize_t *places   # (M,) rows of y; NULL: 0 .. M - 1
    const double *scales       # (M,)
    void *seen                 # (M, 3), see `crossentropy_rows`
    Py_ssize_t *best           # (M,), or NULL
    Py_ssize_t M, N, ldy
    Py_ssize_t range           # rows of a task; columns of one that adds to a table
    int what, activation
    bint single


cdef enum:
    TERMS = 8


cdef enum Method:  # the numbers that optimizers.py gives, but for the last
    SGD = 0
    MOMENTUM = 1
    NESTEROV = 2
    RMSPROP = 3
    RMSPROP_MOMENTUM = 4
    CENTERED = 5
    CENTERED_MOMENTUM = 6
    ADAM = 7
    AMSGRAD = 8
    SQUARES = 9  # not an update: the sum of g^2


cdef struct Update:  # of n parameters, see update.pxi
    const void *p
    const void *g
    void *new_p
    void *slots[3]
    void *new_slots[3]
    double *sums         # out: of each task
    Py_ssize_t n, range  # range: of a task
    double[TERMS] terms
    int method, slot_count
    int wrong  # out: whether a gradient or a new value is not finite
    bint single


cdef enum RandomKind:
    WORDS = 0
    KEPT = 1        # bytes
    SCALES_F32 = 2
    SCALES_F64 = 3


cdef struct Random:  # rows of random numbers, see random.pxi
    uint32_t[2] key
    const Py_ssize_t *examples  # one for `per_example` rows
    const Py_ssize_t *steps     # (rows,), or NULL: 0 .. per_example - 1
    void *out                   # (rows, F)
    Py_ssize_t rows, F, per_example
    Py_ssize_t first            # is added to the steps; below 0: rows have none
    Py_ssize_t range            # rows of a task
    uint32_t threshold
    double scale
    int kind


cdef struct Build:  # what one instruction set's module does; filled at the end of kernels.pxi
    Py_ssize_t vector_bytes, tile_rows, tile_vectors, far_rows
    bint fuses  # see platform.h
    bint dots   # whether this CPU has instructions for codes of 8 bits, see narrow.h
    task_t pack, product, rows, update, random, forward, backward_gates, backward_turn, backward_large
    int (*turn_tasks)(const Backward *j) noexcept nogil   # tasks of `backward_turn`
    int (*large_tasks)(const Backward *j) noexcept nogil  # and of `backward_large`
    void (*step)(Forward *j) noexcept nogil               # one step of all rows and units, by this thread alone
    void (*widen)(bint halves, Py_ssize_t n, const void *weights, float *out) noexcept nogil  # n of 16 bits
    # gates = f(gates) for n of them, 512 at most
    void (*activate)(int f, bint single, Py_ssize_t n, void *gates) noexcept nogil


# -- where things are in a job

cdef inline Py_ssize_t itemsize_of(const Forward *j) noexcept nogil:
    return 4 if j.single else 8


cdef inline void emit(
    Forward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t u0, Py_ssize_t u1, const void *states
) noexcept nogil:
    """Write the outputs of step k, and the final state of the rows that end with it, for the rows i0 .. i1 and the
    units u0 .. u1; states: those of all rows after step k, of step -1 the initial ones."""
    cdef Py_ssize_t i, n = j.s.N if k < 0 else count(&j.s, k), size = itemsize_of(j), units = min(u1, j.H) - u0
    cdef const char *source = <const char *>states + u0 * size
    cdef char *y = <char *>j.y + u0 * size
    cdef char *h = <char *>j.h + u0 * size
    if units <= 0:
        return
    if j.y != NULL and k >= 0:
        for i in range(i0, min(i1, n)):
            memcpy(y + place(&j.s, k, i, j.yn, j.yt) * size, source + i * j.Hp * size, units * size)
    for i in range(max(i0, count(&j.s, k + 1)), min(i1, n)):
        memcpy(h + batch_row(&j.s, i) * j.H * size, source + i * j.Hp * size, units * size)
