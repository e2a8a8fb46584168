# The entry points of the compiled kernels; included by one stub for each instruction set.
#
# Design: one layer, one direction. A step writes x W into the rows of its gates, adds h U to them (projection.pxd: packed tile or
# BLAS) and transforms them in place, row by row (gates.pxd). The rows of a batch do not depend on each other, and the units of a step
# only through the state, so a part of the work is a range of rows and a range of units: with many rows each thread takes rows through
# all steps and meets nobody (forward_rows), with few rows each takes units, keeps their weights in its own cache, and the team
# meets once or twice a step (forward_units). Both run the same step.
# Backward walks blocks of steps from the last to the first: first the gradients of a block's gates, by rows or by units as above,
# then the large products of the block, cut by their output, so that every sum has one order whatever the number of threads.
#
# Nothing here allocates or checks: recurrence.py does. Arrays of the batch (x, y, dx, dy) may have any stride for rows and times (a
# negative time stride is the reverse direction), only their features are contiguous. A debug build asserts all of it.
# Inside, units are padded to whole vectors, Hp; the padding holds zeros. Packed rows, M of them, are those of schedule.pxd.

import numpy as np

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cython cimport floating
from libc.string cimport memcpy, memset

from blas cimport gemm as blas_gemm
from cgru.kernels.runtime cimport run
from gates cimport (
    add,
    candidate_backward,
    candidate_forward,
    gates_forward,
    reset_after_backward,
    reset_after_forward,
    reset_before_backward,
    reset_before_forward,
    slope_terms,
)
from projection cimport BLAS, CGRU_TILE_ROWS, PACKED, Matrix, Route, multiply, padded, panel_width
from schedule cimport Schedule, batch_row, block_end, block_start_before, count, offset, place

cdef extern from "platform.h" nogil:
    ctypedef struct cgru_team:
        int arrived
        int size
        int met
    int cgru_join(cgru_team *team, int wanted) noexcept
    void cgru_meet(cgru_team *team, int *turn) noexcept
    unsigned cgru_flush_denormals() noexcept
    void cgru_restore_denormals(unsigned was) noexcept

BLAS_MOST = 2**31 - 1  # sizes and strides that BLAS' integers hold

# Where one way of working ends and another begins. They stand in one place so that `tune` can move them.
cdef struct Limits:
    Py_ssize_t signal_work  # multiplications between two looks for signals: some 10 to 100 ms
    Py_ssize_t gil_work     # multiplications below which a step keeps the GIL: some 20 us; taking it back can cost 5 ms
    Py_ssize_t thread_work  # multiplications of a call from which a second thread pays
    Py_ssize_t team_work    # multiplications of a step from which a second thread pays that meets the first at every step
    Py_ssize_t few_rows     # rows from which threads share a batch by rows; below, by units
    Py_ssize_t step_rows    # rows from which a step reads its own input; below, the steps of a block do it together
    Py_ssize_t block_rows   # packed rows of such a block
    Py_ssize_t large_rows   # packed rows of a block in backward
    Py_ssize_t dx_rows      # packed rows of a task of dx

cdef Limits limits
limits.signal_work = 1_000_000_000
limits.gil_work = 500_000
limits.thread_work = 2_000_000
limits.team_work = 100_000
limits.few_rows = 8
limits.step_rows = 4
limits.block_rows = 64
limits.large_rows = 512
limits.dx_rows = 48


def tune(**changes):
    """Set limits by name and return what all of them were; for tests and benchmarks, between calls and for all threads."""
    global limits
    before = limits
    after = dict(before)
    for name, value in changes.items():
        if name not in after:
            raise ValueError(f"{name}: expected one of {', '.join(after)}")
        after[name] = value
    limits = after
    return before


# Elements by which the parts of a workspace are aligned: 64 bytes of float.
cdef enum:
    ALIGN = 16


cdef inline Py_ssize_t aligned(Py_ssize_t n) noexcept nogil:
    return (n + ALIGN - 1) // ALIGN * ALIGN


