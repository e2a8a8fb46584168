# The entry points of the compiled kernels; included by one stub for each instruction set.
#
# Design: one layer, one direction. The input products of a whole block of steps run as one gemm, then the steps of the
# block run one after the other: one product with the recurrent kernel (two when the reset comes before it), then the
# elementwise loops of gates.pxd, row by row. Backward walks the blocks from the last to the first, stores the gradients
# of a block's gates and ends each block with the large products. Blocks are cut by the schedule and `block_rows` alone,
# so results do not depend on anything else.
#
# Nothing here allocates or checks: recurrence.py does. Every array is row-major; those of the batch (x, y, dx, dy) may
# have any stride for rows and times (a negative time stride is the reverse direction), only their features are
# contiguous. A debug build asserts all of it. Packed rows, M of them, are those of schedule.pxd.

import numpy as np

from cpython.exc cimport PyErr_CheckSignals
from cython cimport floating
from libc.string cimport memcpy, memset

from blas cimport gemm as blas_gemm
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
from schedule cimport (
    Schedule,
    batch_row,
    block_end,
    block_start_before,
    count,
    dense_stride,
    gather,
    offset,
    place,
    scatter,
)

BLAS_MOST = 2**31 - 1  # sizes and strides that BLAS' integers hold

# Multiplications between two looks for signals: some 10 to 100 ms. Taking the GIL more often can cost a switch interval
# (5 ms) each time.
cdef Py_ssize_t SIGNAL_WORK = 1_000_000_000
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
    cdef floating[1024] zeros  # in place of the hidden product and the bias
    assert out.shape[0] == n
    memset(<floating *>zeros, 0, sizeof(zeros))
    with nogil:
        for i in range(0, n, 512):
            gates_forward(
                activation, min(512, n - i), <floating *>&x[i], <floating *>zeros, <floating *>zeros + 512, &out[i])


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


# ---- forward ----

cdef inline void step_forward(
    Py_ssize_t n, Py_ssize_t H, bint reset_after, int f, int g,
    floating *xg,        # (n, 3H) x W: r z n
    floating *U,         # (H, 3H) recurrent kernel
    floating *bias,      # (4H,) r z n q
    floating *h,         # (n, H)
    floating *h_next,    # (n, H) out
    floating *gates,     # (n, 4H) r z n q, or (n, 3H) r z n; out
    floating *hg,        # (n, 3H) workspace
    floating *s,         # (n, H) workspace
) noexcept nogil:
    """One step of n rows."""
    cdef Py_ssize_t i, G = (4 if reset_after else 3) * H, width = (3 if reset_after else 2) * H
    cdef floating *row
    # hg (n x width) = h (n x H) U (H x width)
    blas_gemm(n, width, H, h, H, False, U, 3 * H, False, hg, 3 * H, <floating>0)
    for i in range(n):
        row = gates + i * G
        gates_forward(f, 2 * H, xg + i * 3 * H, hg + i * 3 * H, bias, row)
        if reset_after:
            reset_after_forward(H, row, hg + i * 3 * H + 2 * H, bias + 3 * H, row + 3 * H, s + i * H)
        else:
            reset_before_forward(H, row, h + i * H, s + i * H)
    if not reset_after:
        # hg_n (n x H) = (r * h) (n x H) U_n (H x H)
        blas_gemm(n, H, H, s, H, False, U + 2 * H, 3 * H, False, hg + 2 * H, 3 * H, <floating>0)
    for i in range(n):
        row = gates + i * G
        candidate_forward(
            g, H, xg + i * 3 * H + 2 * H, s + i * H if reset_after else hg + i * 3 * H + 2 * H, bias + 2 * H,
            row + H, h + i * H, row + 2 * H, h_next + i * H,
        )


cdef inline void flush_ended(
    const Schedule *s, Py_ssize_t k, Py_ssize_t H, const floating *states, floating *h
) noexcept nogil:
    """Write the final state of the rows whose last step was k; states (rows of step k, H), all of them before step
    0."""
    cdef Py_ssize_t i
    for i in range(count(s, k + 1), count(s, k) if k >= 0 else s.N):
        memcpy(h + batch_row(s, i) * H, states + i * H, H * sizeof(floating))


