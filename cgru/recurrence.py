"""The functional core: one layer in one direction over prepared weights. Arrays in, arrays out; no parameters are held
here.

`prepare` brings the weights into the form that the kernels read, `schedule` says which rows take a step when, and
`forward`, `backward` and `step` allocate what the compiled kernels write. Callers (gru.py, torch.py) have checked their
arrays; what this module asks of them is said at each function.
"""

import threading
from typing import NamedTuple

import numpy as np

from cgru import kernels

ACTIVATIONS = {  # codes of kernels/activations.pxd
    "sigmoid": 0,
    "tanh": 1,
    "relu": 2,
    "linear": 3,
    "hard_sigmoid": 4,
    "hard_sigmoid_keras2": 5,
}

_CTYPE = {np.dtype("float32"): "float", np.dtype("float64"): "double"}


class Weights(NamedTuple):
    """Weights of one cell as the kernels read them: copies, never written again, so any number of threads may share
    them."""

    kernel: np.ndarray  # (D, 3H)
    recurrent_kernel: np.ndarray  # (H, 3H)
    bias: np.ndarray  # (4H,) r z n q: the biases that share a sum are added up
    reset_after: bool
    activation: int
    recurrent_activation: int


def prepare(kernel, recurrent_kernel, bias=None, *, reset_after, activation="tanh", recurrent_activation="sigmoid"):
    """Return the `Weights` of parameters as DESIGN has them; bias None is zero.

    Parameters
    ----------
    kernel, recurrent_kernel : ndarrays of shape (D, 3H) and (H, 3H), float32 or float64
    bias : ndarray of shape (3H,), or (2, 3H) with reset_after; optional
    """
    H = len(recurrent_kernel)
    if max(4 * H, len(kernel)) > kernels.BLAS_MOST:
        raise ValueError(f"kernel: expected sizes that BLAS' integers hold, got {kernel.shape}")
    prepared = np.zeros(4 * H, kernel.dtype)
    if bias is not None:
        b, c = bias if reset_after else (bias, None)
        prepared[: 3 * H] = b
        if reset_after:
            prepared[: 2 * H] += c[: 2 * H]
            prepared[3 * H :] = c[2 * H :]
    return Weights(
        np.array(kernel, order="C"),
        np.array(recurrent_kernel, order="C"),
        prepared,
        reset_after,
        ACTIVATIONS[activation],
        ACTIVATIONS[recurrent_activation],
    )


class Schedule(NamedTuple):
    """Which rows take a step when (kernels/schedule.pxd). Rows that run out stand last and cost nothing afterwards."""

    rows: np.ndarray | None  # (N,) row of the batch for each sorted row; None: the same
    offsets: np.ndarray | None  # (K + 1,) packed rows before step k; None: k * N
    times: np.ndarray | None  # (M,) time for each packed row; None: k
    steps: int  # M, packed rows
    flip: bool  # the time axis is read backwards


def schedule(N, T, lengths=None, mask=None, reverse=False):
    """Return the `Schedule` of N rows of T steps, of which those at t < lengths or where mask is True are taken.

    Parameters
    ----------
    lengths : (N,) intp array, optional
    mask : (N, T) bool array, optional
    reverse : bool
        Each row starts at its own last valid step.
    """
    if lengths is None and mask is None:
        return Schedule(None, None, None, N * T, reverse)
    taken = mask.sum(axis=1, dtype=np.intp) if lengths is None else lengths  # steps of each row
    if (taken == T).all():
        return Schedule(None, None, None, N * T, reverse)
    rows = np.argsort(-taken, kind="stable")
    taken = taken[rows]
    K = int(taken.max(initial=0))
    counts = N - np.searchsorted(taken[::-1], np.arange(K), side="right")
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)
    M = int(offsets[-1])
    times = None
    if reverse or mask is not None:
        k = np.repeat(np.arange(K), counts)  # of each packed row: its step and its sorted row
        i = np.arange(M) - offsets[k]
        times = (taken[i] - 1 - k if reverse else k).astype(np.intp)
        if mask is not None:
            valid_times = np.nonzero(mask)[1]
            first = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
            times = valid_times[first[rows[i]] + times].astype(np.intp)
    in_order = (rows == np.arange(N)).all()
    return Schedule(None if in_order else rows, offsets, times, M, False)


class Tape(NamedTuple):
    """What `backward` needs of a `forward`; x is the array that was given, not a copy, and must keep its values."""

    weights: Weights
    x: np.ndarray
    plan: Schedule
    gates: np.ndarray  # (M, 4H) r z n q, or (M, 3H) r z n when the reset comes before
    states: np.ndarray  # (N + M, H) h0, then the state after each packed row


class Gradients(NamedTuple):
    dx: np.ndarray | None  # (N, T, D)
    dh0: np.ndarray  # (N, H)
    kernel: np.ndarray  # (D, 3H)
    recurrent_kernel: np.ndarray  # (H, 3H)
    bias: np.ndarray  # (3H,), or (2, 3H) with reset_after


