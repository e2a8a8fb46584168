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
from cgru.layers.cross_attention import Memory, activated
from cgru.typing import AnyArray, Array, IntArray

if TYPE_CHECKING:
    from cgru.models.coupled import EncoderDecoder

Choice: TypeAlias = tuple[IntArray, IntArray, Array]  # rows that go on, their tokens, their sums of log-probabilities


class Policy(Protocol):
    """What chooses."""

    rows: int  # hypotheses of one source, at most

    def choose(self, p: Array, owners: IntArray, scores: Array, step: int) -> Choice:
        """Return what goes on of hypotheses with probabilities `p` (n, K), -1 for a token that may not come. `owners`
        (n,) are their sources, in order, `scores` (n,) the sums so far."""


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
        K = p.shape[1]
        if self.rows < K:  # what is not among the best of its row is not among the best of all
            least = np.partition(p, K - self.rows, axis=1)[:, K - self.rows]
            likely = (p >= least[:, None]) & (p > 0)
        else:
            likely = p > 0
        rows, tokens = np.nonzero(likely)
        scores = scores[rows] + _logarithms(p[rows, tokens])
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
        rows = np.arange(len(p))
        weights = np.maximum(p, 0).astype(np.float64)
        if self._temperature != 1:
            with np.errstate(divide="ignore"):
                logarithms = np.log(weights / weights.max(axis=1, keepdims=True))
            weights = np.exp(logarithms / self._temperature)
        if self._top_k is not None and self._top_k < weights.shape[1]:
            self._keep_first(weights, np.full(len(p), self._top_k))
        if self._top_p is not None and self._top_p < 1:
            sums = np.cumsum(np.sort(weights, axis=1)[:, ::-1], axis=1)
            self._keep_first(weights, 1 + (sums < self._top_p * sums[:, -1:]).sum(axis=1))
        key = masks.Key(self._seed, examples=self._examples[owners], step=step)
        drawn = masks.uniform(key, (len(p), 1, 1))[:, 0, 0]
        sums = np.cumsum(weights, axis=1)
        tokens = (sums <= (drawn * sums[:, -1])[:, None]).sum(axis=1)
        # A row that holds NaN draws what there is not: its logarithm tells.
        tokens = np.minimum(tokens, p.shape[1] - 1)
        return rows, tokens, scores + _logarithms(p[rows, tokens])

    @staticmethod
    def _keep_first(weights: Array, counts: IntArray) -> None:
        """Set all but the `counts` largest of each row to zero; of equals the first stay."""
        ordered = np.sort(weights, axis=1)[:, ::-1]
        least = ordered[np.arange(len(weights)), np.minimum(counts, weights.shape[1]) - 1][:, None]
        equal = weights == least
        left = counts[:, None] - (weights > least).sum(axis=1, keepdims=True)
        weights[(weights < least) | (equal & (equal.cumsum(axis=1) > left))] = 0


def _logarithms(p: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(p.astype(np.float64))


class Begun(NamedTuple):
    """A decoder that has read nothing yet."""

    states: list[Array | None]  # of its layers
    memory: Memory | None  # what it attends to


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
        p[:, model._never] = -1
        rows, tokens, scores = policy.choose(p, owners, scores, step)
        _check(scores, rows, owners, examples, p)
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
        if len(rows) != len(p) or (rows != np.arange(len(p))).any():
            states = [state if state is None else np.take(state, rows, axis=-2) for state in states]
    return [tokens.copy() for tokens in found], best


def _check(scores: Array, rows: IntArray, owners: IntArray, examples: IntArray, p: Array) -> None:
    """Refuse outputs that are not finite, of which nothing follows."""
    wrong = owners[rows[~np.isfinite(scores)]]
    missing = np.setdiff1d(owners, owners[rows])
    wrong = np.concatenate([wrong, missing])
    if len(wrong):
        raise FloatingPointError(
            f"generate: expected finite outputs of the decoder, got others for row {examples[wrong[0]]} of source"
        )


def stepper(
    model: EncoderDecoder, memory: Memory | None
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