def forward_work(Py_ssize_t N, Py_ssize_t D, Py_ssize_t H, bint reset_after, Py_ssize_t block_rows, bint training):
    """Elements of the workspace of `forward`."""
    cdef Py_ssize_t rows = max(block_rows, N), G = (4 if reset_after else 3) * H
    cdef Py_ssize_t own_tape = 0 if training else aligned(N * G) + 2 * aligned(N * H)
    return ALIGN + aligned(rows * D) + aligned(rows * 3 * H) + aligned(N * 3 * H) + aligned(N * H) + own_tape


def forward(
    const floating[:, :, :] x,               # (N, T, D)
    const floating[:, ::1] h0,               # (N, H)
    const floating[:, ::1] kernel,           # (D, 3H)
    const floating[:, ::1] recurrent_kernel,  # (H, 3H)
    const floating[::1] bias,                # (4H,) r z n q
    const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times,  # schedule.pxd; or None
    floating[:, :, :] y,                     # (N, T, H) out, or None; written where a row takes a step
    floating[:, ::1] h,                      # (N, H) out, the final state
    floating[:, ::1] gates,                  # (M, 4H) or (M, 3H) out, the tape; None in inference
    floating[:, ::1] states,                 # (N + M, H) out, the tape: h0, then after each packed row; or None
    floating[::1] work,                      # forward_work(...)
    bint reset_after, int recurrent_activation, int activation, Py_ssize_t block_rows,
):
    """All steps of one layer in one direction."""
    cdef Py_ssize_t N = h0.shape[0], T = x.shape[1], D = kernel.shape[0], H = h0.shape[1]
    cdef Py_ssize_t size = sizeof(floating), G = (4 if reset_after else 3) * H
    cdef bint training = states is not None
    assert _assert_schedule(N, T, rows, offsets, times)
    assert x.shape[0] == N and x.shape[2] == D and (x.strides[2] == size or D == 1) and H >= 1 and D >= 1
    assert x.strides[0] % size == 0 and x.strides[1] % size == 0
    assert kernel.shape[1] == 3 * H and recurrent_kernel.shape[0] == H and recurrent_kernel.shape[1] == 3 * H
    assert bias.shape[0] == 4 * H and h.shape[0] == N and h.shape[1] == H
    assert y is None or (y.shape[0] == N and y.shape[1] == T and y.shape[2] == H and (y.strides[2] == size or H == 1))
    assert work.shape[0] >= forward_work(N, D, H, reset_after, block_rows, training)
    cdef Schedule s = schedule_of(N, T, rows, offsets, times)
    cdef Py_ssize_t M = offset(&s, s.K), most = max(block_rows, N), worked = 0
    assert not training or (gates.shape[0] == M and gates.shape[1] == G)
    assert not training or (states.shape[0] == N + M and states.shape[1] == H)
    if N == 0:
        return
    if M == 0:
        h[:, :] = h0
        if training:
            states[:, :] = h0
        return

    cdef floating *next_work = first_aligned(&work[0])
    cdef floating *x_block = carve(&next_work, most * D)
    cdef floating *xg = carve(&next_work, most * 3 * H)
    cdef floating *hg = carve(&next_work, N * 3 * H)
    cdef floating *candidate_state = carve(&next_work, N * H)
    cdef floating *step_gates = &gates[0, 0] if training else carve(&next_work, N * G)
    cdef floating *h_now = &states[0, 0] if training else carve(&next_work, N * H)
    cdef floating *h_next = h_now + N * H if training else carve(&next_work, N * H)
    cdef const floating *block
    cdef floating *U = <floating *>&recurrent_kernel[0, 0]
    cdef Py_ssize_t xn = x.strides[0] // size, xt = x.strides[1] // size
    cdef Py_ssize_t yn = 0 if y is None else y.strides[0] // size, yt = 0 if y is None else y.strides[1] // size
    cdef Py_ssize_t lda = dense_stride(&s, D, xn, xt)
    cdef Py_ssize_t k, k0 = 0, k1, i, n
    with nogil:
        for i in range(N):
            memcpy(h_now + i * H, &h0[batch_row(&s, i), 0], H * size)
        flush_ended(&s, -1, H, h_now, &h[0, 0])
        while k0 < s.K:
            k1 = block_end(&s, k0, most)
            if lda != 0:
                block = &x[0, 0, 0] + k0 * xt
            else:
                gather(&s, k0, k1, D, &x[0, 0, 0], xn, xt, x_block)
                block = x_block
            # xg (rows x 3H) = x (rows x D) W (D x 3H)
            blas_gemm(
                offset(&s, k1) - offset(&s, k0), 3 * H, D, block, lda if lda != 0 else D, False,
                &kernel[0, 0], 3 * H, False, xg, 3 * H, <floating>0,
            )
            for k in range(k0, k1):
                n = count(&s, k)
                step_forward(
                    n, H, reset_after, recurrent_activation, activation, xg + (offset(&s, k) - offset(&s, k0)) * 3 * H,
                    U, <floating *>&bias[0], h_now, h_next, step_gates, hg, candidate_state,
                )
                if y is not None:
                    scatter(&s, k, k + 1, H, h_next, &y[0, 0, 0], yn, yt)
                flush_ended(&s, k, H, h_next, &h[0, 0])
                if training:
                    step_gates += n * G
                    h_now = h_next
                    h_next += n * H
                else:
                    h_now, h_next = h_next, h_now
            worked += (offset(&s, k1) - offset(&s, k0)) * 3 * H * (D + H)
            if worked > SIGNAL_WORK:
                worked = 0
                with gil:
                    PyErr_CheckSignals()
            k0 = k1


