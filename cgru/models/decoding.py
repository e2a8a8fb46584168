"""How a decoder says something: one loop over steps, in which a policy chooses what comes next.

In each step every hypothesis, a row, has a token that was chosen last. The decoder gives the probabilities of what
follows it, and the policy chooses which rows go on, with what. Rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from cgru import masks
from cgru.layers import GRU, Attention, Dense, Dropout
from cgru.layers.cross_attention import Prepared, activated
from cgru.typing import AnyArray, Array, IntArray

if TYPE_CHECKING:
    from cgru.models.coupled import EncoderDecoder

FIRST = 256  # of the largest weights, looked at before all are sorted
BLOCK = 128  # of weights that are summed by themselves
FEW = 16  # up to here the largest values are found one after the other

Choice: TypeAlias = tuple[IntArray, IntArray, Array]  # rows that go on, their tokens, their sums of log-probabilities


class Policy(Protocol):
    """What chooses."""

    rows: int  # hypotheses of one source, at most

    def choose(self, p: Array, owners: IntArray, scores: Array, step: int) -> Choice:
        """Return what goes on of hypotheses with probabilities `p` (n, K), 0 for a token that may not come; they may be
        written into. `owners` (n,) are their sources, in order, `scores` (n,) the sums so far."""


class Greedy:
    """The most probable token; of equals the first."""

    rows = 1

    def choose(self, p: Array, owners: IntArray, scores: Array, step: int) -> Choice:
        rows = np.arange(len(p))
        tokens = p.argmax(axis=1)
        return rows, tokens, scores + _logarithms(p[rows, tokens])


class Beam:
    """The `width` continuations of a source that are the most probable as a whole. One that has ended keeps its place,
    so that `width` fewer are looked at."""

    def __init__(self, width: int, count: int, end: int) -> None:
        self.rows, self._end = width, end
        self._places = np.full(count, width)  # that are left to each source

    def choose(self, p: Array, owners: IntArray, scores: Array, step: int) -> Choice:
        rows, tokens, values = _largest_of_each(p, self.rows)  # no other is among the best of all
        scores = scores[rows] + _logarithms(values)
        order = np.lexsort((-scores, owners[rows]))  # stable: of equals the first
        rows, tokens, scores = rows[order], tokens[order], scores[order]
        own = owners[rows]
        rank = np.arange(len(own)) - np.searchsorted(own, own)
        best = rank < self._places[own]
        rows, tokens, scores = rows[best], tokens[best], scores[best]
        np.subtract.at(self._places, owners[rows[tokens == self._end]], 1)
        return rows, tokens, scores


class Sampling:
    """A token drawn from what temperature, `top_k` and `top_p` leave, by a number that follows from the seed, the row
    of the source and the step alone."""

    rows = 1

    def __init__(
        self, temperature: float, top_k: int | None, top_p: float | None, seed: int, examples: IntArray
    ) -> None:
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self._seed, self._examples = seed, examples

    def choose(self, p: Array, owners: IntArray, scores: Array, step: int) -> Choice:
        key = masks.Key(self._seed, examples=self._examples[owners], step=step)
        numbers = masks.uniform(key, (len(p), 1, 1))[:, 0, 0]
        left = None  # the tokens that may come, as many for each row; None: all
        weights = p
        if self._top_k is not None and self._top_k < p.shape[1]:
            left = np.array([largest(own, self._top_k) for own in p])
            weights = np.take_along_axis(p, left, axis=1)
        if self._temperature != 1:
            weights = (weights.astype(np.float64) / weights.max(axis=1, keepdims=True)) ** (1 / self._temperature)
        if self._top_p is not None and self._top_p < 1:
            weights, whole = np.zeros_like(weights), weights
            for new, own in zip(weights, whole, strict=True):
                likely = nucleus(own, self._top_p)
                new[likely] = own[likely]
        tokens = drawn(weights, numbers)
        rows = np.arange(len(p))
        if left is not None:
            tokens = left[rows, tokens]
        return rows, tokens, scores + _logarithms(p[rows, tokens])


def largest(values: Array, count: int) -> IntArray:
    """The places, in order, of the `count` largest of values (K,); of equals the first."""
    least = np.partition(values, -count)[-count]
    places = np.flatnonzero(values >= least)
    surplus = len(places) - count
    if surplus:
        places = np.delete(places, np.flatnonzero(values[places] == least)[-surplus:])
    return places


def nucleus(weights: Array, share: float) -> IntArray:
    """The places, in order, of the largest of weights (K,) that together have this share of the sum; of equals the
    first."""
    wanted = share * weights.sum(dtype=np.float64)
    some = np.partition(weights, -FIRST)[-FIRST:] if len(weights) > FIRST else weights
    if some.sum(dtype=np.float64) < wanted:  # usually it is a small part, and to sort all of them takes long
        some = weights
    sums = np.cumsum(np.sort(some)[::-1], dtype=np.float64)
    return largest(weights, min(len(some), 1 + int(np.searchsorted(sums, wanted))))


def drawn(weights: Array, numbers: Array) -> IntArray:
    """The place in each row of weights (n, K) that a number from [0, 1) means: the first whose sum up to here exceeds
    so much of the whole. Blocks are summed first, since a running sum waits for each term."""
    n, K = weights.shape
    sums = np.cumsum(np.add.reduceat(weights, np.arange(0, K, BLOCK), axis=1, dtype=np.float64), axis=1)
    rows, wanted = np.arange(n), numbers * sums[:, -1]
    last = (sums < sums[:, -1:]).sum(axis=1)  # block that holds anything
    block = np.minimum((sums <= wanted[:, None]).sum(axis=1), last)
    wanted -= np.where(block > 0, sums[rows, block - 1], 0)
    columns = block[:, None] * BLOCK + np.arange(min(BLOCK, K))
    own = np.where(columns < K, weights[rows[:, None], np.minimum(columns, K - 1)], 0)
    places = (np.cumsum(own, axis=1, dtype=np.float64) <= wanted[:, None]).sum(axis=1)
    for row in np.flatnonzero(places == own.shape[1]):  # by rounding: the last that can come
        places[row] = np.flatnonzero(own[row])[-1]
    return columns[rows, places]


def _largest_of_each(p: Array, count: int) -> tuple[IntArray, IntArray, Array]:
    """(rows, places, values) of the `count` largest above zero in each row of p (n, K), row by row, and of some that
    are as large as the last of them."""
    n, K = p.shape
    if count > FEW:
        least = np.partition(p, K - count, axis=1)[:, K - count, None] if count < K else 0
        rows, places = np.nonzero((p >= least) & (p > 0))
        return rows, places, p[rows, places]
    found, each = np.empty((n, min(count, K)), np.intp), np.arange(n)
    values = np.empty(found.shape, p.dtype)
    for i in range(found.shape[1]):
        found[:, i] = p.argmax(axis=1)
        values[:, i] = p[each, found[:, i]]
        p[each, found[:, i]] = -1
    rows, columns = np.nonzero(values > 0)
    return rows, found[rows, columns], values[rows, columns]


def _logarithms(p: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(p.astype(np.float64))


class Begun(NamedTuple):
    """A decoder that has read nothing yet."""

    states: list[Array | None]  # of its layers
    memory: Prepared | None  # what it attends to


def decode(
    model: EncoderDecoder, begun: Begun, examples: IntArray, max_length: int, policy: Policy, penalty: float
) -> tuple[list[IntArray], Array]:
    """Return what the decoder says to each source, and the scores: sums of logarithms of the probabilities, divided by
    the number of tokens, the end included, to the power of `penalty`.

    Raises
    ------
    FloatingPointError
        If the outputs are not finite.
    """
    count = len(examples)
    found: list[Any] = [None] * count
    best = np.full(count, -np.inf)
    step_of = stepper(model, begun.memory)
    scores: Array = np.zeros(count)
    owners, states = np.arange(count), begun.states
    tokens, said = np.full(count, model.start), np.empty((count, 0), np.intp)
    for step in range(max_length):
        if not len(owners):
            break
        p, states = step_of(tokens, states, owners)
        wrong = np.flatnonzero(np.isnan(p[:, model.end]))  # softmax gives NaN to a whole row
        if len(wrong):
            where = f"row {examples[owners[wrong[0]]]} of source"
            raise FloatingPointError(f"generate: expected finite outputs of the decoder, got NaN for {where}")
        _forbid(p, model._never, model.end)
        before = len(p)
        rows, tokens, scores = policy.choose(p, owners, scores, step)
        owners, said = owners[rows], np.concatenate([said[rows], tokens[:, None]], axis=1)
        ended = tokens == model.end
        values = scores / (step + 1) ** penalty
        for row in np.flatnonzero(ended if step + 1 < max_length else np.ones_like(ended)).tolist():
            owner = owners[row]
            if found[owner] is None or values[row] > best[owner]:
                best[owner], found[owner] = values[row], said[row, : step + (not ended[row])]
        # What cannot become better than what was found is given up: a sum only falls.
        alive = ~ended & ~(scores / max_length**penalty <= best[owners])
        rows, tokens, scores, owners, said = rows[alive], tokens[alive], scores[alive], owners[alive], said[alive]
        if len(rows) != before or (rows != np.arange(before)).any():
            states = [state if state is None else np.take(state, rows, axis=-2) for state in states]
    return [tokens.copy() for tokens in found], best


def _forbid(p: Array, never: list[int], end: int) -> None:
    """Take their probability from the tokens `never`; where nothing else has any, the end is what is left."""
    alone = np.flatnonzero(p[:, never].sum(axis=1) > 0.99)
    p[:, never] = 0
    p[alone[~p[alone].any(axis=1)], end] = np.finfo(p.dtype).tiny


def stepper(
    model: EncoderDecoder, memory: Prepared | None
) -> Callable[[IntArray, list[Array | None], IntArray], tuple[Array, list[Array | None]]]:
    """Return the function of (tokens (n,), states, owners (n,)) that gives the probabilities (n, K) of what follows,
    and the states after."""
    layers: Sequence[Any] = model.layers[len(model.encoder.layers) :]
    last = layers[-1]
    logits = isinstance(last, Dense) and last.activation == "linear"

    def step(tokens: IntArray, states: list[Array | None], owners: IntArray) -> tuple[Array, list[Array | None]]:
        flow: AnyArray = tokens
        after: list[Array | None] = []
        for layer, state in zip(layers, states, strict=True):
            if isinstance(layer, GRU):
                state = layer.step(flow, state)
                flow = state if state.ndim == 2 else state[-1]
            elif isinstance(layer, Attention) and memory is not None:
                flow = layer.attend_rows(flow, memory, owners)
            elif not isinstance(layer, Dropout):
                flow = layer.step_rows(flow)
            after.append(state)
        return activated(flow, "softmax") if logits else flow, after

    return step