def readable(x):
    """x, or a copy of it where the kernels cannot read it: features must be contiguous, elements aligned and whole
    strides apart."""
    contiguous = x.shape[-1] <= 1 or x.strides[-1] == x.itemsize
    if contiguous and x.flags.aligned and all(stride % x.itemsize == 0 for stride in x.strides):
        return x
    return x.copy(order="C")  # not ascontiguousarray: it keeps odd strides of axes of size one


def forward(weights, x, h0, plan, y=None, training=False):
    """Run all steps; return (final state (N, H), Tape or None).

    Parameters
    ----------
    weights : Weights
    x : ndarray of shape (N, T, D), the weights' dtype, `readable`
    h0 : ndarray of shape (N, H), the weights' dtype
    plan : Schedule
    y : ndarray of shape (N, T, H), optional
        Written where a row takes a step, left alone elsewhere; contiguous in its features.
    training : bool
        Whether the tape is kept.
    """
    N, D, H = len(h0), len(weights.kernel), len(weights.recurrent_kernel)
    block_rows = _block_rows(3 * H * x.itemsize, 1 << 19)
    h = np.empty((N, H), x.dtype)
    gates = states = None
    if training:
        gates = np.empty((plan.steps, (4 if weights.reset_after else 3) * H), x.dtype)
        states = np.empty((N + plan.steps, H), x.dtype)
    work = np.empty(kernels.forward_work(N, D, H, weights.reset_after, block_rows, training), x.dtype)
    kernels.forward[_CTYPE[x.dtype]](
        _in_order(x, plan), np.ascontiguousarray(h0), weights.kernel, weights.recurrent_kernel, weights.bias,
        plan.rows, plan.offsets, plan.times, _in_order(y, plan), h, gates, states, work,
        weights.reset_after, weights.recurrent_activation, weights.activation, block_rows,
    )  # fmt: skip
    return h, Tape(weights, x, plan, gates, states) if training else None


def backward(dy, dh, tape, need_dx=True):
    """Return the `Gradients` of one `forward`; the tape is only read.

    Parameters
    ----------
    dy : ndarray of shape (N, T, H), `readable`, or None
        Gradient of the outputs; read where a row takes a step.
    dh : ndarray of shape (N, H), or None
        Gradient of the final state.
    """
    weights, x, plan, gates, states = tape
    N, D, H = len(x), len(weights.kernel), len(weights.recurrent_kernel)
    dtype = x.dtype
    block_rows = _block_rows(4 * H * x.itemsize, 1 << 21)
    dx = None
    if need_dx:
        dx = np.empty(x.shape, dtype) if plan.steps == N * x.shape[1] else np.zeros(x.shape, dtype)
    dh0 = np.empty((N, H), dtype)
    dkernel, drecurrent_kernel = np.zeros((D, 3 * H), dtype), np.zeros((H, 3 * H), dtype)
    dbias = np.zeros(gates.shape[1], dtype)
    work = np.empty(kernels.backward_work(N, D, H, weights.reset_after, block_rows), dtype)
    kernels.backward[_CTYPE[dtype]](
        _in_order(dy, plan), None if dh is None else np.ascontiguousarray(dh), _in_order(x, plan),
        weights.kernel, weights.recurrent_kernel, gates, states, plan.rows, plan.offsets, plan.times,
        _in_order(dx, plan), dh0, dkernel, drecurrent_kernel, dbias, work,
        weights.reset_after, weights.recurrent_activation, weights.activation, block_rows,
    )  # fmt: skip
    n, r, z = dbias[:H], dbias[H : 2 * H], dbias[2 * H : 3 * H]
    bias = np.concatenate([r, z, n])
    if weights.reset_after:
        bias = np.stack([bias, np.concatenate([r, z, dbias[3 * H :]])])
    return Gradients(dx, dh0, dkernel, drecurrent_kernel, bias)


def step(weights, x, h, out):
    """One step: write the state after h (N, H) and input x (N, D) to out (N, H), which may be h. All C-contiguous;
    nothing is allocated
    once this thread has made a step of this size."""
    N, H = h.shape
    kernels.step[_CTYPE[x.dtype]](
        x, h, weights.kernel, weights.recurrent_kernel, weights.bias, out,
        _scratch(kernels.step_work(N, H, weights.reset_after), x.dtype),
        weights.reset_after, weights.recurrent_activation, weights.activation,
    )  # fmt: skip


def _in_order(array, plan):
    """A batch array with its time axis in processing order."""
    return array[:, ::-1] if plan.flip and array is not None else array


def _block_rows(row_bytes, cache_bytes):
    """Packed rows of a block of steps: what fits the cache, but enough for the large products to be large."""
    return int(min(max(cache_bytes // row_bytes, 64), 1024))


_local = threading.local()


def _scratch(size, dtype):
    """This thread's workspace of at least `size` elements, kept from step to step."""
    kept = getattr(_local, dtype.name, None)
    if kept is None or len(kept) < size:
        kept = np.empty(size, dtype)
        setattr(_local, dtype.name, kept)
    return kept