def step_work(Py_ssize_t N, Py_ssize_t H, bint reset_after):
    """Elements of the workspace of `step`."""
    return ALIGN + 2 * aligned(N * 3 * H) + 2 * aligned(N * H) + aligned(N * (4 if reset_after else 3) * H)


def step(
    const floating[:, ::1] x,                # (N, D)
    const floating[:, ::1] h,                # (N, H)
    const floating[:, ::1] kernel,           # (D, 3H)
    const floating[:, ::1] recurrent_kernel,  # (H, 3H)
    const floating[::1] bias,                # (4H,) r z n q
    floating[:, ::1] out,                    # (N, H) out, the new state; may be h itself
    floating[::1] work,                      # step_work(...)
    bint reset_after, int recurrent_activation, int activation,
):
    """One step of one layer in one direction, without a tape."""
    cdef Py_ssize_t N = h.shape[0], D = kernel.shape[0], H = h.shape[1]
    assert x.shape[0] == N and x.shape[1] == D and H >= 1 and D >= 1 and out.shape[0] == N and out.shape[1] == H
    assert kernel.shape[1] == 3 * H and recurrent_kernel.shape[0] == H and recurrent_kernel.shape[1] == 3 * H
    assert bias.shape[0] == 4 * H and work.shape[0] >= step_work(N, H, reset_after)
    if N == 0:
        return
    cdef floating *next_work = first_aligned(&work[0])
    cdef floating *xg = carve(&next_work, N * 3 * H)
    cdef floating *hg = carve(&next_work, N * 3 * H)
    cdef floating *candidate_state = carve(&next_work, N * H)
    cdef floating *gates = carve(&next_work, N * (4 if reset_after else 3) * H)
    cdef floating *h_next = carve(&next_work, N * H)
    with nogil:
        # xg (N x 3H) = x (N x D) W (D x 3H)
        blas_gemm(N, 3 * H, D, &x[0, 0], D, False, &kernel[0, 0], 3 * H, False, xg, 3 * H, <floating>0)
        step_forward(
            N, H, reset_after, recurrent_activation, activation, xg, <floating *>&recurrent_kernel[0, 0],
            <floating *>&bias[0], <floating *>&h[0, 0], h_next, gates, hg, candidate_state,
        )
        memcpy(&out[0, 0], h_next, N * H * sizeof(floating))


