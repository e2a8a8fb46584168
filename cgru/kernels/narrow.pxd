"""Products with weights of 16 or 8 bits (narrow.h), in panels as those of projection.pxd: of a whole Matrix from its
first row on.

HALF and BFLOAT: two bytes an element. CODES: of every four rows one, whose elements are four bytes, the last four rows
filled up with zeros; behind the panels stand the scales of the columns, and the sums of their codes in each piece. The
rows of A become codes as well, in pieces of PIECE_ROWS of K, each of which has a scale for itself.
"""

from libc.stdint cimport int8_t, int32_t, uint16_t

from jobs cimport CODES, HALF, PIECE_ROWS, Matrix

cdef extern from "narrow.h" nogil:
    enum:
        CGRU_CODES_ROWS
        CGRU_MOST_PANELS
        CGRU_NARROW_PAIR
        CGRU_PIECE_BYTES
        CGRU_SORTS  # whether `sorted` takes the place of `pairs`
        CGRU_TILE_ROWS
        CGRU_WIDENED_ONCE
        LANES "CGRU_LANES"  # of a vector of float
        WIDTH "CGRU_NARROW_WIDTH"  # of a panel
    void float_tile(
        int R, int P, int V, Py_ssize_t K, const float *a, Py_ssize_t a_row, Py_ssize_t a_k, const float *b,
        Py_ssize_t ldb, Py_ssize_t b_panel, float *c, Py_ssize_t ldc, Py_ssize_t c_panel, int accumulate,
        const void *ahead, Py_ssize_t ahead_k) noexcept
    void narrow_widen(
        int halves, Py_ssize_t K, Py_ssize_t w, const uint16_t *b, Py_ssize_t ldb, float *out) noexcept
    void narrow_tile(
        int halves, int R, int P, int V, Py_ssize_t K, const float *a, Py_ssize_t a_row, const uint16_t *b,
        Py_ssize_t ldb, Py_ssize_t b_panel, float *c, Py_ssize_t ldc, Py_ssize_t c_panel, int accumulate) noexcept
    void codes_tile(
        int dots, int R, int P, int V, Py_ssize_t K, const int32_t *a, Py_ssize_t a_row, const int32_t *b,
        Py_ssize_t ldb, Py_ssize_t b_panel, float *c, Py_ssize_t ldc, Py_ssize_t c_panel, int accumulate,
        const float *scales, const int32_t *sums, const float *row_scales) noexcept
    void sorted_tile(
        int part, Py_ssize_t K, const int32_t *a, const int32_t *b, Py_ssize_t ldb, Py_ssize_t b_panel,
        Py_ssize_t columns, float *c, int accumulate, const float *scales, float row_scale) noexcept
    int cgru_has_dots() noexcept
    float cgru_encode(Py_ssize_t K, const float *a, int8_t *codes) noexcept
    float cgru_encode_sorted(Py_ssize_t K, const float *a, int32_t *codes) noexcept


cdef enum:
    FAR_BYTES = 1 << 19  # of a matrix, from which a second cache of 512 KB or 1 MB does not keep it beside all else
    FETCHING = 32        # groups of rows at most that share the fetching of a piece
    CODE_ROWS = 12       # of A, as codes at a time
    MOST_CODES = 12288   # fours of such rows: CODE_ROWS times a quarter of PIECE_ROWS
    NEAR_FOURS = 512     # of K, times panels, that the first cache keeps for several rows: 32 KB


