"""Products with weights, behind one function: the packed tile, or BLAS.

A Matrix is B of C = A B: K rows, and columns in `blocks` of `columns` each (a gate is a block), a multiple of the
vector. Packed, a block is cut into panels of the tile's width (the last one narrower) and each panel is stored row
after row, so every access is contiguous. For BLAS it is row-major.
"""

from cython cimport floating

from blas cimport gemm
from jobs cimport BLAS, HALF, Matrix
from narrow cimport FAR_BYTES, FETCHING, multiply_narrow

cdef extern from "tile.h" nogil:
    enum:
        CGRU_VECTOR_BYTES
        CGRU_TILE_ROWS
        CGRU_TILE_VECTORS
        CGRU_PIECE_BYTES
        CGRU_FAR_ROWS
    void float_tile(
        int R, int P, int V, Py_ssize_t K, const float *a, Py_ssize_t a_row, Py_ssize_t a_k, const float *b,
        Py_ssize_t ldb, Py_ssize_t b_panel, float *c, Py_ssize_t ldc, Py_ssize_t c_panel, int accumulate,
        const void *ahead, Py_ssize_t ahead_k) noexcept
    void double_tile(
        int R, int P, int V, Py_ssize_t K, const double *a, Py_ssize_t a_row, Py_ssize_t a_k, const double *b,
        Py_ssize_t ldb, Py_ssize_t b_panel, double *c, Py_ssize_t ldc, Py_ssize_t c_panel, int accumulate,
        const void *ahead, Py_ssize_t ahead_k) noexcept


cdef enum:
    LINE_BYTES = 64  # of the caches


cdef inline Py_ssize_t lanes(Py_ssize_t itemsize) noexcept nogil:
    """Elements of a vector."""
    return CGRU_VECTOR_BYTES // itemsize


cdef inline Py_ssize_t padded(Py_ssize_t n, Py_ssize_t itemsize) noexcept nogil:
    """n rounded up to whole vectors."""
    return (n + lanes(itemsize) - 1) // lanes(itemsize) * lanes(itemsize)


cdef inline Py_ssize_t panel_width(Py_ssize_t itemsize) noexcept nogil:
    return CGRU_TILE_VECTORS * lanes(itemsize)


cdef inline void tile(
    int R, int P, int V, Py_ssize_t K, const floating *a, Py_ssize_t a_row, Py_ssize_t a_k, const floating *b,
    Py_ssize_t ldb, Py_ssize_t b_panel, floating *c, Py_ssize_t ldc, Py_ssize_t c_panel, bint accumulate,
) noexcept nogil:
    tile_ahead(R, P, V, K, a, a_row, a_k, b, ldb, b_panel, c, ldc, c_panel, accumulate, NULL, 0)


cdef inline void tile_ahead(
    int R, int P, int V, Py_ssize_t K, const floating *a, Py_ssize_t a_row, Py_ssize_t a_k, const floating *b,
    Py_ssize_t ldb, Py_ssize_t b_panel, floating *c, Py_ssize_t ldc, Py_ssize_t c_panel, bint accumulate,
    const void *ahead, Py_ssize_t ahead_k,
) noexcept nogil:
    if floating is float:
        float_tile(R, P, V, K, a, a_row, a_k, b, ldb, b_panel, c, ldc, c_panel, accumulate, ahead, ahead_k)
    else:
        double_tile(R, P, V, K, a, a_row, a_k, b, ldb, b_panel, c, ldc, c_panel, accumulate, ahead, ahead_k)


