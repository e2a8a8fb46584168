"""Truncated backpropagation through time: an update for every few steps of a batch.

The state goes on from chunk to chunk, and no gradient goes back. Where the model has an output at each step, each chunk
is trained with its own steps. Where it has one for a whole sequence, that counts in the chunk in which the sequence
ends, and the chunks before only lead there. A row that has ended takes no part in what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cgru.layers import GRU, Dense, Dropout, Embedding, Layer, LayerNormalization, Masking
from cgru.models import finite
from cgru.models.examples import title
from cgru.models.runs import Totals
from cgru.models.sources import Piece
from cgru.sequences import Batch, acting
from cgru.typing import IntArray, States

if TYPE_CHECKING:
    from cgru.models.updates import Updatable

Part: TypeAlias = tuple[int, States | None]  # at which step a batch goes on, and the states of the rows that do
_EACH_STEP_ALONE = (Dense, Dropout, Embedding, LayerNormalization, Masking)


def check(layers: Sequence[Layer]) -> None:
    """ValueError unless sequences can be cut for these layers."""
    for i, layer in enumerate(layers):
        for option in ("bidirectional", "reverse", "go_backwards", "stateful"):
            if getattr(layer, option, False):
                because = "keeps a state of its own" if option == "stateful" else "does not run forward in time"
                raise ValueError(
                    f"chunk: expected None, because {title(layers, i)} {because}, with {option}=True, got a number"
                )
        if not isinstance(layer, (GRU, *_EACH_STEP_ALONE)):
            raise ValueError(
                "chunk: expected layers that go from step to step, GRU, "
                f"{', '.join(kind.__name__ for kind in _EACH_STEP_ALONE)}, got {title(layers, i)}"
            )
    if not any(isinstance(layer, GRU) for layer in layers):
        raise ValueError("chunk: expected a model with a GRU, got none")


def check_resets(layers: Sequence[Layer], batch: Batch) -> None:
    """ValueError if the batch has resets, and it is only known during its steps before which of them those act."""
    if batch.resets is None:
        return
    for i, layer in enumerate(layers):
        if isinstance(layer, Masking) and i not in _reading(layers):
            raise ValueError(
                f"resets: expected none beside chunk where a Masking stands behind other layers, as {title(layers, i)} "
                "does: what it hides is not known before the chunk is run, and a reset may wait there for a later one"
            )


def update(
    model: Updatable,
    piece: Piece,
    chunk: int,
    totals: Totals,
    place: finite.Place,
    begun: Part | None = None,
    passed: Callable[[Part], None] = lambda part: None,
) -> None:
    """The updates of one batch, `chunk` steps each; adds what they saw to `totals`. With each goes a call of `passed`,
    with what is to be `begun` where the batch goes on from there."""
    batch, targets = _settled(model.layers, piece.batch), piece.targets
    ends = _ends(batch)
    by_step = all(layer.return_sequences for layer in model.layers if isinstance(layer, GRU))
    first, states = begun or (0, None)
    alive = np.flatnonzero(ends > first) if first else np.arange(len(ends))
    for start in range(first, max(1, ends.max(initial=0)), chunk):
        stop = start + chunk
        part, here = _cut(batch, start, stop), place._replace(step=start)
        if by_step:
            if part.valid is None or part.valid.any() or not start:
                own = targets.take(slice(None), slice(start, stop))
                states = model._update(part, own, totals, here, states, _noting(passed, stop))
            continue
        goes_on = ends[alive] > stop
        ended, alive = alive[~goes_on], alive[goes_on]
        before = states
        if len(alive):
            key = model._key(here.take(alive))
            here_from, no_tapes = _rows(before, goes_on), len(model.layers)
            _, states, *_ = model._forward(part.take(alive), here_from, training=True, key=key, first=no_tapes)
        if len(ended):
            own, ended_from = targets.take(ended, slice(None)), _rows(before, ~goes_on)
            note = _noting(passed, stop, states)
            model._update(part.take(ended), own, totals, here.take(ended), ended_from, note)


def _noting(passed: Callable[[Part], None], step: int, kept: States | None = None) -> Callable[[States], None]:
    """What notes that an update was made, and that the batch goes on at `step`: from the states `kept`, or else from
    those after the update."""
    return lambda after: passed((step, after if kept is None else kept))


def _ends(batch: Batch) -> IntArray:
    """One past the last valid step of each row."""
    if batch.lengths is not None:
        return batch.lengths
    steps = batch.data.shape[1]
    if batch.mask is None:
        return np.full(len(batch.data), steps)
    return np.where(batch.mask, np.arange(1, steps + 1), 0).max(axis=1, initial=0)


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    """The steps from `start` to `stop`."""
    data = batch.data[:, start:stop]
    lengths = None if batch.lengths is None else np.clip(batch.lengths - start, 0, data.shape[1])
    mask, resets = (None if field is None else field[:, start:stop] for field in (batch.mask, batch.resets))
    return Batch(data, lengths, mask, resets)


def _reading(layers: Sequence[Layer]) -> range:
    """The first layers, which look for padding in the data themselves: one of any kind, and the Maskings behind one."""
    count = next((i for i, layer in enumerate(layers) if not isinstance(layer, Masking)), len(layers))
    return range(max(1, count))


def _settled(layers: Sequence[Layer], batch: Batch) -> Batch:
    """The batch with its resets at the steps before which they act, which may be of later chunks."""
    check_resets(layers, batch)
    if batch.resets is None:
        return batch
    seen = batch
    for i in _reading(layers):
        seen = layers[i].masked(seen)
    return batch._replace(resets=acting(batch.resets, seen.valid))


def _rows(states: States | None, rows: Any) -> States | None:
    """The states of these rows, in every layer that has one."""
    return states and [None if state is None else state[..., rows, :] for state in states]
