"""Long sequences in little memory: a tape of few steps at a time, which backward computes again.

Forward keeps the states from which pieces of the sequence start, and the tape of the last piece alone. Backward goes
through the pieces from that one: forward once more, this time with its tape, then backward, which hands the gradient of
the state to the piece before. The results are the bits of the passes through the whole: forward does not depend on
cuts, and the sums of the weights' gradients go from block to block of steps (kernels.backward_rows), so pieces are
whole blocks of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from cgru import kernels, recurrence
from cgru.kernels.calls import Call
from cgru.recurrence import NO_NOISE, Gradients, Noise, Tape, Weights
from cgru.scheduling import Indices, Schedule
from cgru.typing import Array

Every: TypeAlias = int | Literal["auto"] | None  # steps of a piece: at least so many, about the root of all, or all
LEAST_TAPE = 1 << 20  # bytes of a piece's tape: calls for less would take a part of the time


class Outline(NamedTuple):
    """What is kept of a forward pass instead of its `Tape`; x must keep its values, as there."""

    weights: Weights
    x: Array
    plan: Schedule | Any  # with resets segments.Cut
    starts: list[int]  # the first step of each piece, and the end of the last one
    states: list[Array]  # of each: (rows that take steps there, H), from which they start
    gates: Array  # of the last piece, as `Tape` has them
    last: Array  # and its states
    noise: Noise


def forward_pass(
    weights: Weights, x: Array, h0: Array, plan: Schedule, y: Array | None = None, training: bool = False,
    h: Array | None = None, noise: Noise = NO_NOISE, every: Every = None, length: int | None = None,
) -> Generator[Call, None, tuple[Array, Tape | Outline | None]]:  # fmt: skip
    """`recurrence.forward_pass`; with `every` an `Outline` instead of a tape, unless that is no longer than a piece.
    `length`: of what `every` counts the steps, where that is longer than the plan."""
    starts = [0] if every is None or not training else _starts(weights, plan, len(h0), every, length)
    if len(starts) > 2:
        return _forward(weights, x, h0, plan, y, h, noise, starts)
    return recurrence.forward_pass(weights, x, h0, plan, y, training, h, noise=noise.drawn())


def backward_pass(
    dy: Array | None, dh: Array | None, tape: Tape | Outline, need_dx: bool = True, out: Gradients | None = None,
    need_grads: bool = True,
) -> Generator[Call, None, Gradients]:  # fmt: skip
    """`recurrence.backward_pass` for what `forward_pass` returned; of `out` dx alone counts."""
    if isinstance(tape, Tape):
        return recurrence.backward_pass(dy, dh, tape, need_dx, out, need_grads=need_grads)
    return _backward(dy, dh, tape, need_dx, out, need_grads)


def _forward(
    weights: Weights, x: Array, h0: Array, plan: Schedule, y: Array | None, h: Array | None, noise: Noise,
    starts: list[int],
) -> Generator[Call, None, tuple[Array, Outline]]:  # fmt: skip
    states, now = [], h0.copy()
    *pieces, last = _pieces(plan, x.shape, starts)
    for piece in pieces:
        states.append(now[piece.alive].copy())
        yield from recurrence.forward_pass(  # it reads all of h0 before it writes h
            weights, piece.of(x), now, piece.plan, piece.of(y), h=now, noise=noise.drawn(piece.rows)
        )
    states.append(now[last.alive].copy())
    h, tape = yield from recurrence.forward_pass(
        weights, last.of(x), now, last.plan, last.of(y), True, h, noise=noise.drawn(last.rows)
    )
    assert tape is not None
    return h, Outline(weights, x, plan, starts, states, tape.gates, tape.states, noise)


def _backward(
    dy: Array | None, dh: Array | None, tape: Outline, need_dx: bool, out: Gradients | None, need_grads: bool
) -> Generator[Call, None, Gradients]:
    weights, x, plan, starts, states, gates, last_states, noise = tape
    dx = None if out is None else out.dx
    dx = (recurrence.input_gradient(x, plan) if dx is None else dx) if need_dx else None
    sums = recurrence.zeros(weights) if need_grads else None

    def back(piece: _Piece, own: Tape | Any, dh: Array | None) -> Generator[Call, None, Gradients]:
        where = Gradients(piece.of(dx), None, None, None, None)
        return recurrence.backward_pass(piece.of(dy), dh, own, need_dx, where, need_grads=need_grads, sums=sums)

    *pieces, last = _pieces(plan, x.shape, starts)
    own = Tape(weights, last.of(x), last.plan, gates, last_states, noise.drawn(last.rows))
    found = yield from back(last, own, dh)
    memory = recurrence.tape_memory(weights, len(x), max(piece.plan.steps for piece in pieces))
    start = np.zeros((len(x), weights.H), x.dtype)
    for piece, alive in reversed([*zip(pieces, states, strict=False)]):
        start[piece.alive] = alive
        _, again = yield from recurrence.forward_pass(
            weights, piece.of(x), start, piece.plan, training=True, noise=noise.drawn(piece.rows), memory=memory
        )
        found = yield from back(piece, again, found.dh0)
    gradients = Gradients(dx, found.dh0, None, None, None)
    return gradients if sums is None else recurrence.of_weights(sums, weights, gradients)


class _Piece(NamedTuple):
    """Some steps of a pass, all rows of them: those that take none keep their states."""

    plan: Schedule
    rows: slice  # of the packed rows
    times: slice  # of the arrays
    alive: Indices | slice  # rows of the batch that take steps

    def of(self, array: Any) -> Any:
        """A batch array as `plan` reads it."""
        return None if array is None else array[:, self.times]


def _pieces(plan: Schedule, shape: tuple[int, ...], starts: list[int]) -> Generator[_Piece, None, None]:
    (N, T), offsets = shape[:2], plan.offsets
    for first, end in itertools.pairwise(starts):
        times = slice(T - end, T - first) if plan.flip else slice(first, end)
        if offsets is None:
            rows = slice(N * first, N * end)
            yield _Piece(plan._replace(steps=rows.stop - rows.start), rows, times, slice(None))
            continue
        rows = slice(int(offsets[first]), int(offsets[end]))
        own = plan._replace(offsets=offsets[first : end + 1] - rows.start, steps=rows.stop - rows.start)
        if plan.times is not None:
            own, times = own._replace(times=plan.times[rows]), slice(None)
        alive = slice(int(offsets[first + 1]) - rows.start)
        yield _Piece(own, rows, times, alive if plan.rows is None else plan.rows[alive])


def _starts(
    weights: Weights, plan: Schedule, N: int, every: int | Literal["auto"], length: int | None
) -> list[int]:  # fmt: skip
    """`Outline.starts`: as many blocks of backward as make the packed rows of `every` steps on average, at least,
    counted from the end."""
    M, offsets = plan.steps, plan.offsets
    if N == 0 or M == 0:
        return [0]
    most = kernels.backward_rows(N, M, weights.route)
    steps = M // N if offsets is None else len(offsets) - 1
    if every == "auto":
        every, length = math.isqrt(steps - 1) + 1, steps
    row = (weights.row + weights.Hp) * weights.dtype.itemsize  # bytes of the tape
    wanted = max(-(-every * M // (length or steps)), LEAST_TAPE // row)
    if offsets is None:
        block = max(1, most // N)
        return [0, *reversed(range(steps, 0, -block * -(-wanted // (block * N))))]
    found, start = [steps], steps
    while start > 0:
        start = min(start - 1, int(np.searchsorted(offsets, offsets[start] - most)))
        if start == 0 or offsets[found[-1]] - offsets[start] >= wanted:
            found.append(start)
    return found[::-1]
