"""The GRU in NumPy: one layer, one direction, forward and backward. The oracle of the tests and the baseline of the
benchmarks.

Sizes: N batch, T time steps, D input features, H units. Gates in the order r, z, n; `f` is the recurrent activation,
`g` the activation.

    reset_after=False (Chung et al. 2014, arXiv:1412.3555)        reset_after=True (PyTorch, cuDNN, Keras)
      r  = f(x W_r + h U_r + b_r)                                   r  = f(x W_r + b_r + h U_r + c_r)
      z  = f(x W_z + h U_z + b_z)                                   z  = f(x W_z + b_z + h U_z + c_z)
      n  = g(x W_n + (r * h) U_n + b_n)                             n  = g(x W_n + b_n + r * (h U_n + c_n))
      h' = (1 - z) * h + z * n                                      h' = (1 - z) * h + z * n

With gains each of the products x W_rz, x W_n, h U_rz, h U_n (or (r * h) U_n) is normalised over its columns before the
biases are added (Ba et al. 2016, arXiv:1607.06450): LN(v) = gain * (v - mean(v)) / sqrt(var(v) + 1e-5). With dropout
the products read x * m and h * m', where the factors m and m' of a row are the same at all its steps. With zoneout
(Krueger et al. 2017, arXiv:1606.01305) a unit may keep its old state at a step. Resets cut a row into segments, each
of which starts anew.

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
    """What backward needs. `steps` holds for each step in processing order (t, valid rows, h before, r, z, n, q, that h
    as the products read it, what the gradients of the two products of the state need beside that, and which rows start
    anew, if any can)."""

    x: Array
    kernel: Array
    recurrent_kernel: Array
    bias: Array
    reset_after: bool
    activation: str
    recurrent_activation: str
    dropout: Array | None
    recurrent_dropout: Array | None
    zones: Array | float | None
    gain: Array | None
    of_input: tuple[Any, Any]  # what the gradients of the two products of the input need
    steps: list[Any]


def _normalised(v: Array, gain: Array | None) -> tuple[Array, Any]:
    """Return (LN(v) over the last axis, what its gradient needs); v itself without a gain."""
    if gain is None:
        return v, None
    v = v - v.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt((v * v).mean(axis=-1, keepdims=True) + v.dtype.type(1e-5))
    return gain * (v * scale), (v * scale, scale, gain)


def _normalised_backward(d: Array, saved: Any) -> tuple[Array, Array | None]:
    """Return (gradient of v, gradient of the gain) for the gradient of LN(v)."""
    if saved is None:
        return d, None
    unit, scale, gain = saved
    du = d * gain
    dv = scale * (du - du.mean(axis=-1, keepdims=True) - unit * (du * unit).mean(axis=-1, keepdims=True))
    return dv, (d * unit).reshape(-1, len(gain)).sum(axis=0)


def forward(
    x: Array, kernel: Array, recurrent_kernel: Array, bias: Array, h0: Array,
    reset_after: bool = False, activation: str = "tanh", recurrent_activation: str = "sigmoid",
    lengths: NDArray[np.integer[Any]] | None = None, mask: NDArray[np.bool_] | None = None, reverse: bool = False,
    dropout: Array | None = None, recurrent_dropout: Array | None = None, zones: Array | float | None = None,
    gain: Array | None = None, resets: NDArray[np.bool_] | None = None, initial_state: Array | None = None,
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
    dropout, recurrent_dropout : ndarrays of shape (N, D) and (N, H), optional
        Factors of the input and of the state as the products read them.
    zones : ndarray of shape (N, T, H), or float; optional
        1 where a unit keeps its old state, else 0; or the probability of it, for the expectation.
    gain : ndarray of shape (2, 3H), optional
        Of the normalised products: the input row and the recurrent row. Without it they are not normalised.
    resets : bool ndarray of shape (N, T), optional
        Where resets[i, t], row i starts anew between step t and its valid step before; where t is not valid, between
        its valid steps around t. A reset behind the last valid step does nothing, and one before the first nothing but
        in the forward direction, where it comes before h0.
    initial_state : ndarray of shape (H,), optional
        From which a row starts anew; without it that is zero.

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
    if dropout is not None:
        x = x * dropout[:, None]
    gain_rz, gain_n, state_gain_rz, state_gain_n = _gains(gain, H)

    xg = x @ kernel
    xg_rz, of_rz = _normalised(xg[..., : 2 * H], gain_rz)
    xg_n, of_n = _normalised(xg[..., 2 * H :], gain_n)
    y = np.zeros((N, T, H), x.dtype)
    h, steps = h0, []
    starts = None if resets is None else _starts(resets, mask, reverse)
    start = np.zeros(H, x.dtype) if initial_state is None else initial_state
    for t in reversed(range(T)) if reverse else range(T):
        anew = None if starts is None else starts[:, t, None]
        h = h if anew is None else np.where(anew, start, h)
        read = h if recurrent_dropout is None else h * recurrent_dropout
        hg_rz, of_state_rz = _normalised(read @ U_rz, state_gain_rz)
        rz = f(xg_rz[:, t] + b[: 2 * H] + hg_rz + c[: 2 * H])
        r, z = rz[:, :H], rz[:, H:]
        if reset_after:
            q, of_state_n = _normalised(read @ U_n, state_gain_n)
            q = q + c[2 * H :]
            n = g(xg_n[:, t] + b[2 * H :] + r * q)
        else:
            q, of_state_n = _normalised((r * read) @ U_n, state_gain_n)
            n = g(xg_n[:, t] + b[2 * H :] + q)
        valid = mask[:, t, None]
        steps.append((t, valid, h, r, z, n, q, read, of_state_rz, of_state_n, anew))
        new = (1 - z) * h + z * n
        if zones is not None:
            new = _zone(zones, t) * h + (1 - _zone(zones, t)) * new
        h = np.where(valid, new, h)
        y[:, t] = np.where(valid, h, 0)
    return y, h, Tape(
        x, kernel, recurrent_kernel, bias, reset_after, activation, recurrent_activation,
        dropout, recurrent_dropout, zones, gain, (of_rz, of_n), steps,
    )  # fmt: skip


def _gains(gain: Array | None, H: int) -> Any:
    """Those of the four products: x W_rz, x W_n, and the two of the state."""
    return (None,) * 4 if gain is None else (gain[0, : 2 * H], gain[0, 2 * H :], gain[1, : 2 * H], gain[1, 2 * H :])


def _starts(resets: NDArray[np.bool_], mask: NDArray[np.bool_], reverse: bool) -> NDArray[np.bool_]:
    """(N, T): the steps before which a row starts anew, in processing order."""
    starts = np.zeros_like(mask)
    for i, row in enumerate(mask):
        before = -1  # the valid step before t
        for t in np.flatnonzero(row).tolist():
            due = resets[i, before + 1 : t + 1].any()
            if not reverse:
                starts[i, t] = due
            elif before >= 0:
                starts[i, before] = due
            before = t
    return starts


def _zone(zones: Array | float, t: int) -> Array | float:
    return zones[:, t] if isinstance(zones, np.ndarray) else zones


def backward(dy: Array | None, dh: Array | None, tape: Tape) -> dict[str, Array]:
    """Return the gradients as a dict: dx, dh0, kernel, recurrent_kernel, bias; gain if there is one, and
    with resets initial_state.

    Parameters
    ----------
    dy : ndarray of shape (N, T, H), the gradient of y, or None
    dh : ndarray of shape (N, H), the gradient of the final state, or None
    tape : Tape
    """
    x, W, U, zones = tape.x, tape.kernel, tape.recurrent_kernel, tape.zones
    N, H = len(x), len(U)
    f_slope, g_slope = ACTIVATIONS[tape.recurrent_activation][1], ACTIVATIONS[tape.activation][1]
    U_rz, U_n = U[:, : 2 * H], U[:, 2 * H :]
    dU, dc = np.zeros_like(U), np.zeros(3 * H, U.dtype)
    dg = np.zeros((*x.shape[:2], 3 * H), x.dtype)  # of the pre-activations, whose parts from the input these are
    dgain, dinitial = np.zeros((2, 3 * H), U.dtype), np.zeros(H, U.dtype)
    dh = np.zeros((N, H), x.dtype) if dh is None else dh
    for t, valid, h, r, z, n, q, read, of_rz, of_n, anew in reversed(tape.steps):
        d = dh if dy is None else dh + dy[:, t]
        d = np.where(valid, d, 0)  # of the new state, in the rows that took the step
        kept = 0 if zones is None else _zone(zones, t) * d
        d = d - kept
        dn = d * z * g_slope(n)
        dz = d * (n - h) * f_slope(z)
        dq = dn * r if tape.reset_after else dn
        dv, dgain_n = _normalised_backward(dq, of_n)  # of the product
        if tape.reset_after:
            dr = dn * q * f_slope(r)
            dread = dv @ U_n.T
            dU[:, 2 * H :] += read.T @ dv
        else:
            ds = dv @ U_n.T  # of r * h
            dr = ds * read * f_slope(r)
            dread = ds * r
            dU[:, 2 * H :] += (r * read).T @ dv
        drz = np.concatenate([dr, dz], axis=1)
        dv, dgain_rz = _normalised_backward(drz, of_rz)
        dread = dread + dv @ U_rz.T
        dU[:, : 2 * H] += read.T @ dv
        if tape.gain is not None:
            dgain[1] += np.concatenate([dgain_rz, dgain_n])
        dg[:, t] = np.concatenate([drz, dn], axis=1)
        dc += np.concatenate([drz, dq], axis=1).sum(axis=0)
        if tape.recurrent_dropout is not None:
            dread = dread * tape.recurrent_dropout
        dh = np.where(valid, d * (1 - z) + kept + dread, dh)
        if anew is not None:
            dinitial += np.where(anew, dh, 0).sum(axis=0)
            dh = np.where(anew, 0, dh)
    dv_rz, dgain_rz = _normalised_backward(dg[..., : 2 * H], tape.of_input[0])
    dv_n, dgain_n = _normalised_backward(dg[..., 2 * H :], tape.of_input[1])
    dv = np.concatenate([dv_rz, dv_n], axis=-1)
    dx = dv @ W.T
    db = dg.sum(axis=(0, 1))
    gradients = {
        "dx": dx if tape.dropout is None else dx * tape.dropout[:, None],
        "dh0": dh,
        "kernel": np.tensordot(x, dv, ((0, 1), (0, 1))),
        "recurrent_kernel": dU,
        "bias": np.stack([db, dc]) if tape.reset_after else db,
    }
    if tape.gain is not None:
        dgain[0] = np.concatenate([dgain_rz, dgain_n])
        gradients["gain"] = dgain
    if tape.steps and tape.steps[0][-1] is not None:
        gradients["initial_state"] = dinitial
    return gradients