# ---- backward ----

cdef inline void step_backward(
    Py_ssize_t n, Py_ssize_t H, bint reset_after,
    floating *f, floating *g,   # (5,) slope_terms of the gates and of the candidate
    floating *U,                # (H, 3H) recurrent kernel
    floating *gates,            # (n, 4H) r z n q, or (n, 3H) r z n
    floating *h,                # (n, H) the states before the step
    floating *dh,               # (n, H) in: of the states after the step; out: of those before
    floating *dg,               # (n, 4H) n r z q, or (n, 3H) n r z; out
    floating *ds,               # (n, H) workspace
) noexcept nogil:
    """One step of n rows: the gradients of its gates, and dh one step earlier."""
    cdef Py_ssize_t i, G = (4 if reset_after else 3) * H
    cdef floating *row
    cdef floating *d_row
    for i in range(n):
        row = gates + i * G
        d_row = dg + i * G
        candidate_backward(f, g, H, row + H, row + 2 * H, h + i * H, dh + i * H, d_row, d_row + 2 * H)
        if reset_after:
            reset_after_backward(f, H, row, row + 3 * H, d_row, d_row + H, d_row + 3 * H)
    if reset_after:
        # dh (n x H) += [dr dz dq] (n x 3H) U^T (3H x H)
        blas_gemm(n, H, 3 * H, dg + H, G, False, U, 3 * H, True, dh, H, <floating>1)
        return
    # ds (n x H) = dn (n x H) U_n^T (H x H)
    blas_gemm(n, H, H, dg, G, False, U + 2 * H, 3 * H, True, ds, H, <floating>0)
    for i in range(n):
        reset_before_backward(f, H, gates + i * G, h + i * H, ds + i * H, dg + i * G + H, dh + i * H)
    # dh (n x H) += [dr dz] (n x 2H) [U_r U_z]^T (2H x H)
    blas_gemm(n, H, 2 * H, dg + H, G, False, U, 3 * H, True, dh, H, <floating>1)


cdef inline void sum_rows(Py_ssize_t n, Py_ssize_t width, floating *rows, floating *total) noexcept nogil:
    """total (width,) = the sum of rows (n, width)"""
    cdef Py_ssize_t i
    memset(total, 0, width * sizeof(floating))
    for i in range(n):
        add(width, total, rows + i * width)


cdef inline floating *states_before(
    const Schedule *s, Py_ssize_t k, Py_ssize_t H, floating *states
) noexcept nogil:
    """The states (count(k), H) from which step k starts, in the tape's states (N + M, H)."""
    return states if k == 0 else states + (s.N + offset(s, k - 1)) * H


cdef inline floating *block_states_before(
    const Schedule *s, Py_ssize_t k0, Py_ssize_t k1, Py_ssize_t H, floating *states, floating *copied
) noexcept nogil:
    """The states before each packed row of a block: in the tape where no row ran out on the way, else copied
    together."""
    cdef Py_ssize_t k, first = offset(s, k0), n = count(s, k1 - 1)
    if n == (s.N if k0 == 0 else count(s, k0 - 1)):
        return states_before(s, k0, H, states)
    for k in range(k0, k1):
        memcpy(copied + (offset(s, k) - first) * H, states_before(s, k, H, states), count(s, k) * H * sizeof(floating))
    return copied


def backward_work(Py_ssize_t N, Py_ssize_t D, Py_ssize_t H, bint reset_after, Py_ssize_t block_rows):
    """Elements of the workspace of `backward`."""
    cdef Py_ssize_t rows = max(block_rows, N), G = (4 if reset_after else 3) * H
    return ALIGN + 2 * aligned(rows * D) + aligned(rows * G) + 2 * aligned(rows * H) + 2 * aligned(N * H) + aligned(G)