cdef inline void narrow_rows(
    bint halves, Py_ssize_t M, Py_ssize_t K, const float *a, Py_ssize_t a_row, const uint16_t *panel, Py_ssize_t ldb,
    Py_ssize_t w, float *c, Py_ssize_t ldc, bint accumulate, const char *next_panel,
) noexcept nogil:
    """C (M x w) = A (M x K) B (K x w) for one panel, which runs in pieces that the first cache keeps for all groups of
    rows; groups and pieces are as even as can be. For many groups a piece is widened once, before them; they then fetch
    the next one, as in `multiply_panel` of projection.pxd."""
    cdef float[8192] wide  # CGRU_PIECE_BYTES
    cdef Py_ssize_t groups = (M + CGRU_TILE_ROWS - 1) // CGRU_TILE_ROWS, k = 0, i, step, group
    cdef bint once = groups >= CGRU_WIDENED_ONCE
    cdef Py_ssize_t most = K if groups == 1 else CGRU_PIECE_BYTES // ((4 if once else 2) * w)  # rows of a piece
    cdef Py_ssize_t pieces = (K + most - 1) // most, piece = (K + pieces - 1) // pieces
    cdef Py_ssize_t sharing = min(groups, FETCHING), share = 2 * w // sharing
    cdef const char *ahead
    while k < K:
        piece = min(piece, K - k)
        ahead = next_panel if k + piece == K else <const char *>(panel + (k + piece) * ldb)
        if once:
            narrow_widen(halves, piece, w, panel + k * ldb, ldb, wide)
        i = 0
        for group in range(groups):
            step = (M - i + groups - group - 1) // (groups - group)
            if once:
                float_tile(
                    <int>step, 1, <int>(w // LANES), piece, a + i * a_row + k, a_row, 1, wide, w, 0, c + i * ldc, ldc,
                    0, accumulate or k > 0,
                    ahead + group * piece * share if next_panel != NULL and group < sharing else NULL, share)
            else:
                narrow_tile(
                    halves, <int>step, 1, <int>(w // LANES), piece, a + i * a_row + k, a_row, panel + k * ldb, ldb, 0,
                    c + i * ldc, ldc, 0, accumulate or k > 0)
            i += step
        k += piece


cdef inline int panels_at_once(Py_ssize_t M, Py_ssize_t columns, int most) noexcept nogil:
    """Whole panels that so few rows take at once: alone, a panel has too few accumulators."""
    cdef Py_ssize_t whole = columns // WIDTH
    if M == 2:
        return CGRU_NARROW_PAIR if whole >= CGRU_NARROW_PAIR else 1
    return most if whole >= most else 3 if whole >= 3 else 2 if whole == 2 else 1


cdef inline void multiply_widened(
    Py_ssize_t M, Py_ssize_t K, const float *a, Py_ssize_t a_row, const Matrix *b, Py_ssize_t block0,
    Py_ssize_t blocks, Py_ssize_t column0, Py_ssize_t column1, float *c, Py_ssize_t ldc, bint accumulate,
) noexcept nogil:
    cdef Py_ssize_t j, start, ldb, w, block, between = b.K * b.columns
    cdef const uint16_t *panel
    cdef float *to
    cdef const char *next_panel
    cdef bint halves = b.route == HALF, far = 2 * between * b.blocks > FAR_BYTES
    cdef int P
    for block in range(blocks):
        j = column0
        while j < column1:
            start = j // WIDTH * WIDTH
            ldb = min(WIDTH, b.columns - start)
            w = min(start + ldb, column1) - j
            panel = <const uint16_t *>b.data + (block0 + block) * between + start * b.K + j - start
            to = c + block * b.columns + j
            if M > 2:
                next_panel = <const char *>(panel + WIDTH * b.K) if far and w == WIDTH else NULL
                narrow_rows(halves, M, K, a, a_row, panel, ldb, w, to, ldc, accumulate, next_panel)
            else:
                P = 1 if w < WIDTH else panels_at_once(M, column1 - j, CGRU_MOST_PANELS)
                narrow_tile(
                    halves, <int>M, P, <int>(w // LANES), K, a, a_row, panel, ldb, b.K * WIDTH, to, ldc, WIDTH,
                    accumulate)
                w *= P
            j += w


cdef inline void multiply_codes(
    Py_ssize_t M, Py_ssize_t K, const int32_t *a, Py_ssize_t a_row, const float *row_scales, Py_ssize_t k0,
    const Matrix *b, Py_ssize_t block0, Py_ssize_t blocks, Py_ssize_t column0, Py_ssize_t column1, float *c,
    Py_ssize_t ldc, bint accumulate, bint dots,
) noexcept nogil:
    """K and k0 are fours of rows of B, and a has rows of as many elements, of four codes each, or what is sorted."""
    cdef Py_ssize_t j, start, ldb, w, block, i, rows, all_k = (b.K + 3) // 4, column, panels
    cdef const int32_t *data = <const int32_t *>b.data
    cdef const float *scales = <const float *>(data + all_k * b.columns * b.blocks)
    cdef const int32_t *sums = <const int32_t *>(scales + (1 + k0 // (PIECE_ROWS // 4)) * b.columns * b.blocks)
    cdef const int32_t *panel
    cdef int P
    for block in range(blocks):
        j = column0
        while j < column1:
            start = j // WIDTH * WIDTH
            ldb = min(WIDTH, b.columns - start)
            w = min(start + ldb, column1) - j
            column = (block0 + block) * b.columns
            panel = data + (column + start) * all_k + k0 * ldb + j - start
            if CGRU_SORTS and not dots:
                panels = 1 if w < WIDTH else (column1 - j) // WIDTH
                if M > 1:
                    panels = min(panels, max(1, NEAR_FOURS // K))
                for i in range(M):
                    sorted_tile(
                        w < WIDTH, K, a + i * a_row, panel, ldb, all_k * WIDTH, panels * w,
                        c + i * ldc + block * b.columns + j, accumulate, scales + column + j, row_scales[i])
                j += panels * w
                continue
            P = panels_at_once(1, column1 - j, 3) if M == 1 and w == WIDTH else 1
            i = 0
            while i < M:
                rows = min(CGRU_CODES_ROWS, M - i)
                codes_tile(
                    dots, <int>rows, P, <int>(w // LANES), K, a + i * a_row, a_row, panel, ldb, all_k * WIDTH,
                    c + i * ldc + block * b.columns + j, ldc, WIDTH, accumulate, scales + column + j,
                    sums + column + j, row_scales + i)
                i += rows
            j += P * w


cdef inline void multiply_encoded(
    Py_ssize_t M, Py_ssize_t K, const float *a, Py_ssize_t a_row, const Matrix *b, Py_ssize_t block0,
    Py_ssize_t blocks, Py_ssize_t column0, Py_ssize_t column1, float *c, Py_ssize_t ldc, bint accumulate, float *last,
) noexcept nogil:
    """With `last` (M, .), the product with the block behind these goes there."""
    cdef int32_t[MOST_CODES] codes
    cdef float[CODE_ROWS] scales
    cdef Py_ssize_t k = 0, kc, fours, i0, i, rows, ld, part
    cdef bint sorts = CGRU_SORTS and not b.dots
    while k < K:
        kc = min(PIECE_ROWS, K - k)
        fours = (kc + 3) // 4
        ld = 2 + (fours + 7) // 8 * 20 if sorts else fours
        i0 = 0
        while i0 < M:
            rows = min(min(CODE_ROWS, MOST_CODES // ld), M - i0)
            for i in range(rows):
                if sorts:
                    scales[i] = cgru_encode_sorted(kc, a + (i0 + i) * a_row + k, codes + i * ld)
                else:
                    scales[i] = cgru_encode(kc, a + (i0 + i) * a_row + k, <int8_t *>(codes + i * ld))
            for part in range(1 if last == NULL else 2):
                multiply_codes(
                    rows, fours, codes, ld, scales, k // 4, b, block0 + part * blocks, 1 if part else blocks, column0,
                    column1, (last if part else c) + i0 * ldc, ldc, (accumulate and not part) or k > 0, b.dots)
            i0 += rows
        k += kc


cdef inline void multiply_narrow(
    Py_ssize_t M, Py_ssize_t K, const float *a, Py_ssize_t a_row, const Matrix *b, Py_ssize_t block0,
    Py_ssize_t blocks, Py_ssize_t column0, Py_ssize_t column1, float *c, Py_ssize_t ldc, bint accumulate,
) noexcept nogil:
    """As `multiply` of projection.pxd, for a matrix of these routes."""
    if b.route == CODES:
        multiply_encoded(M, K, a, a_row, b, block0, blocks, column0, column1, c, ldc, accumulate, NULL)
    else:
        multiply_widened(M, K, a, a_row, b, block0, blocks, column0, column1, c, ldc, accumulate)