cdef inline void multiply_panel(
    Py_ssize_t M, Py_ssize_t K, const floating *a, Py_ssize_t a_row, Py_ssize_t a_k, const floating *panel,
    Py_ssize_t ldb, Py_ssize_t w, floating *c, Py_ssize_t ldc, bint accumulate, const floating *next_panel,
) noexcept nogil:
    """C (M x w) = A (M x K) B (K x w), in groups of rows as even as can be. The panel runs in pieces, as even as can
    be, that the first cache keeps for all groups; C holds the sums in between, so their order stays.

    With next_panel, the groups of a piece fetch the next one to the second cache, each its share, if that is a line for
    each k at most. The processor alone begins too late, and the first group waits: of the whole product 5 to 25 % where
    the matrix comes from the third cache (docs/performance.md).
    """
    cdef Py_ssize_t groups = (M + CGRU_TILE_ROWS - 1) // CGRU_TILE_ROWS, piece = K, k = 0, i, group, step, pieces
    cdef Py_ssize_t row = w * sizeof(floating), sharing = min(groups, FETCHING), share = row // sharing
    cdef const char *ahead
    if share > LINE_BYTES:
        next_panel = NULL
    if groups > 1:
        pieces = (K * row + CGRU_PIECE_BYTES - 1) // CGRU_PIECE_BYTES
        piece = (K + pieces - 1) // pieces
    while k < K:
        piece = min(piece, K - k)
        ahead = <const char *>(next_panel if k + piece == K else panel + (k + piece) * ldb)
        i = 0
        for group in range(groups):
            step = (M - i + groups - group - 1) // (groups - group)
            tile_ahead(
                <int>step, 1, <int>(w // lanes(sizeof(floating))), piece, a + i * a_row + k * a_k, a_row, a_k,
                panel + k * ldb, ldb, 0, c + i * ldc, ldc, 0, accumulate or k > 0,
                ahead + group * piece * share if next_panel != NULL and group < sharing else NULL, share,
            )
            i += step
        k += piece


cdef inline void multiply(
    Py_ssize_t M, Py_ssize_t K, const floating *a, Py_ssize_t a_row, Py_ssize_t a_k,  # A (M, K)
    const Matrix *b, Py_ssize_t k0, Py_ssize_t block0, Py_ssize_t blocks,  # rows k0 .. k0 + K - 1 of these blocks
    Py_ssize_t column0, Py_ssize_t column1,                                # and of these columns of each
    floating *c, Py_ssize_t ldc,                                           # C (M, .): block i at c + i * b.columns
    bint accumulate,
) noexcept nogil:
    """C = A B, or += with accumulate. An element of C is one sum over k in order on the tile's routes."""
    cdef Py_ssize_t size = sizeof(floating), width = panel_width(size), j, start, ldb, w, block
    cdef Py_ssize_t between_blocks = b.K * b.columns
    cdef const floating *data = <const floating *>b.data
    cdef const floating *panel
    cdef const floating *next_panel = NULL
    cdef bint far = between_blocks * b.blocks * size > FAR_BYTES
    cdef int P
    if M == 0:
        return
    if b.route == BLAS:
        multiply_blas(M, K, a, a_row, a_k, b, k0, block0, blocks, column0, column1, c, ldc, accumulate)
        return
    if floating is float:
        if b.route >= HALF:  # by forward alone, where k0 is 0 and a_k 1
            multiply_narrow(M, K, a, a_row, b, block0, blocks, column0, column1, c, ldc, accumulate)
            return
    j = column0
    while j < column1:
        # Of the panel that holds column j, K rows of ldb columns, those from j to its end or column1.
        start = j // width * width
        ldb = min(width, b.columns - start)
        w = min(start + ldb, column1) - j
        panel = data + block0 * between_blocks + start * b.K + k0 * ldb + j - start
        if M > 2:
            for block in range(blocks):
                if far and w == width:
                    next_panel = panel + (block + 1) * between_blocks if block + 1 < blocks else panel + width * b.K
                multiply_panel(
                    M, K, a, a_row, a_k, panel + block * between_blocks, ldb, w, c + block * b.columns + j, ldc,
                    accumulate, next_panel if w == width else NULL,
                )
        elif blocks > 1:
            tile(
                <int>M, <int>blocks, <int>(w // lanes(size)), K, a, a_row, a_k, panel, ldb, between_blocks,
                c + j, ldc, b.columns, accumulate,
            )
        else:
            # Whole panels side by side.
            P = 1 if w < width else 3 if j + 3 * width <= column1 else 2 if j + 2 * width <= column1 else 1
            tile(
                <int>M, P, <int>(w // lanes(size)), K, a, a_row, a_k, panel, ldb, b.K * width,
                c + j, ldc, width, accumulate,
            )
            w *= P
        j += w


cdef inline void multiply_blas(
    Py_ssize_t M, Py_ssize_t K, const floating *a, Py_ssize_t a_row, Py_ssize_t a_k, const Matrix *b, Py_ssize_t k0,
    Py_ssize_t block0, Py_ssize_t blocks, Py_ssize_t column0, Py_ssize_t column1, floating *c, Py_ssize_t ldc,
    bint accumulate,
) noexcept nogil:
    """One gemm for whole blocks side by side; row by row where BLAS cannot step through A's rows."""
    cdef Py_ssize_t i, block
    cdef Py_ssize_t n = blocks * b.columns if column1 - column0 == b.columns else column1 - column0
    cdef Py_ssize_t calls = 1 if column1 - column0 == b.columns else blocks
    cdef floating beta = <floating>1 if accumulate else <floating>0
    cdef const floating *data
    for block in range(calls):
        data = <const floating *>b.data + k0 * b.ld + (block0 + block) * b.columns + column0
        if a_k != 1:
            gemm(M, n, K, a, a_k, True, data, b.ld, False, c + block * b.columns + column0, ldc, beta)
        elif a_row >= K or M == 1:
            gemm(M, n, K, a, max(a_row, K), False, data, b.ld, False, c + block * b.columns + column0, ldc, beta)
        else:
            for i in range(M):
                gemm(
                    1, n, K, a + i * a_row, K, False, data, b.ld, False, c + i * ldc + block * b.columns + column0, ldc,
                    beta,
                )