def backward(
    const floating[:, :, :] dy,              # (N, T, H) or None; read where a row takes a step
    const floating[:, ::1] dh,               # (N, H) gradient of the final state, or None
    const floating[:, :, :] x,               # (N, T, D)
    const floating[:, ::1] kernel,           # (D, 3H)
    const floating[:, ::1] recurrent_kernel,  # (H, 3H)
    const floating[:, ::1] gates,            # (M, 4H) or (M, 3H) of the tape
    const floating[:, ::1] states,           # (N + M, H) of the tape
    const Py_ssize_t[::1] rows, const Py_ssize_t[::1] offsets, const Py_ssize_t[::1] times,  # schedule.pxd; or None
    floating[:, :, :] dx,                    # (N, T, D) out, or None; written where a row takes a step
    floating[:, ::1] dh0,                    # (N, H) out
    floating[:, ::1] dkernel,                # (D, 3H) out, += as the two below
    floating[:, ::1] drecurrent_kernel,      # (H, 3H) out
    floating[::1] dbias,                     # (4H,) n r z q, or (3H,) n r z; out
    floating[::1] work,                      # backward_work(...)
    bint reset_after, int recurrent_activation, int activation, Py_ssize_t block_rows,
):
    """The gradients of one layer in one direction; the tape is only read."""
    cdef Py_ssize_t N = dh0.shape[0], T = x.shape[1], D = kernel.shape[0], H = dh0.shape[1]
    cdef Py_ssize_t size = sizeof(floating), G = (4 if reset_after else 3) * H
    assert _assert_schedule(N, T, rows, offsets, times)
    assert x.shape[0] == N and x.shape[2] == D and (x.strides[2] == size or D == 1) and H >= 1 and D >= 1
    assert dy is None or (dy.shape[0] == N and dy.shape[1] == T and dy.shape[2] == H)
    assert dy is None or dy.strides[2] == size or H == 1
    assert dx is None or (dx.shape[0] == N and dx.shape[1] == T and dx.shape[2] == D)
    assert dx is None or dx.strides[2] == size or D == 1
    assert dh is None or (dh.shape[0] == N and dh.shape[1] == H)
    assert kernel.shape[1] == 3 * H and recurrent_kernel.shape[0] == H and recurrent_kernel.shape[1] == 3 * H
    assert dkernel.shape[0] == D and dkernel.shape[1] == 3 * H and dbias.shape[0] == G
    assert drecurrent_kernel.shape[0] == H and drecurrent_kernel.shape[1] == 3 * H
    assert work.shape[0] >= backward_work(N, D, H, reset_after, block_rows)
    cdef Schedule s = schedule_of(N, T, rows, offsets, times)
    cdef Py_ssize_t M = offset(&s, s.K), most = max(block_rows, N), worked = 0
    assert gates.shape[0] == M and gates.shape[1] == G and states.shape[0] == N + M and states.shape[1] == H
    if N == 0:
        return
    if M == 0:
        if dh is None:
            dh0[:, :] = 0
        else:
            dh0[:, :] = dh
        return

    cdef floating *next_work = first_aligned(&work[0])
    cdef floating *x_copied = carve(&next_work, most * D)
    cdef floating *dx_block = carve(&next_work, most * D)
    cdef floating *dg = carve(&next_work, most * G)
    cdef floating *h_copied = carve(&next_work, most * H)
    cdef floating *reset_states = carve(&next_work, most * H)
    cdef floating *dh_now = carve(&next_work, N * H)
    cdef floating *ds = carve(&next_work, N * H)
    cdef floating *bias_block = carve(&next_work, G)
    cdef floating *U = <floating *>&recurrent_kernel[0, 0]
    cdef const floating *W = &kernel[0, 0]
    cdef floating *tape_states = <floating *>&states[0, 0]
    cdef floating *h_block
    cdef const floating *x_block
    cdef floating[5] f
    cdef floating[5] g
    cdef Py_ssize_t xn = x.strides[0] // size, xt = x.strides[1] // size
    cdef Py_ssize_t dyn = 0 if dy is None else dy.strides[0] // size, dyt = 0 if dy is None else dy.strides[1] // size
    cdef Py_ssize_t dxn = 0 if dx is None else dx.strides[0] // size, dxt = 0 if dx is None else dx.strides[1] // size
    cdef Py_ssize_t ldx = dense_stride(&s, D, xn, xt), ldw = 3 * H
    cdef bint dense = ldx != 0
    cdef Py_ssize_t k, k0, k1, i, n, block, block_start
    if not dense:
        ldx = D
    with nogil:
        slope_terms(recurrent_activation, <floating *>f)
        slope_terms(activation, <floating *>g)
        memset(dh_now, 0, N * H * size)
        if dh is not None:
            for i in range(N):
                memcpy(dh_now + i * H, &dh[batch_row(&s, i), 0], H * size)
        k1 = s.K
        while k1 > 0:
            k0 = block_start_before(&s, k1, most)
            block_start = offset(&s, k0)
            block = offset(&s, k1) - block_start
            for k in range(k1 - 1, k0 - 1, -1):
                n = count(&s, k)
                if dy is not None:
                    for i in range(n):
                        add(H, dh_now + i * H, <floating *>&dy[0, 0, 0] + place(&s, k, i, dyn, dyt))
                step_backward(
                    n, H, reset_after, <floating *>f, <floating *>g, U, <floating *>&gates[offset(&s, k), 0],
                    states_before(&s, k, H, tape_states), dh_now, dg + (offset(&s, k) - block_start) * G, ds,
                )
            # The large products of the block; [n r z] of dg meets the input, [r z q] the state.
            if dense:
                x_block = &x[0, 0, 0] + k0 * xt
            else:
                gather(&s, k0, k1, D, &x[0, 0, 0], xn, xt, x_copied)
                x_block = x_copied
            # dW (D x 3H) += x^T (D x rows) [dr dz | dn] (rows x 3H)
            blas_gemm(D, 2 * H, block, x_block, ldx, True, dg + H, G, False, &dkernel[0, 0], ldw, <floating>1)
            blas_gemm(D, H, block, x_block, ldx, True, dg, G, False, &dkernel[0, 2 * H], ldw, <floating>1)
            # dU (H x 3H) += h^T (H x rows) [dr dz dq] (rows x 3H); with the reset before it, the last third is (r *
            # h)^T dn
            h_block = block_states_before(&s, k0, k1, H, tape_states, h_copied)
            blas_gemm(
                H, (3 if reset_after else 2) * H, block, h_block, H, True, dg + H, G, False,
                &drecurrent_kernel[0, 0], 3 * H, <floating>1,
            )
            if not reset_after:
                for i in range(block):
                    reset_before_forward(
                        H, <floating *>&gates[block_start + i, 0], h_block + i * H, reset_states + i * H)
                blas_gemm(
                    H, H, block, reset_states, H, True, dg, G, False, &drecurrent_kernel[0, 2 * H], ldw, <floating>1)
            sum_rows(block, G, dg, bias_block)
            add(G, &dbias[0], bias_block)
            if dx is not None:
                # dx (rows x D) = dn (rows x H) W_n^T (H x D) + [dr dz] (rows x 2H) [W_r W_z]^T (2H x D)
                blas_gemm(block, D, H, dg, G, False, W + 2 * H, 3 * H, True, dx_block, D, <floating>0)
                blas_gemm(block, D, 2 * H, dg + H, G, False, W, 3 * H, True, dx_block, D, <floating>1)
                scatter(&s, k0, k1, D, dx_block, &dx[0, 0, 0], dxn, dxt)
            worked += block * 6 * H * (D + H)
            if worked > SIGNAL_WORK:
                worked = 0
                with gil:
                    PyErr_CheckSignals()
            k1 = k0
        for i in range(N):
            memcpy(&dh0[batch_row(&s, i), 0], dh_now + i * H, H * size)
