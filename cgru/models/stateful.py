"""Stateful models: row i of a call goes on from the state that row i of the call before left.

That is one state for each row, so a call may not be cut into batches whose rows would go on from each other's, and may
not mix its rows. Training does cut: there row i of a batch goes on from row i of the batch before, each epoch starts
from the state that the model had when the training began, and validation from no state at all. A state is kept when the
call, or the update, is done; what fails leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from cgru.models.examples import title
from cgru.typing import States

Layers: TypeAlias = Sequence[Any]  # of which a GRU has a state


def stateful_layers(layers: Layers) -> list[int]:
    """The indices of the layers that keep a state."""
    return [i for i, layer in enumerate(layers) if getattr(layer, "stateful", False)]


def carried(layers: Layers, states: States) -> States:
    """Of the states after a batch those that the next one starts from: None for layers that keep none."""
    return [state if getattr(layer, "stateful", False) else None for layer, state in zip(layers, states, strict=True)]


def first_states(layers: Layers, count: int) -> States:
    """The states that `count` rows start from which go on from nothing."""
    kept = stateful_layers(layers)
    return [
        layer._first_state(count, layer._ready().learned).reshape(layer._state_shape(count)) if i in kept else None
        for i, layer in enumerate(layers)
    ]


def states_of_row(layers: Layers, row: int, states: States | None = None) -> States:
    """What row `row` of a call goes on from that is given these states, or none; None where it begins."""
    kept = [getattr(layer, "_state", None) for layer in layers] if states is None else states
    return [None if state is None else state[..., row : row + 1, :] for state in kept]


def check_one_batch(layers: Layers, count: int, batch_size: int) -> None:
    """Refuse a call that is cut into batches, or has other rows than the states that are kept."""
    for i in stateful_layers(layers):
        if count > batch_size:
            raise ValueError(
                f"batch_size: expected at least {count}, the rows of x, because {title(layers, i)} is stateful and "
                f"keeps one state for each row, got {batch_size}"
            )
        _check_rows(layers, i, count, f"{count} rows")


def check_batches(layers: Layers, count: int, batch_size: int, shuffle: bool) -> None:
    """Refuse training that mixes rows, or whose batches are of unequal size."""
    for i in stateful_layers(layers):
        if shuffle:
            raise ValueError(
                f"shuffle: expected False, because {title(layers, i)} is stateful: row i of a batch goes on from row i "
                "of the batch before, got True"
            )
        check_equal_batches(layers, count, batch_size)
        rows = min(count, batch_size)
        _check_rows(layers, i, rows, f"batches of {rows} rows")


def check_equal_batches(layers: Layers, count: int, batch_size: int) -> None:
    """Refuse a last batch that is smaller than the others."""
    for i in stateful_layers(layers):
        if count > batch_size and count % batch_size:
            raise ValueError(
                f"batch_size: expected a divisor of {count}, the number of rows, because {title(layers, i)} is "
                f"stateful: row i of a batch goes on from row i of the batch before, got {batch_size}"
            )


def check_like_first(layers: Layers, size: int, count: int) -> None:
    """Refuse a batch of an iterable that has other rows than the first one."""
    for i in stateful_layers(layers):
        if count != size:
            raise ValueError(
                f"x: expected {size} rows, as the first batch has, because {title(layers, i)} is stateful: row i of a "
                f"batch goes on from row i of the batch before, got {count}"
            )
        _check_rows(layers, i, count, f"{count} rows")


def _check_rows(layers: Layers, i: int, rows: int, got: str) -> None:
    state = layers[i]._state
    if state is not None and state.shape[-2] != rows:
        kept = got.replace(str(rows), str(state.shape[-2]))
        raise ValueError(
            f"x: expected {kept}, as the state that {title(layers, i)} keeps has, got {got}; reset_states() forgets it"
        )
