"""The functional core: one layer in one direction over prepared weights. Arrays in, arrays out; no parameters are held
here.

`prepare` brings the weights into the form that the kernels read, `schedule` says which rows take a step when, and
`forward`, `backward` and `step` allocate what the compiled kernels write. Callers (gru.py, torch.py) have checked their
arrays; what this module asks of them is said at each function.
"""

import math
import os
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

_KERNELS = {
    (name, np.dtype(dtype)): getattr(kernels, name)[ctype]
    for name in ("backward", "forward", "pack")
    for dtype, ctype in (("float32", "float"), ("float64", "double"))
}

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def _empty(shape, dtype):
    """An uninitialised array whose first element starts a cache line, which NumPy's own need not: a vector that is read
    across two lines costs two reads, up to 20 % of a call with one row."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _zeros(shape, dtype):
    array = _empty(shape, dtype)
    array.fill(0)
    return array


# How products are computed (kernels/projection.pxd): those of a step with the state, and those that many steps share.
_ROUTES = {"packed": 0, "blas": 1}


def _route(variable):
    wanted = os.environ.get(variable) or "packed"
    if wanted not in _ROUTES:
        raise ImportError(f"{variable}: expected packed or blas, got {wanted!r}")
    return wanted


RECURRENT, BATCHED = _route("CGRU_RECURRENT"), _route("CGRU_BATCHED")


class Weights:
    """Weights of one cell in the form that the kernels read: copies, never written again, so threads may share them.

    Attributes
    ----------
    kernel, recurrent_kernel : ndarray
        W and U by their routes: in panels or row-major, units padded to whole vectors.
    bias : ndarray of shape (4Hp,)
        r z n q; biases that share a sum are added up.
    """

    __slots__ = (
        "D", "H", "Hp", "_back", "_sources", "activation", "batched", "bias", "dtype", "kernel", "recurrent",
        "recurrent_activation", "recurrent_kernel", "reset_after",
    )  # fmt: skip

    def __init__(
        self, kernel, recurrent_kernel, bias, reset_after, activation, recurrent_activation, recurrent, batched
    ):
        self.D, self.H = len(kernel), len(recurrent_kernel)
        self.dtype = kernel.dtype
        self.Hp = kernels.padded_units(self.H, self.dtype.itemsize)
        self.reset_after = reset_after
        self.activation, self.recurrent_activation = ACTIVATIONS[activation], ACTIVATIONS[recurrent_activation]
        self.recurrent, self.batched = _ROUTES[recurrent], _ROUTES[batched]
        self.kernel = self._packed([(0, g, W) for g, W in enumerate(self._gates(kernel))], self.D, self.Hp, 3, batched)
        self.recurrent_kernel = self._packed(
            [(0, g, U) for g, U in enumerate(self._gates(recurrent_kernel))], self.H, self.Hp, 3, recurrent
        )
        self.bias = _zeros((4 * self.Hp,), self.dtype)
        if bias is not None:
            b, c = bias if reset_after else (bias, None)
            for gate in range(3):
                part = slice(gate * self.H, (gate + 1) * self.H)
                self.bias[gate * self.Hp :][: self.H] = b[part]
                if reset_after:
                    shared = gate * self.Hp if gate < 2 else 3 * self.Hp
                    self.bias[shared:][: self.H] += c[part]
        self._sources = (np.array(kernel), np.array(recurrent_kernel))
        self._back = None

    def _gates(self, matrix):
        return [matrix[:, gate * self.H : (gate + 1) * self.H] for gate in range(3)]

    def _packed(self, parts, K, columns, blocks, route):
        """One matrix of (first row, block, array) parts, by its route."""
        out = _zeros((K * columns * blocks,), self.dtype)
        for k0, block, part in parts:
            ld = 0 if route == "packed" else blocks * columns
            _KERNELS["pack", self.dtype](part, out, k0, K, block, columns, ld)
        return out

    def back(self):
        """The transposes that backward reads, made when first asked for: (W^T with rows n r z, U^T with rows r z n)."""
        if self._back is None:
            W, U = (self._gates(matrix) for matrix in self._sources)
            names = {code: name for name, code in _ROUTES.items()}
            rows = [(i * self.Hp, 0, W[gate].T) for i, gate in enumerate((2, 0, 1))]
            Dp = kernels.padded_units(self.D, self.dtype.itemsize)
            W_back = self._packed(rows, 3 * self.Hp, Dp, 1, names[self.batched])
            rows = [(i * self.Hp, 0, U[gate].T) for i, gate in enumerate((0, 1, 2))]
            self._back = (W_back, self._packed(rows, 3 * self.Hp, self.Hp, 1, names[self.recurrent]))
        return self._back


def prepare(
    kernel, recurrent_kernel, bias=None, *,
    reset_after, activation="tanh", recurrent_activation="sigmoid", recurrent=RECURRENT, batched=BATCHED,
):  # fmt: skip
    """Return the `Weights` of parameters as DESIGN has them; bias None is zero.

    Parameters
    ----------
    kernel, recurrent_kernel : ndarrays of shape (D, 3H) and (H, 3H), float32 or float64, any strides
    bias : ndarray of shape (3H,), or (2, 3H) with reset_after; optional
    recurrent, batched : {"packed", "blas"}
        The route of the products with the state, and of those that many steps share.
    """
    if max(4 * len(recurrent_kernel), len(kernel)) > kernels.BLAS_MOST:
        raise ValueError(f"kernel: expected sizes that BLAS' integers hold, got {kernel.shape}")
    return Weights(kernel, recurrent_kernel, bias, reset_after, activation, recurrent_activation, recurrent, batched)


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
    gates: np.ndarray  # (M, 4Hp) r z n q, or (M, 3Hp) r z n when the reset comes before
    states: np.ndarray  # (N + M, Hp) h0, then the state after each packed row


class Gradients(NamedTuple):
    dx: np.ndarray | None  # (N, T, D)
    dh0: np.ndarray  # (N, H)
    kernel: np.ndarray  # (D, 3H)
    recurrent_kernel: np.ndarray  # (H, 3H)
    bias: np.ndarray  # (3H,), or (2, 3H) with reset_after


def readable(x):
    """x, or a copy of it where the kernels cannot read it: features must be contiguous, elements aligned and whole
    strides apart."""
    if x.flags.c_contiguous and x.flags.aligned:
        return x
    contiguous = x.shape[-1] <= 1 or x.strides[-1] == x.itemsize
    if contiguous and x.flags.aligned and all(stride % x.itemsize == 0 for stride in x.strides):
        return x
    return x.copy(order="C")  # not ascontiguousarray: it keeps odd strides of axes of size one


def run(*passes):
    """Run one pass, or two that do not depend on each other, and return the result of each.

    A pass is a generator: `forward_pass` or `backward_pass`. It allocates and yields what the kernels are to run, and
    comes back with the result; until then it keeps the arrays alive.
    """
    kernels.run_calls([next(p) for p in passes], kernels.get_num_threads())
    results = []
    for p in passes:
        try:
            next(p)
        except StopIteration as end:
            results.append(end.value)
    return results


def forward(*args, **kwargs):
    """Run a `forward_pass` and return its result."""
    return run(forward_pass(*args, **kwargs))[0]


def backward(*args, **kwargs):
    """Run a `backward_pass` and return its result."""
    return run(backward_pass(*args, **kwargs))[0]


def forward_pass(weights, x, h0, plan, y=None, training=False, h=None):
    """All steps of one cell; the result is (final state, Tape or None).

    Parameters
    ----------
    weights : Weights
    x : ndarray of shape (N, T, D), the weights' dtype, `readable`
    h0 : ndarray of shape (N, H), the weights' dtype, C-contiguous
    plan : Schedule
    y : ndarray of shape (N, T, H), optional
        Written where a row takes a step, left alone elsewhere; contiguous in its features.
    training : bool
        Whether the tape is kept.
    h : ndarray of shape (N, H), C-contiguous, optional
        Where the final state goes: that after each row's last step, h0 where there is none.
    """
    N, Hp, threads = len(h0), weights.Hp, _threads(weights)
    h = np.empty((N, weights.H), x.dtype) if h is None else h
    gates = states = None
    if training:
        gates = _empty((plan.steps, (4 if weights.reset_after else 3) * Hp), x.dtype)
        states = _empty((N + plan.steps, Hp), x.dtype)
    size = kernels.forward_work(
        N, plan.steps, weights.D, weights.H, weights.reset_after, training, x.itemsize, threads
    )
    work = np.empty(size, x.dtype)
    yield _KERNELS["forward", x.dtype](
        _in_order(x, plan), h0, weights.kernel, weights.recurrent_kernel, weights.bias,
        plan.rows, plan.offsets, plan.times, _in_order(y, plan), h, gates, states, work,
        weights.reset_after, weights.recurrent_activation, weights.activation, weights.batched, weights.recurrent,
        threads,
    )  # fmt: skip
    return h, Tape(weights, x, plan, gates, states) if training else None


def backward_pass(dy, dh, tape, need_dx=True):
    """The gradients of one forward pass; the result is `Gradients`, and the tape is only read.

    Parameters
    ----------
    dy : ndarray of shape (N, T, H), `readable`, or None
        Gradient of the outputs; read where a row takes a step.
    dh : ndarray of shape (N, H), or None
        Gradient of the final state.
    """
    weights, x, plan, gates, states = tape
    N, D, H, Hp, dtype, threads = len(x), weights.D, weights.H, weights.Hp, x.dtype, _threads(weights)
    dx = None
    if need_dx:
        dx = np.empty(x.shape, dtype) if plan.steps == N * x.shape[1] else np.zeros(x.shape, dtype)
    dh0 = np.empty((N, H), dtype)
    dkernel, drecurrent_kernel = _zeros((D, 3 * Hp), dtype), _zeros((H, 3 * Hp), dtype)
    dbias = _zeros((gates.shape[1],), dtype)
    dh = None if dh is None else np.ascontiguousarray(dh)
    work = np.empty(kernels.backward_work(N, plan.steps, D, H, weights.reset_after, x.itemsize, threads), dtype)
    W_back, U_back = weights.back()
    yield _KERNELS["backward", dtype](
        _in_order(dy, plan), dh, _in_order(x, plan), W_back, U_back,
        gates, states, plan.rows, plan.offsets, plan.times, _in_order(dx, plan), dh0, dkernel, drecurrent_kernel, dbias,
        work, weights.reset_after, weights.recurrent_activation, weights.activation,
        weights.batched, weights.recurrent, threads,
    )  # fmt: skip
    kernel = _gate_order(dkernel, (1, 2, 0), weights)
    recurrent_kernel = _gate_order(drecurrent_kernel, (0, 1, 2), weights)
    bias = _gate_order(dbias[None], (1, 2, 0), weights)[0]
    if weights.reset_after:
        bias = np.stack([bias, _gate_order(dbias[None], (1, 2, 3), weights)[0]])
    return Gradients(dx, dh0, kernel, recurrent_kernel, bias)


def _gate_order(padded, order, weights):
    """(., 3H) r z n of the padded blocks that stand in this order."""
    return np.concatenate([padded[:, block * weights.Hp :][:, : weights.H] for block in order], axis=1)


def _threads(weights):
    """BLAS has threads of its own, and calls from two of ours would disturb each other."""
    return 1 if weights.recurrent or weights.batched else kernels.get_num_threads()


def _in_order(array, plan):
    """A batch array with its time axis in processing order."""
    return array[:, ::-1] if plan.flip and array is not None else array
