"""The GRU in NumPy: one layer, one direction, forward and backward. The oracle of the tests and the baseline of the
benchmarks.

Sizes: N batch, T time steps, D input features, H units. Gates in the order r, z, n; `f` is the recurrent activation,
`g` the activation.

    reset_after=False (Chung et al. 2014, arXiv:1412.3555)        reset_after=True (PyTorch, cuDNN, Keras)
      r  = f(x W_r + h U_r + b_r)                                   r  = f(x W_r + b_r + h U_r + c_r)
      z  = f(x W_z + h U_z + b_z)                                   z  = f(x W_z + b_z + h U_z + c_z)
      n  = g(x W_n + (r * h) U_n + b_n)                             n  = g(x W_n + b_n + r * (h U_n + c_n))
      h' = (1 - z) * h + z * n                                      h' = (1 - z) * h + z * n

Everything is as plain as it can be: it imports NumPy only, checks nothing and computes in the dtype of what it is
given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]


def _sigmoid(a: Array) -> Array:
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1, e) / (1 + e)


ACTIVATIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]
# name: (value at the pre-activation a, derivative expressed by the value y)
ACTIVATIONS = {
    "sigmoid": (_sigmoid, lambda y: y * (1 - y)),
    "tanh": (np.tanh, lambda y: 1 - y * y),
    "relu": (lambda a: np.maximum(a, 0), lambda y: (y > 0).astype(y.dtype)),
    "linear": (lambda a: a, np.ones_like),
    "hard_sigmoid": (lambda a: np.clip(a / 6 + 0.5, 0, 1), lambda y: ((y > 0) & (y < 1)) / y.dtype.type(6)),
    "hard_sigmoid_keras2": (lambda a: np.clip(0.2 * a + 0.5, 0, 1), lambda y: ((y > 0) & (y < 1)) * y.dtype.type(0.2)),
}


class Tape(NamedTuple):
    """What backward needs. `steps` holds for each step in processing order (t, valid rows, h before, r, z, n, q)."""

    x: Array
    kernel: Array
    recurrent_kernel: Array
    bias: Array
    reset_after: bool
    activation: str
    recurrent_activation: str
    steps: list[Any]


def forward(
    x: Array, kernel: Array, recurrent_kernel: Array, bias: Array, h0: Array,
    reset_after: bool = False, activation: str = "tanh", recurrent_activation: str = "sigmoid",
    lengths: NDArray[np.integer[Any]] | None = None, mask: NDArray[np.bool_] | None = None, reverse: bool = False,
) -> tuple[Array, Array, Tape]:  # fmt: skip
    """Return (y, h, tape).

    Parameters
    ----------
    x : ndarray of shape (N, T, D)
    kernel, recurrent_kernel : ndarrays of shape (D, 3H) and (H, 3H)
    bias : ndarray of shape (3H,), or (2, 3H) with reset_after: the input row b and the recurrent row c
    h0 : ndarray of shape (N, H)
    lengths : ndarray of N ints, optional
        Row i takes its steps at t < lengths[i].
    mask : bool ndarray of shape (N, T), optional
        Row i takes a step at t where mask[i, t]; elsewhere its state is held and its output is zero.
    reverse : bool
        From the end to the start; y stays in the order of x.

    Returns
    -------
    y : ndarray of shape (N, T, H)
    h : ndarray of shape (N, H), the state after the last valid step of each row; h0 where there is none
    tape : Tape
    """
    N, T, _ = x.shape
    H = h0.shape[1]
    f, g = ACTIVATIONS[recurrent_activation][0], ACTIVATIONS[activation][0]
    U_rz, U_n = recurrent_kernel[:, : 2 * H], recurrent_kernel[:, 2 * H :]
    b, c = bias if reset_after else (bias, np.zeros_like(bias))
    if lengths is not None:
        mask = np.arange(T) < np.asarray(lengths)[:, None]
    if mask is None:
        mask = np.ones((N, T), bool)
    x = np.where(mask[:, :, None], x, 0).astype(x.dtype)  # what is not valid is not read

    xg = x @ kernel + b
    y = np.zeros((N, T, H), x.dtype)
    h, steps = h0, []
    for t in reversed(range(T)) if reverse else range(T):
        rz = f(xg[:, t, : 2 * H] + h @ U_rz + c[: 2 * H])
        r, z = rz[:, :H], rz[:, H:]
        if reset_after:
            q = h @ U_n + c[2 * H :]
            n = g(xg[:, t, 2 * H :] + r * q)
        else:
            q = None
            n = g(xg[:, t, 2 * H :] + (r * h) @ U_n)
        valid = mask[:, t, None]
        steps.append((t, valid, h, r, z, n, q))
        h = np.where(valid, (1 - z) * h + z * n, h)
        y[:, t] = np.where(valid, h, 0)
    return y, h, Tape(x, kernel, recurrent_kernel, bias, reset_after, activation, recurrent_activation, steps)


def backward(dy: Array | None, dh: Array | None, tape: Tape) -> dict[str, Array]:
    """Return the gradients as a dict: dx, dh0, kernel, recurrent_kernel, bias.

    Parameters
    ----------
    dy : ndarray of shape (N, T, H), the gradient of y, or None
    dh : ndarray of shape (N, H), the gradient of the final state, or None
    tape : Tape
    """
    x, W, U, _, reset_after, activation, recurrent_activation, steps = tape
    N, H = len(x), len(U)
    f_slope, g_slope = ACTIVATIONS[recurrent_activation][1], ACTIVATIONS[activation][1]
    U_rz, U_n = U[:, : 2 * H], U[:, 2 * H :]
    dW, dU, db, dc = np.zeros_like(W), np.zeros_like(U), np.zeros(3 * H, W.dtype), np.zeros(3 * H, W.dtype)
    dx = np.zeros_like(x)
    dh = np.zeros((N, H), x.dtype) if dh is None else dh
    for t, valid, h, r, z, n, q in reversed(steps):
        d = dh if dy is None else dh + dy[:, t]
        d = np.where(valid, d, 0)  # of h', in the rows that took the step
        dn = d * z * g_slope(n)
        dz = d * (n - h) * f_slope(z)
        if reset_after:
            dq = dn * r
            dr = dn * q * f_slope(r)
            from_candidate = dq @ U_n.T
            dU[:, 2 * H :] += h.T @ dq
        else:
            ds = dn @ U_n.T  # of r * h
            dq = dn
            dr = ds * h * f_slope(r)
            from_candidate = ds * r
            dU[:, 2 * H :] += (r * h).T @ dn
        drz = np.concatenate([dr, dz], axis=1)
        dg = np.concatenate([drz, dn], axis=1)
        dx[:, t] = dg @ W.T
        dW += x[:, t].T @ dg
        dU[:, : 2 * H] += h.T @ drz
        db += dg.sum(axis=0)
        dc += np.concatenate([drz, dq], axis=1).sum(axis=0)
        dh = np.where(valid, d * (1 - z) + drz @ U_rz.T + from_candidate, dh)
    return {
        "dx": dx,
        "dh0": dh,
        "kernel": dW,
        "recurrent_kernel": dU,
        "bias": np.stack([db, dc]) if reset_after else db,
    }