cdef inline floating *first_aligned(floating *work) noexcept nogil:
    """The first 64-byte boundary of a workspace, which is ALIGN elements longer than its parts."""
    return <floating *>((<size_t>work + 63) // 64 * 64)


cdef inline floating *carve(floating **work, Py_ssize_t n) noexcept nogil:
    """The next n elements of the workspace."""
    cdef floating *part = work[0]
    work[0] += aligned(n)
    return part


cdef Schedule schedule_of(
    Py_ssize_t N, Py_ssize_t T, const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times
) noexcept:
    cdef Schedule s
    s.N = N
    s.K = T if offsets is None else offsets.shape[0] - 1
    s.rows = s.offsets = s.times = NULL
    if rows is not None and N > 0:
        s.rows = &rows[0]
    if offsets is not None:
        s.offsets = &offsets[0]
    if times is not None and times.shape[0] > 0:
        s.times = &times[0]
    return s


def _assert_schedule(Py_ssize_t N, Py_ssize_t T, rows, offsets, times):
    """Debug builds: the schedule names existing rows and times, and its counts never grow."""
    assert rows is None or sorted(rows) == list(range(N))
    counts = [N] * T if offsets is None else [offsets[k + 1] - offsets[k] for k in range(len(offsets) - 1)]
    assert len(counts) <= T and all(N >= a >= b >= min(N, 1) for a, b in zip([N] + counts, counts))
    assert times is None or (len(times) == sum(counts) and all(0 <= t < T for t in times))
    return True


# ---- products ----

def gemm(a, b, out=None, *, bint transpose_a=False, bint transpose_b=False, bint accumulate=False):
    """op(a) op(b) for two-dimensional arrays of one dtype, float32 or float64.

    Every product of the library runs here and not through NumPy, whose BLAS has threads of its own that wake and then
    get in the way of ours.

    Parameters
    ----------
    a : ndarray of shape (m, k), or (k, m) with transpose_a
    b : ndarray of shape (k, n), or (n, k) with transpose_b
    out : ndarray of shape (m, n), optional
        Rows contiguous; written, or added to with `accumulate`. A new array without it.

    Returns
    -------
    ndarray of shape (m, n)
    """
    for name, v in (("a", a), ("b", b)) if out is None else (("a", a), ("b", b), ("out", out)):
        if not isinstance(v, np.ndarray):
            raise TypeError(f"{name}: expected a two-dimensional ndarray, got {type(v).__name__}")
        if v.ndim != 2:
            raise ValueError(f"{name}: expected a two-dimensional ndarray, got shape {v.shape}")
    (k, m) = a.shape if transpose_a else a.shape[::-1]
    (k_b, n) = b.shape[::-1] if transpose_b else b.shape
    if a.dtype != b.dtype or a.dtype not in (np.float32, np.float64):
        raise TypeError(f"a, b: expected one dtype, float32 or float64, got {a.dtype} and {b.dtype}")
    if k != k_b:
        raise ValueError(f"a, b: inner sizes differ: {k} and {k_b}")
    if max(m, n, k) > BLAS_MOST:
        raise ValueError(f"a, b: expected sizes up to {BLAS_MOST}, got {a.shape} and {b.shape}")
    if out is None:
        out = np.zeros((m, n), a.dtype) if accumulate else np.empty((m, n), a.dtype)
    elif out.shape != (m, n) or out.dtype != a.dtype or not (out.flags.writeable and _blas_readable(out)):
        raise ValueError(
            f"out: expected a writable array of shape {(m, n)}, dtype {a.dtype} and contiguous rows, "
            f"got {out.shape}, {out.dtype}, strides {out.strides}"
        )
    if k == 0:
        if not accumulate:
            out.fill(0)
        return out
    a, b = (v if _blas_readable(v) else v.copy(order="C") for v in (a, b))
    typed = gemm_into["float"] if a.dtype == np.float32 else gemm_into["double"]
    typed(a, b, out, transpose_a, transpose_b, accumulate)
    return out


def _blas_readable(v):
    """Whether BLAS takes the array as it is: aligned, contiguous rows at a positive distance that its integers hold."""
    columns = v.shape[1]
    contiguous = columns <= 1 or v.strides[1] == v.itemsize
    return v.flags.aligned and contiguous and max(columns, 1) <= v.strides[0] // v.itemsize <= BLAS_MOST


def activate(int activation, const floating[::1] x, floating[::1] out):
    """out = activation(x), by the activation's code and through the loop of the gates: what the accuracy checks look
    at."""
    cdef Py_ssize_t i, n = x.shape[0]
    cdef floating[512] zeros  # the bias
    assert out.shape[0] == n
    memset(<floating *>zeros, 0, sizeof(zeros))
    with nogil:
        for i in range(0, n, 512):
            memcpy(&out[i], &x[i], min(512, n - i) * sizeof(floating))
            gates_forward(activation, min(512, n - i), &out[i], <floating *>zeros)


def gemm_into(
    const floating[:, :] a, const floating[:, :] b, floating[:, :] c,
    bint transpose_a, bint transpose_b, bint accumulate,
):
    """C := op(A) op(B), or += with accumulate. Rows are contiguous; the caller has checked shapes."""
    cdef Py_ssize_t m = c.shape[0], n = c.shape[1], k = a.shape[0] if transpose_a else a.shape[1]
    cdef Py_ssize_t size = sizeof(floating)
    assert (a.shape[1] <= 1 or a.strides[1] == size) and (b.shape[1] <= 1 or b.strides[1] == size)
    assert n <= 1 or c.strides[1] == size
    assert (b.shape[1] if transpose_b else b.shape[0]) == k
    if m == 0 or n == 0:
        return
    with nogil:
        blas_gemm(
            m, n, k, &a[0, 0], a.strides[0] // size, transpose_a, &b[0, 0], b.strides[0] // size, transpose_b,
            &c[0, 0], c.strides[0] // size, <floating>1 if accumulate else <floating>0,
        )


# ---- packing ----

def padded_units(Py_ssize_t n, Py_ssize_t itemsize):
    """n rounded up to whole vectors of this build."""
    return padded(n, itemsize)


def pack(
    const floating[:, :] source, floating[::1] out, Py_ssize_t k0, Py_ssize_t K, Py_ssize_t block, Py_ssize_t columns,
    Py_ssize_t ld,
):
    """Write source, any strides, to the rows from k0 of one block of the matrix (projection.pxd) in `out`, which has K rows.

    Packed with ld = 0, else row-major. What source does not reach keeps its value: zeros, the padding.
    """
    cdef Py_ssize_t width = panel_width(sizeof(floating)), k, i, j, w
    cdef floating *panel
    assert out.shape[0] >= K * columns * (block + 1) if ld == 0 else out.shape[0] >= K * ld
    assert k0 + source.shape[0] <= K and source.shape[1] <= columns
    cdef Py_ssize_t between
    with nogil:
        j = 0
        while j < source.shape[1]:
            w = min(width, columns - j)
            between = w if ld == 0 else ld
            panel = &out[0] + (block * columns * K + j * K if ld == 0 else block * columns + j) + k0 * between
            for k in range(source.shape[0]):
                for i in range(min(w, source.shape[1] - j)):
                    panel[k * between + i] = source[k, j + i]
            j += w


cdef inline Matrix matrix(const void *data, Py_ssize_t K, Py_ssize_t columns, Py_ssize_t blocks, int route) noexcept nogil:
    cdef Matrix m
    m.data = data
    m.K = K
    m.columns = columns
    m.blocks = blocks
    m.ld = blocks * columns
    m.route = <Route>route
    return m


# ---- forward ----

cdef struct Forward:
    Schedule s
    Py_ssize_t D, H, Hp, G  # G: elements of a row of gates
    bint reset_after, training, by_rows, single  # single: float32
    int f, g, threads
    Matrix W, U
    const void *x
    const void *bias
    void *y
    void *h
    void *gates   # (M, G) the tape's; in inference (slots, scratch_rows, G)
    void *states  # (N + M, Hp) the tape's; in inference two times (N, Hp), in turns
    void *reset   # (N, Hp) r * h
    void *rows    # (slots, N, D) input rows brought together
    Py_ssize_t xn, xt, yn, yt, scratch_rows, range_rows
    Py_ssize_t k0, k1  # the block of steps
    cgru_team team


cdef inline floating *states_before(const Forward *j, Py_ssize_t k, floating *states) noexcept nogil:
    """The states (count(k), Hp) from which step k starts."""
    if not j.training:
        return states + (k & 1) * j.s.N * j.Hp
    return states if k == 0 else states + (j.s.N + offset(&j.s, k - 1)) * j.Hp


cdef inline floating *states_after(const Forward *j, Py_ssize_t k, floating *states) noexcept nogil:
    if not j.training:
        return states + ((k + 1) & 1) * j.s.N * j.Hp
    return states + (j.s.N + offset(&j.s, k)) * j.Hp


cdef inline void project_input(
    Forward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *gates, floating *rows
) noexcept nogil:
    """gates (n x 3H) = x (n x D) W (D x 3H) for the rows from i0 at step k and the units u0 .. u1"""
    cdef const floating *x = <const floating *>j.x
    cdef Py_ssize_t i
    if j.s.rows == NULL and j.s.times == NULL:
        multiply(n, j.D, x + place(&j.s, k, i0, j.xn, j.xt), j.xn, 1, &j.W, 0, 0, 3, u0, u1, gates, j.G, False)
        return
    for i in range(n):
        memcpy(rows + i * j.D, x + place(&j.s, k, i0 + i, j.xn, j.xt), j.D * sizeof(floating))
    multiply(n, j.D, rows, j.D, 1, &j.W, 0, 0, 3, u0, u1, gates, j.G, False)


cdef inline void step_forward(
    Forward *j, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1,
    floating *gates,   # (n, G) in: x W; out: r z n q or r z n
    floating *h,       # (n, Hp) the states before the step
    floating *h_next,  # (n, Hp) out
    floating *reset,   # (n, Hp) r * h
    int *turn,         # of the team that shares the units; NULL without one
) noexcept nogil:
    """One step of n rows, the units u0 .. u1 of it, whose input products stand in `gates`."""
    cdef Py_ssize_t i, H = j.Hp, G = j.G, units = u1 - u0
    cdef floating *bias = <floating *>j.bias
    cdef floating *row
    # gates_rz (n x 2H) += h (n x H) U_rz (H x 2H)
    multiply(n, j.H, h, H, 1, &j.U, 0, 0, 2, u0, u1, gates, G, True)
    if j.reset_after:
        # q (n x H) = h (n x H) U_n (H x H)
        multiply(n, j.H, h, H, 1, &j.U, 0, 2, 1, u0, u1, gates + 3 * H, G, False)
    for i in range(n):
        row = gates + i * G + u0
        if units == H:
            gates_forward(j.f, 2 * H, row, bias)
        else:
            gates_forward(j.f, units, row, bias + u0)
            gates_forward(j.f, units, row + H, bias + H + u0)
        if j.reset_after:
            reset_after_forward(units, row, row + 3 * H, bias + 3 * H + u0, row + 2 * H)
        else:
            reset_before_forward(units, row, h + i * H + u0, reset + i * H + u0)
    if not j.reset_after:
        if turn != NULL:
            cgru_meet(&j.team, turn)
        # gates_n (n x H) += (r * h) (n x H) U_n (H x H)
        multiply(n, j.H, reset, H, 1, &j.U, 0, 2, 1, u0, u1, gates + 2 * H, G, True)
    for i in range(n):
        row = gates + i * G + u0
        candidate_forward(
            j.g, units, row + 2 * H, bias + 2 * H + u0, row + H, h + i * H + u0, h_next + i * H + u0)


cdef inline void emit(
    Forward *j, Py_ssize_t k, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t u0, Py_ssize_t u1, const floating *states
) noexcept nogil:
    """Write the outputs of step k, and the final state of the rows that end with it, for the rows i0 .. i1 and the units u0 .. u1;
    states: those of all rows after step k, of step -1 the initial ones."""
    cdef Py_ssize_t i, n = j.s.N if k < 0 else count(&j.s, k), units = min(u1, j.H) - u0
    cdef floating *y = <floating *>j.y
    cdef floating *h = <floating *>j.h
    if units <= 0:
        return
    if y != NULL and k >= 0:
        for i in range(i0, min(i1, n)):
            memcpy(y + place(&j.s, k, i, j.yn, j.yt) + u0, states + i * j.Hp + u0, units * sizeof(floating))
    for i in range(max(i0, count(&j.s, k + 1)), min(i1, n)):
        memcpy(h + batch_row(&j.s, i) * j.H + u0, states + i * j.Hp + u0, units * sizeof(floating))


cdef void forward_rows(Forward *j, int task, int slot, floating *dtype) noexcept nogil:
    """A range of rows through the block of steps; meets nobody. (`dtype` is NULL and names the type.)"""
    cdef Py_ssize_t i0 = task * j.range_rows, i1 = min(i0 + j.range_rows, j.s.N), n, k
    cdef floating *states = <floating *>j.states
    cdef floating *rows = <floating *>j.rows + slot * j.s.N * j.D
    cdef floating *gates
    for k in range(j.k0, j.k1):
        n = min(i1, count(&j.s, k)) - i0
        if n <= 0:
            return
        gates = <floating *>j.gates + (offset(&j.s, k) + i0 if j.training else slot * j.scratch_rows) * j.G
        project_input(j, k, i0, n, 0, j.Hp, gates, rows)
        step_forward(
            j, n, 0, j.Hp, gates, states_before(j, k, states) + i0 * j.Hp, states_after(j, k, states) + i0 * j.Hp,
            <floating *>j.reset + i0 * j.Hp, NULL,
        )
        emit(j, k, i0, i1, 0, j.Hp, states_after(j, k, states))


cdef void forward_units(Forward *j, int slot, floating *dtype) noexcept nogil:
    """This thread's units of all rows through the block of steps, as one of a team."""
    cdef int member = cgru_join(&j.team, j.threads), turn = 0
    if member < 0:
        return
    cdef Py_ssize_t width = panel_width(sizeof(floating)), panels = (j.Hp + width - 1) // width
    cdef Py_ssize_t u0 = panels * member // j.team.size * width
    cdef Py_ssize_t u1 = min(panels * (member + 1) // j.team.size * width, j.Hp)
    cdef Py_ssize_t first = offset(&j.s, j.k0), k, i, n = count(&j.s, j.k0)
    cdef floating *states = <floating *>j.states
    cdef floating *rows = <floating *>j.rows + slot * j.s.N * j.D
    cdef floating *block = <floating *>j.gates + (first * j.G if j.training else 0)
    cdef floating *gates
    # Few rows make a poor product; the steps of a block together make a good one. (The block has one count, see `forward`.)
    cdef bint together = n < limits.step_rows and j.s.times == NULL
    if together and u1 > u0:
        for i in range(n):
            multiply(
                j.k1 - j.k0, j.D, <const floating *>j.x + place(&j.s, j.k0, i, j.xn, j.xt), j.xt, 1, &j.W, 0, 0, 3,
                u0, u1, block + i * j.G, n * j.G, False,
            )
    for k in range(j.k0, j.k1):
        gates = block + (offset(&j.s, k) - first) * j.G
        n = count(&j.s, k)
        if not together:
            project_input(j, k, 0, n, u0, u1, gates, rows)
        step_forward(
            j, n, u0, u1, gates, states_before(j, k, states), states_after(j, k, states), <floating *>j.reset,
            &turn if j.team.size > 1 else NULL,
        )
        emit(j, k, 0, n, u0, u1, states_after(j, k, states))
        if j.team.size > 1:
            cgru_meet(&j.team, &turn)



cdef void forward_task(void *job, int task, int slot) noexcept nogil:
    cdef Forward *j = <Forward *>job
    cdef unsigned was = cgru_flush_denormals()
    if j.by_rows and j.single:
        forward_rows(j, task, slot, <float *>NULL)
    elif j.by_rows:
        forward_rows(j, task, slot, <double *>NULL)
    elif j.single:
        forward_units(j, slot, <float *>NULL)
    else:
        forward_units(j, slot, <double *>NULL)
    cgru_restore_denormals(was)


cdef struct Sharing:
    bint by_rows
    int threads
    Py_ssize_t range_rows  # of a task, by rows


cdef inline Sharing share(
    Py_ssize_t N, Py_ssize_t M, Py_ssize_t D, Py_ssize_t H, Py_ssize_t Hp, Py_ssize_t itemsize, int threads
) noexcept nogil:
    """How many threads a call of M packed rows uses, and what each of them takes."""
    cdef Sharing way
    cdef Py_ssize_t row_work = 3 * H * (D + H), panels = (Hp + panel_width(itemsize) - 1) // panel_width(itemsize), tasks
    way.threads = threads if M * row_work >= limits.thread_work else 1
    way.by_rows = N >= limits.few_rows
    way.range_rows = N
    if not way.by_rows:
        if N * row_work < limits.team_work:
            way.threads = 1
        way.threads = <int>min(way.threads, panels)
        return way
    # Rows whose gates and states stay in the first cache, unless the weights must be fetched from beyond the second for each range.
    if 3 * H * H * itemsize < 1 << 20:
        way.range_rows = max(2 * CGRU_TILE_ROWS, 32768 // (7 * Hp * itemsize) // CGRU_TILE_ROWS * CGRU_TILE_ROWS)
    tasks = (N + way.range_rows - 1) // way.range_rows
    tasks = (tasks + way.threads - 1) // way.threads * way.threads
    way.range_rows = (N + tasks - 1) // tasks
    return way


def forward_work(
    Py_ssize_t N, Py_ssize_t M, Py_ssize_t D, Py_ssize_t H, bint reset_after, bint training, Py_ssize_t itemsize, int threads
):
    """Elements of the workspace of `forward`."""
    cdef Py_ssize_t Hp = padded(H, itemsize), G = (4 if reset_after else 3) * Hp
    cdef Sharing way = share(N, M, D, H, Hp, itemsize, threads)
    cdef Py_ssize_t scratch = way.range_rows if way.by_rows else max(limits.block_rows, N)
    cdef Py_ssize_t own_tape = 0 if training else aligned(way.threads * scratch * G) + 2 * aligned(N * Hp)
    return ALIGN + aligned(N * Hp) + aligned(way.threads * N * D) + own_tape


def forward(
    const floating[:, :, :] x,    # (N, T, D)
    const floating[:, ::1] h0,    # (N, H)
    const floating[::1] kernel,   # W, `pack`ed by the route `batched`
    const floating[::1] recurrent_kernel,  # U, `pack`ed by the route `recurrent`
    const floating[::1] bias,     # (4Hp,) r z n q
    const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times,  # schedule.pxd; or None
    floating[:, :, :] y,          # (N, T, H) out, or None; written where a row takes a step
    floating[:, ::1] h,           # (N, H) out, the final state
    floating[:, ::1] gates,       # (M, 4Hp) or (M, 3Hp) out, the tape; None in inference
    floating[:, ::1] states,      # (N + M, Hp) out, the tape: h0, then after each packed row; None in inference
    floating[::1] work,           # forward_work(...)
    bint reset_after, int recurrent_activation, int activation, int batched, int recurrent, int threads,
):
    """All steps of one layer in one direction."""
    cdef Py_ssize_t N = h0.shape[0], T = x.shape[1], D = x.shape[2], H = h0.shape[1], Hp = padded(H, sizeof(floating))
    cdef Py_ssize_t size = sizeof(floating), i, k0 = 0, most, worked = 0
    cdef Forward j
    j.G = (4 if reset_after else 3) * Hp
    j.training = states is not None
    assert _assert_schedule(N, T, rows, offsets, times)
    assert x.shape[0] == N and (x.strides[2] == size or D == 1) and H >= 1 and D >= 1
    assert (x.strides[0] % size == 0 or N == 1) and (x.strides[1] % size == 0 or T <= 1)
    assert kernel.shape[0] == D * 3 * Hp and recurrent_kernel.shape[0] == H * 3 * Hp
    assert bias.shape[0] == 4 * Hp and h.shape[0] == N and h.shape[1] == H
    assert y is None or (y.shape[0] == N and y.shape[1] == T and y.shape[2] == H)
    assert y is None or y.strides[2] == size or H == 1
    j.s = schedule_of(N, T, rows, offsets, times)
    cdef Py_ssize_t M = offset(&j.s, j.s.K)
    assert not j.training or (gates.shape[0] == M and gates.shape[1] == j.G)
    assert not j.training or (states.shape[0] == N + M and states.shape[1] == Hp)
    assert work.shape[0] >= forward_work(N, M, D, H, reset_after, j.training, size, threads)
    if N == 0:
        return
    if j.training:
        states[:N, :] = 0
        for i in range(N):
            states[i, :H] = h0[batch_row(&j.s, i)]
    if M == 0:
        h[:, :] = h0
        return

    cdef Sharing way = share(N, M, D, H, Hp, size, threads)
    cdef floating *next_work = first_aligned(&work[0])
    cdef floating *h_now
    j.D, j.H, j.Hp = D, H, Hp
    j.reset_after, j.f, j.g = reset_after, recurrent_activation, activation
    j.single = floating is float
    j.W = matrix(&kernel[0], D, Hp, 3, batched)
    j.U = matrix(&recurrent_kernel[0], H, Hp, 3, recurrent)
    j.x, j.bias, j.h = &x[0, 0, 0], &bias[0], &h[0, 0]
    j.xn, j.xt = x.strides[0] // size, x.strides[1] // size
    j.y = NULL
    if y is not None:
        j.y, j.yn, j.yt = &y[0, 0, 0], y.strides[0] // size, y.strides[1] // size
    j.by_rows, j.threads, j.range_rows = way.by_rows, way.threads, way.range_rows
    j.scratch_rows = way.range_rows if way.by_rows else max(limits.block_rows, N)
    j.reset = carve(&next_work, N * Hp)
    j.rows = carve(&next_work, way.threads * N * D)
    if j.training:
        j.gates, j.states = &gates[0, 0], &states[0, 0]
    else:
        j.gates = carve(&next_work, way.threads * j.scratch_rows * j.G)
        j.states = carve(&next_work, 2 * N * Hp)
    h_now = <floating *>j.states
    most = max(N, limits.signal_work // (3 * H * (D + H))) if way.by_rows else j.scratch_rows
    with nogil:
        if not j.training:
            memset(h_now, 0, N * Hp * size)
            for i in range(N):
                memcpy(h_now + i * Hp, &h0[batch_row(&j.s, i), 0], H * size)
        emit(&j, -1, 0, N, 0, Hp, h_now)
        while k0 < j.s.K:
            j.k0, j.k1 = k0, block_end(&j.s, k0, most, not way.by_rows)
            memset(&j.team, 0, sizeof(j.team))
            run(way.threads, <int>((N + way.range_rows - 1) // way.range_rows) if way.by_rows else way.threads, forward_task, &j)
            worked += (offset(&j.s, j.k1) - offset(&j.s, k0)) * 3 * H * (D + H)
            if worked > limits.signal_work:
                worked = 0
                with gil:
                    PyErr_CheckSignals()
            k0 = j.k1


# ---- step ----

cdef class Stepper:
    """One time step of stacked cells, from a state to the next, with everything prepared: a call takes three buffers and allocates nothing.

    Parameters
    ----------
    cells : list of recurrence.Weights
        Of one dtype, each reading the state of the one before.
    """
    cdef list cells      # keeps the arrays below alive
    cdef Forward *jobs
    cdef int layers
    cdef bint single
    cdef object work     # for one call; under the GIL, or `busy`
    cdef bint busy

    def __cinit__(self, cells):
        self.jobs = <Forward *>PyMem_Calloc(len(cells), sizeof(Forward))
        if self.jobs == NULL:
            raise MemoryError()

    def __dealloc__(self):
        PyMem_Free(self.jobs)

    def __init__(self, cells):
        cdef Py_ssize_t i
        cdef Forward *j
        cdef const void *W
        cdef const void *U
        self.cells = list(cells)
        self.layers = <int>len(cells)
        self.single = cells[0].dtype == np.float32
        self.work = np.empty(0, np.uint8)
        for i in range(self.layers):
            weights = cells[i]
            j = &self.jobs[i]
            j.D, j.H, j.Hp = weights.D, weights.H, weights.Hp
            j.reset_after, j.f, j.g = weights.reset_after, weights.recurrent_activation, weights.activation
            j.G = (4 if j.reset_after else 3) * j.Hp
            j.single = self.single
            W = <const void *><size_t>weights.kernel.ctypes.data
            U = <const void *><size_t>weights.recurrent_kernel.ctypes.data
            j.bias = <const void *><size_t>weights.bias.ctypes.data
            j.W = matrix(W, j.D, j.Hp, 3, weights.batched)
            j.U = matrix(U, j.H, j.Hp, 3, weights.recurrent)

    def __call__(self, x, h, out, int threads):
        """Write the state after `h` and `x` to `out` and return True; return False, nothing done, if the three are not C-contiguous
        arrays of the cells' dtype, (N, D), and of the state's shape: (N, H), or (layers, N, H)."""
        cdef Py_buffer buffers[3]
        cdef int held = 0, i
        cdef bint done = False
        cdef int flags = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS
        try:
            for i, v in enumerate((x, h, out)):
                PyObject_GetBuffer(v, &buffers[i], flags | PyBUF_WRITABLE if i == 2 else flags)
                held += 1
            if self.fits(buffers):
                self.run(<const char *>buffers[0].buf, <const char *>buffers[1].buf, <char *>buffers[2].buf,
                         buffers[0].shape[0], threads)
                done = True
        except (BufferError, TypeError, ValueError):
            if held == 3:
                raise
        finally:
            for i in range(held):
                PyBuffer_Release(&buffers[i])
        return done

    cdef bint fits(self, Py_buffer *b) noexcept:
        cdef char code = b"f" if self.single else b"d"
        cdef int i, first
        for i in range(3):
            if b[i].format == NULL or b[i].format[0] != code or b[i].format[1] != 0:
                return False
        if b[0].ndim != 2 or b[0].shape[1] != self.jobs[0].D:
            return False
        for i in range(1, 3):
            first = b[i].ndim - 2
            if first != 0 and (first != 1 or b[i].shape[0] != self.layers):
                return False
            if first == 0 and self.layers > 1:
                return False
            if b[i].shape[first] != b[0].shape[0] or b[i].shape[first + 1] != self.jobs[0].H:
                return False
        return b[1].ndim == b[2].ndim

    cdef int run(self, const char *x, const char *h, char *out, Py_ssize_t N, int threads) except -1:
        cdef Py_ssize_t size = 4 if self.single else 8, i, state, work = 0
        cdef bint alone
        if N == 0:
            return 0
        for i in range(self.layers):
            work += 3 * self.jobs[i].H * (self.jobs[i].D + self.jobs[i].H) * N
        alone = self.busy
        cdef Py_ssize_t needed = 128 + size * N * (self.jobs[0].G + 3 * self.jobs[0].Hp + 4 * ALIGN)
        space = self.work
        if alone:
            space = np.empty(needed, np.uint8)
        elif len(space) < needed:
            space = self.work = np.empty(needed, np.uint8)
        cdef unsigned char[::1] view = space
        cdef char *start = <char *>&view[0]
        state = N * self.jobs[0].H * size
        if work < limits.gil_work:
            for i in range(self.layers):
                self.step(i, x, h + i * state, out + i * state, N, start, 1)
                x = out + i * state
            return 0
        if not alone:
            self.busy = True
        with nogil:
            for i in range(self.layers):
                self.step(i, x, h + i * state, out + i * state, N, start, threads)
                x = out + i * state
        if not alone:
            self.busy = False
        return 0

    cdef void step(
        self, Py_ssize_t i, const char *x, const char *h, char *out, Py_ssize_t N, char *work, int threads
    ) noexcept nogil:
        if self.single:
            step_cell(&self.jobs[i], <const float *>x, <const float *>h, <float *>out, N, <float *>work, threads)
        else:
            step_cell(&self.jobs[i], <const double *>x, <const double *>h, <double *>out, N, <double *>work, threads)


cdef void step_cell(
    const Forward *cell, const floating *x, const floating *h, floating *out, Py_ssize_t N, floating *work, int threads
) noexcept nogil:
    """One step of one cell; out may be h."""
    cdef Forward j = cell[0]
    cdef Py_ssize_t i, size = sizeof(floating)
    cdef Sharing way = share(N, N, j.D, j.H, j.Hp, size, threads)
    cdef floating *next_work = first_aligned(work)
    cdef floating *states
    cdef unsigned was
    j.gates = carve(&next_work, N * j.G)
    states = carve(&next_work, 2 * N * j.Hp)
    j.states, j.reset = states, carve(&next_work, N * j.Hp)
    if j.H < j.Hp:
        memset(states, 0, N * j.Hp * size)
    for i in range(N):
        memcpy(states + i * j.Hp, h + i * j.H, j.H * size)
    j.h = out
    j.s.N, j.s.K, j.k1 = N, 1, 1
    j.x, j.xn, j.xt = x, j.D, 0
    if way.threads > 1:
        j.by_rows, j.threads, j.range_rows, j.scratch_rows = False, way.threads, N, N
        run(way.threads, way.threads, forward_task, &j)
        return
    was = cgru_flush_denormals()
    project_input(&j, 0, 0, N, 0, j.Hp, <floating *>j.gates, <floating *>NULL)
    step_forward(&j, N, 0, j.Hp, <floating *>j.gates, states, states + N * j.Hp, <floating *>j.reset, NULL)
    emit(&j, 0, 0, N, 0, j.Hp, states + N * j.Hp)
    cgru_restore_denormals(was)


# ---- backward ----

cdef struct Backward:
    Forward forward          # the sizes, the tape and x
    Matrix U_back            # U^T: (3H, H), rows r z n
    Matrix W_back            # W^T: (3H, D), rows n r z
    Route batched            # of the large products
    const void *dy
    void *dx
    void *dh                 # (N, Hp) of the state, sorted rows
    void *dg                 # (block, G) n r z q or n r z
    void *ds                 # (N, Hp) of r * h
    void *x_block            # (block, D)
    void *h_block            # (block, Hp) the states before each packed row
    void *reset_block        # (block, Hp) r * h
    void *dx_block           # (block, Dp)
    void *dkernel            # (D, 3Hp) n r z
    void *drecurrent_kernel  # (H, 3Hp) r z n
    void *dbias              # (G,) as a row of dg
    void *bias_block         # (G,)
    void *panels             # (slots, block, panel) of dg
    Py_ssize_t Dp, dyn, dyt, dxn, dxt, most
    double[5] f64
    double[5] g64
    float[5] f32
    float[5] g32


cdef inline void step_backward(
    Backward *j, Py_ssize_t n, Py_ssize_t u0, Py_ssize_t u1, floating *f, floating *g,
    floating *gates,  # (n, G)
    floating *h,      # (n, Hp) the states before the step
    floating *dh,     # (n, Hp) in: of the states after the step; out: of those before
    floating *dg,     # (n, G) out
    floating *ds,     # (n, Hp) workspace
    floating *reset,  # (n, Hp) out, r * h
    int *turn,
) noexcept nogil:
    """One step of n rows, the units u0 .. u1 of it: the gradients of the gates, and dh one step earlier."""
    cdef Py_ssize_t i, H = j.forward.Hp, G = j.forward.G, units = u1 - u0
    cdef floating *row
    cdef floating *d
    for i in range(n):
        row = gates + i * G + u0
        d = dg + i * G + u0
        candidate_backward(
            f, g, units, row + H, row + 2 * H, h + i * H + u0, dh + i * H + u0, d, d + 2 * H)
        if j.forward.reset_after:
            reset_after_backward(f, units, row, row + 3 * H, d, d + H, d + 3 * H)
    if turn != NULL:
        cgru_meet(&j.forward.team, turn)
    if j.forward.reset_after:
        # dh (n x H) += [dr dz dq] (n x 3H) U^T (3H x H)
        multiply(n, 3 * H, dg + H, G, 1, &j.U_back, 0, 0, 1, u0, u1, dh, H, True)
        return
    # ds (n x H) = dn (n x H) U_n^T (H x H)
    multiply(n, H, dg, G, 1, &j.U_back, 2 * H, 0, 1, u0, u1, ds, H, False)
    for i in range(n):
        row = gates + i * G + u0
        reset_before_forward(units, row, h + i * H + u0, reset + i * H + u0)
        reset_before_backward(f, units, row, h + i * H + u0, ds + i * H + u0, dg + i * G + H + u0, dh + i * H + u0)
    if turn != NULL:
        cgru_meet(&j.forward.team, turn)
    # dh (n x H) += [dr dz] (n x 2H) [U_r U_z]^T (2H x H)
    multiply(n, 2 * H, dg + H, G, 1, &j.U_back, 0, 0, 1, u0, u1, dh, H, True)


cdef void backward_gates(
    Backward *j, Py_ssize_t i0, Py_ssize_t i1, Py_ssize_t u0, Py_ssize_t u1, bint first, int *turn, floating *f, floating *g
) noexcept nogil:
    """The gradients of the gates in the block of steps, for the rows i0 .. i1 and the units u0 .. u1; with `first` also what the large
    products read of these rows beside them."""
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t H = forward.Hp, G = forward.G, D = forward.D, start = offset(&forward.s, forward.k0)
    cdef Py_ssize_t k, n, i, p, units = min(u1, forward.H) - u0
    cdef const floating *dy = <const floating *>j.dy
    cdef floating *dh = <floating *>j.dh + i0 * H
    cdef floating *h
    for k in range(forward.k1 - 1, forward.k0 - 1, -1):
        n = min(i1, count(&forward.s, k)) - i0
        if n <= 0:
            continue
        p = offset(&forward.s, k) - start + i0
        h = states_before(forward, k, <floating *>forward.states) + i0 * H
        if dy != NULL and units > 0:
            for i in range(n):
                add(units, dh + i * H + u0, <floating *>dy + place(&forward.s, k, i0 + i, j.dyn, j.dyt) + u0)
        step_backward(
            j, n, u0, u1, f, g, <floating *>forward.gates + (start + p) * G, h, dh, <floating *>j.dg + p * G,
            <floating *>j.ds + i0 * H, <floating *>j.reset_block + p * H, turn,
        )
        if first:
            memcpy(<floating *>j.h_block + p * H, h, n * H * sizeof(floating))
            for i in range(n):
                memcpy(
                    <floating *>j.x_block + (p + i) * D,
                    <const floating *>forward.x + place(&forward.s, k, i0 + i, forward.xn, forward.xt), D * sizeof(floating))


cdef void backward_gates_task(void *job, int task, int slot) noexcept nogil:
    cdef Backward *j = <Backward *>job
    cdef unsigned was = cgru_flush_denormals()
    cdef Py_ssize_t i0 = 0, i1 = j.forward.s.N, u0 = 0, u1 = j.forward.Hp, width, panels
    cdef int member = 0, turn = 0
    cdef int *team_turn = NULL
    if j.forward.by_rows:
        i0 = task * j.forward.range_rows
        i1 = min(i0 + j.forward.range_rows, i1)
    else:
        member = cgru_join(&j.forward.team, j.forward.threads)
        if member >= 0 and j.forward.team.size > 1:
            width = panel_width(4 if j.forward.single else 8)
            panels = (u1 + width - 1) // width
            u0 = panels * member // j.forward.team.size * width
            u1 = min(panels * (member + 1) // j.forward.team.size * width, u1)
            team_turn = &turn
    if member >= 0 and j.forward.single:
        backward_gates(j, i0, i1, u0, u1, member == 0, team_turn, <float *>j.f32, <float *>j.g32)
    elif member >= 0:
        backward_gates(j, i0, i1, u0, u1, member == 0, team_turn, <double *>j.f64, <double *>j.g64)
    cgru_restore_denormals(was)


cdef inline void add_product(
    Backward *j, int panel, int slot, Py_ssize_t m, const floating *a, Py_ssize_t lda, const floating *dg,
    Py_ssize_t columns, floating *c,
) noexcept nogil:
    """c (m x columns, of rows 3Hp apart) += a^T (m x block) dg (block x columns), one panel of its columns."""
    cdef Py_ssize_t width = large_width(j, columns, sizeof(floating)), column = panel * width
    cdef Py_ssize_t w = min(width, columns - column), G = j.forward.G, i
    cdef Py_ssize_t block = offset(&j.forward.s, j.forward.k1) - offset(&j.forward.s, j.forward.k0)
    cdef floating *copied = <floating *>j.panels + slot * j.most * panel_width(sizeof(floating))
    cdef Matrix b = matrix(copied, block, w, 1, PACKED)
    if j.batched == BLAS:
        blas_gemm(m, w, block, a, lda, True, dg + column, G, False, c + column, 3 * j.forward.Hp, <floating>1)
        return
    # Copied together, the panel is read once for every few rows of c without a cache miss for every row of it.
    for i in range(block):
        memcpy(copied + i * w, dg + i * G + column, w * sizeof(floating))
    multiply(m, block, a, 1, lda, &b, 0, 0, 1, 0, w, c + column, 3 * j.forward.Hp, True)


cdef inline Py_ssize_t large_width(const Backward *j, Py_ssize_t columns, Py_ssize_t itemsize) noexcept nogil:
    return columns if j.batched == BLAS else panel_width(itemsize)


cdef inline int large_panels(const Backward *j, Py_ssize_t columns, Py_ssize_t itemsize) noexcept nogil:
    cdef Py_ssize_t width = large_width(j, columns, itemsize)
    return <int>((columns + width - 1) // width)


cdef inline void input_gradient(Backward *j, int task, floating *dtype) noexcept nogil:
    """dx of limits.dx_rows packed rows of the block."""
    cdef Forward *forward = &j.forward
    cdef Py_ssize_t start = offset(&forward.s, forward.k0), k, i, p
    cdef Py_ssize_t p0 = task * limits.dx_rows, p1 = min(p0 + limits.dx_rows, offset(&forward.s, forward.k1) - start)
    cdef floating *block = <floating *>j.dx_block
    cdef floating *dx = <floating *>j.dx
    # dx (rows x D) = [dn dr dz] (rows x 3H) [W_n W_r W_z]^T (3H x D)
    multiply(
        p1 - p0, 3 * forward.Hp, <const floating *>j.dg + p0 * forward.G, forward.G, 1, &j.W_back, 0, 0, 1, 0, j.Dp,
        block + p0 * j.Dp, j.Dp, False,
    )
    for k in range(forward.k0, forward.k1):
        for i in range(max(0, p0 - (offset(&forward.s, k) - start)), count(&forward.s, k)):
            p = offset(&forward.s, k) - start + i
            if p >= p1:
                return
            memcpy(dx + place(&forward.s, k, i, j.dxn, j.dxt), block + p * j.Dp, forward.D * sizeof(floating))


cdef void backward_large(Backward *j, int task, int slot, floating *dtype) noexcept nogil:
    """One piece of the large products of the block: a panel of dW or dU, the bias, or some rows of dx."""
    cdef Py_ssize_t H = j.forward.Hp, G = j.forward.G, size = sizeof(floating), i
    cdef Py_ssize_t block = offset(&j.forward.s, j.forward.k1) - offset(&j.forward.s, j.forward.k0)
    cdef floating *dg = <floating *>j.dg
    cdef floating *x = <floating *>j.x_block
    cdef floating *h = <floating *>j.h_block
    cdef floating *dU = <floating *>j.drecurrent_kernel
    cdef floating *sums = <floating *>j.bias_block
    cdef Py_ssize_t state_columns = (3 if j.forward.reset_after else 2) * H
    if task == 0:
        memset(sums, 0, G * size)
        for i in range(block):
            add(G, sums, dg + i * G)
        add(G, <floating *>j.dbias, sums)
        return
    task -= 1
    if task < large_panels(j, 3 * H, size):
        # dW (D x 3H) += x^T (D x rows) [dn dr dz] (rows x 3H)
        add_product(j, task, slot, j.forward.D, x, j.forward.D, dg, 3 * H, <floating *>j.dkernel)
        return
    task -= large_panels(j, 3 * H, size)
    if task < large_panels(j, state_columns, size):
        # dU (H x 3H) += h^T (H x rows) [dr dz dq] (rows x 3H), or of r and z alone
        add_product(j, task, slot, j.forward.H, h, H, dg + H, state_columns, dU)
        return
    task -= large_panels(j, state_columns, size)
    if not j.forward.reset_after:
        if task < large_panels(j, H, size):
            # dU_n (H x H) += (r * h)^T (H x rows) dn (rows x H)
            add_product(j, task, slot, j.forward.H, <floating *>j.reset_block, H, dg, H, dU + 2 * H)
            return
        task -= large_panels(j, H, size)
    input_gradient(j, task, dtype)


cdef int large_tasks(const Backward *j, Py_ssize_t itemsize) noexcept nogil:
    cdef Py_ssize_t H = j.forward.Hp, block = offset(&j.forward.s, j.forward.k1) - offset(&j.forward.s, j.forward.k0)
    cdef int tasks = 1 + large_panels(j, 3 * H, itemsize)
    if j.forward.reset_after:
        tasks += large_panels(j, 3 * H, itemsize)
    else:
        tasks += large_panels(j, 2 * H, itemsize) + large_panels(j, H, itemsize)
    return tasks + (<int>((block + limits.dx_rows - 1) // limits.dx_rows) if j.dx != NULL else 0)


cdef void backward_large_task(void *job, int task, int slot) noexcept nogil:
    cdef Backward *j = <Backward *>job
    cdef unsigned was = cgru_flush_denormals()
    if j.forward.single:
        backward_large(j, task, slot, <float *>NULL)
    else:
        backward_large(j, task, slot, <double *>NULL)
    cgru_restore_denormals(was)


def backward_work(
    Py_ssize_t N, Py_ssize_t M, Py_ssize_t D, Py_ssize_t H, bint reset_after, Py_ssize_t itemsize, int threads
):
    """Elements of the workspace of `backward`."""
    cdef Py_ssize_t Hp = padded(H, itemsize), G = (4 if reset_after else 3) * Hp, most = max(min(limits.large_rows, M), N)
    cdef Sharing way = share(N, M, D, H, Hp, itemsize, threads)
    return (
        ALIGN + 2 * aligned(N * Hp) + aligned(most * G) + aligned(most * D) + 2 * aligned(most * Hp)
        + aligned(most * padded(D, itemsize)) + aligned(G) + aligned(way.threads * most * panel_width(itemsize))
    )


def backward(
    const floating[:, :, :] dy,   # (N, T, H) or None; read where a row takes a step
    const floating[:, ::1] dh,    # (N, H) gradient of the final state, or None
    const floating[:, :, :] x,    # (N, T, D)
    const floating[::1] kernel,   # W^T, `pack`ed by the route `batched`: (3Hp, D), rows n r z
    const floating[::1] recurrent_kernel,  # U^T, `pack`ed by the route `recurrent`: (3Hp, H), rows r z n
    const floating[:, ::1] gates, const floating[:, ::1] states,  # the tape, see `forward`
    const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times,  # schedule.pxd; or None
    floating[:, :, :] dx,         # (N, T, D) out, or None; written where a row takes a step
    floating[:, ::1] dh0,         # (N, H) out
    floating[:, ::1] dkernel,     # (D, 3Hp) n r z, out, += as the two below
    floating[:, ::1] drecurrent_kernel,  # (H, 3Hp) r z n, out
    floating[::1] dbias,          # (4Hp,) n r z q, or (3Hp,) n r z; out
    floating[::1] work,           # backward_work(...)
    bint reset_after, int recurrent_activation, int activation, int batched, int recurrent, int threads,
):
    """The gradients of one layer in one direction; the tape is only read."""
    cdef Py_ssize_t N = dh0.shape[0], T = x.shape[1], D = x.shape[2], H = dh0.shape[1], Hp = padded(H, sizeof(floating))
    cdef Py_ssize_t size = sizeof(floating), i, worked = 0, k1
    cdef Backward j
    cdef Forward *forward = &j.forward
    forward.G = (4 if reset_after else 3) * Hp
    j.Dp = padded(D, size)
    assert _assert_schedule(N, T, rows, offsets, times)
    assert x.shape[0] == N and (x.strides[2] == size or D == 1) and H >= 1 and D >= 1
    assert dy is None or (dy.shape[0] == N and dy.shape[1] == T and dy.shape[2] == H)
    assert dy is None or dy.strides[2] == size or H == 1
    assert dx is None or (dx.shape[0] == N and dx.shape[1] == T and dx.shape[2] == D)
    assert dx is None or dx.strides[2] == size or D == 1
    assert dh is None or (dh.shape[0] == N and dh.shape[1] == H)
    assert kernel.shape[0] == 3 * Hp * j.Dp and recurrent_kernel.shape[0] == 3 * Hp * Hp
    assert dkernel.shape[0] == D and dkernel.shape[1] == 3 * Hp and dbias.shape[0] == forward.G
    assert drecurrent_kernel.shape[0] == H and drecurrent_kernel.shape[1] == 3 * Hp
    forward.s = schedule_of(N, T, rows, offsets, times)
    cdef Py_ssize_t M = offset(&forward.s, forward.s.K)
    assert gates.shape[0] == M and gates.shape[1] == forward.G and states.shape[0] == N + M and states.shape[1] == Hp
    assert work.shape[0] >= backward_work(N, M, D, H, reset_after, size, threads)
    if N == 0:
        return
    if M == 0:
        if dh is None:
            dh0[:, :] = 0
        else:
            dh0[:, :] = dh
        return

    cdef Sharing way = share(N, M, D, H, Hp, size, threads)
    cdef floating *next_work = first_aligned(&work[0])
    cdef floating *dh_now = carve(&next_work, N * Hp)
    forward.D, forward.H, forward.Hp = D, H, Hp
    forward.reset_after, forward.training, forward.single = reset_after, True, floating is float
    forward.by_rows, forward.threads, forward.range_rows = way.by_rows, way.threads, way.range_rows
    forward.x, forward.xn, forward.xt = &x[0, 0, 0], x.strides[0] // size, x.strides[1] // size
    forward.gates, forward.states = <void *>&gates[0, 0], <void *>&states[0, 0]
    j.most = max(min(limits.large_rows, M), N)
    j.dh = dh_now
    j.ds = carve(&next_work, N * Hp)
    j.dg = carve(&next_work, j.most * forward.G)
    j.x_block = carve(&next_work, j.most * D)
    j.h_block = carve(&next_work, j.most * Hp)
    j.reset_block = carve(&next_work, j.most * Hp)
    j.dx_block = carve(&next_work, j.most * j.Dp)
    j.bias_block = carve(&next_work, forward.G)
    j.panels = carve(&next_work, way.threads * j.most * panel_width(size))
    j.W_back = matrix(&kernel[0], 3 * Hp, j.Dp, 1, batched)
    j.U_back = matrix(&recurrent_kernel[0], 3 * Hp, Hp, 1, recurrent)
    j.batched = <Route>batched
    j.dkernel, j.drecurrent_kernel, j.dbias = &dkernel[0, 0], &drecurrent_kernel[0, 0], &dbias[0]
    j.dy, j.dx = NULL, NULL
    if dy is not None:
        j.dy, j.dyn, j.dyt = &dy[0, 0, 0], dy.strides[0] // size, dy.strides[1] // size
    if dx is not None:
        j.dx, j.dxn, j.dxt = &dx[0, 0, 0], dx.strides[0] // size, dx.strides[1] // size
    with nogil:
        slope_terms(recurrent_activation, <double *>j.f64)
        slope_terms(activation, <double *>j.g64)
        slope_terms(recurrent_activation, <float *>j.f32)
        slope_terms(activation, <float *>j.g32)
        memset(dh_now, 0, N * Hp * size)
        if dh is not None:
            for i in range(N):
                memcpy(dh_now + i * Hp, &dh[batch_row(&forward.s, i), 0], H * size)
        k1 = forward.s.K
        while k1 > 0:
            forward.k1, forward.k0 = k1, block_start_before(&forward.s, k1, j.most)
            memset(&forward.team, 0, sizeof(forward.team))
            run(
                way.threads, <int>((N + way.range_rows - 1) // way.range_rows) if way.by_rows else way.threads,
                backward_gates_task, &j,
            )
            run(way.threads, large_tasks(&j, size), backward_large_task, &j)
            worked += (offset(&forward.s, k1) - offset(&forward.s, forward.k0)) * 6 * H * (D + H)
            if worked > limits.signal_work:
                worked = 0
                with gil:
                    PyErr_CheckSignals()
            k1 = forward.k0
        for i in range(N):
            memcpy(&dh0[batch_row(&forward.s, i), 0], dh_now + i * Hp, H * size)
