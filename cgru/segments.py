"""Segments: what resets make of the rows of a batch. Each is a row of the schedule with a first state of its own.

The kernels know nothing of them: they see the arrays of the batch as if every segment had all their steps, of which it
takes its own. So results are the bits of the segments run apart, and many segments are many rows.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from cgru import recomputing
from cgru.kernels.calls import Call
from cgru.recomputing import Every, Outline
from cgru.recurrence import NO_NOISE, Gradients, Noise, Tape, Weights
from cgru.scheduling import Indices, Schedule, longest_first, own_steps
from cgru.sequences import acting
from cgru.typing import Array, BoolArray


class Segments(NamedTuple):
    """The S segments of N rows of T steps, those of a row one after the other; a row without steps has one, empty."""

    shape: tuple[int, int]  # (N, T)
    time_major: bool  # the order of the arrays' steps in memory
    places: Indices  # (M,) where the valid steps lie among the N * T, row after row
    owners: Indices  # (S,) the row of each segment
    starts: Indices  # (S,) which of the valid steps is its first one
    counts: Indices  # (S,) its steps
    first: Indices  # (N,) the first segment of each row
    last: Indices  # (N,)
    fresh: BoolArray  # (N,) a reset comes before the first step


def segments(resets: BoolArray, valid: BoolArray | None = None, time_major: bool = False) -> Segments:
    """Return the `Segments` that `resets` (N, T) cut the valid steps (N, T) of a batch into; None means every step."""
    N, T = resets.shape
    cut = acting(resets, valid)
    rows, times = np.nonzero(np.ones((N, T), bool) if valid is None else valid)
    cut = cut[rows, times]
    M = len(rows)
    begin = np.searchsorted(rows, np.arange(N + 1))  # of each row, among the valid steps
    heads = begin[:-1][np.diff(begin) > 0]
    fresh = np.zeros(N, bool)
    fresh[rows[heads]] = cut[heads]
    cut[heads] = True
    starts = np.flatnonzero(cut)
    counts, owners = np.diff(starts, append=M), rows[starts]
    empty = np.flatnonzero(np.diff(begin) == 0)
    if len(empty):
        owners = np.concatenate([owners, empty])
        order = np.argsort(owners, kind="stable")
        owners, starts = owners[order], np.concatenate([starts, begin[empty]])[order]
        counts = np.concatenate([counts, np.zeros_like(empty)])[order]
    first = np.searchsorted(owners, np.arange(N + 1))
    places = times * N + rows if time_major else rows * T + times
    return Segments((N, T), time_major, places, owners, starts, counts, first[:-1], first[1:] - 1, fresh)


class Cut(NamedTuple):
    """The segments of a batch in one direction: a schedule, and what rows and segments exchange."""

    segments: Segments
    reverse: bool
    plan: Schedule  # of the segments, in arrays as `view` shows them

    @property
    def steps(self) -> int:
        """Packed rows."""
        return self.plan.steps

    def packed_steps(self) -> tuple[Indices, Indices]:
        """The (row of the batch, step of that row) of each packed row: a reset does not count anew."""
        own, plan = self.segments, self.plan
        assert plan.rows is not None and plan.offsets is not None
        i, step = own_steps(plan.rows, plan.offsets, own.counts, self.reverse)
        rows, place = own.owners[i], own.starts[i] + step
        begin, end = own.starts[own.first], own.starts[own.last] + own.counts[own.last]
        return rows, (end[rows] - 1 - place if self.reverse else place - begin[rows])

    def view(self, array: Array) -> Array:
        """(S, N * T, F) of an array (N, T, F) of the batch: every segment sees all steps. A copy where the steps of the
        array are not evenly spread in memory."""
        N, T, F = array.shape
        flat = (array.swapaxes(0, 1) if self.segments.time_major else array).reshape(N * T, F)
        return as_strided(flat, (len(self.segments.owners), N * T, F), (0, *flat.strides))

    def empty(self, features: int, dtype: np.dtype[Any]) -> Array:
        """An array (N, T, F) of which `view` needs no copy; zero where no row takes a step."""
        N, T = self.segments.shape
        make = np.empty if self.steps == N * T else np.zeros
        if self.segments.time_major:
            return make((T, N, features), dtype).swapaxes(0, 1)
        return make((N, T, features), dtype)

    @property
    def entered(self) -> Indices:
        """(N,): the segments that rows start with."""
        return self.segments.last if self.reverse else self.segments.first

    @property
    def left(self) -> Indices:
        """(N,): the segments that rows end with."""
        return self.segments.first if self.reverse else self.segments.last

    @property
    def goes_on(self) -> BoolArray:
        """(N,): rows that start from the state they are given."""
        return np.ones_like(self.segments.fresh) if self.reverse else ~self.segments.fresh


def cut(segments: Segments, reverse: bool = False) -> Cut:
    """Return the `Cut` for one direction; in reverse each segment starts at its own last step."""
    rows, offsets = longest_first(segments.counts)
    i, steps = own_steps(rows, offsets, segments.counts, reverse)
    times = segments.places[segments.starts[i] + steps]
    return Cut(segments, reverse, Schedule(rows, offsets, times, len(times), False))


def forward_pass(
    weights: Weights,
    x: Array,
    h0: Array,
    plan: Schedule | Cut,
    y: Array | None = None,
    training: bool = False,
    h: Array | None = None,
    noise: Noise = NO_NOISE,
    initial: Array | None = None,
    every: Every = None,
) -> Generator[Call, None, tuple[Array, Tape | Outline | None]]:
    """`recomputing.forward_pass`, with resets where the plan is a `Cut`: after one the state is `initial` (H,), or
    zero.

    y is then an array whose `view` needs no copy, and noise is of the segments.
    """
    if isinstance(plan, Schedule):
        return recomputing.forward_pass(weights, x, h0, plan, y, training, h, noise, every)
    return _forward(weights, x, h0, plan, y, training, h, noise, initial, every)


def _forward(
    weights: Weights, x: Array, h0: Array, plan: Cut, y: Array | None, training: bool, h: Array | None, noise: Noise,
    initial: Array | None, every: Every,
) -> Generator[Call, None, tuple[Array, Tape | Outline | None]]:  # fmt: skip
    start = np.zeros((len(plan.segments.owners), weights.H), x.dtype)
    if initial is not None:
        start += initial
    start[plan.entered[plan.goes_on]] = h0[plan.goes_on]
    view = None if y is None else plan.view(y)
    assert view is None or not view.size or np.may_share_memory(view, y)
    ends, tape = yield from recomputing.forward_pass(
        weights, plan.view(x), start, plan.plan, view, training, noise=noise, every=every, length=plan.segments.shape[1]
    )
    h = np.empty_like(h0) if h is None else h
    h[...] = ends[plan.left]
    return h, None if tape is None else tape._replace(x=x, plan=plan)


def backward_pass(
    dy: Array | None, dh: Array, tape: Tape | Outline, need_dx: bool = True, need_grads: bool = True
) -> Generator[Call, None, Gradients]:
    """`recomputing.backward_pass` for the tape of `forward_pass`; `initial` of the result is what resets add to the
    gradient of the state after them, (H,)."""
    if isinstance(tape.plan, Schedule):
        return recomputing.backward_pass(dy, dh, tape, need_dx, need_grads=need_grads)
    return _backward(dy, dh, tape, need_dx, need_grads)


def _backward(
    dy: Array | None, dh: Array, tape: Tape | Outline, need_dx: bool, need_grads: bool
) -> Generator[Call, None, Gradients]:
    plan: Any = tape.plan
    ends = np.zeros((len(plan.segments.owners), dh.shape[1]), dh.dtype)
    ends[plan.left] = dh
    dx = plan.empty(tape.x.shape[2], dh.dtype) if need_dx else None
    out = None if dx is None else Gradients(plan.view(dx), None, None, None, None)
    own = tape._replace(x=plan.view(tape.x), plan=plan.plan)
    found = yield from recomputing.backward_pass(
        None if dy is None else plan.view(dy), ends, own, need_dx, out, need_grads=need_grads
    )
    dh0 = np.where(plan.goes_on[:, None], found.dh0[plan.entered], 0).astype(dh.dtype, copy=False)
    anew = np.ones(len(ends), bool)
    anew[plan.entered[plan.goes_on]] = False
    return found._replace(dx=dx, dh0=dh0, initial=found.dh0[anew].sum(axis=0))
