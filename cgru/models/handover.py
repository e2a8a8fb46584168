"""The states that an encoder hands over to a decoder: which goes where, and how gradients come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cgru.layers import GRU
from cgru.models.examples import title
from cgru.typing import Array, States


class Handover:
    """From each layer of the encoder's GRUs to one of the decoder's, the last to the last.

    A GRU of several layers counts as so many. The states of two directions become one as their outputs do.

    Parameters
    ----------
    encoder, decoder : sequence of Layer

    Raises
    ------
    ValueError
        If the decoder has more layers than there are states, or layers of other sizes.
    """

    def __init__(self, encoder: Sequence[Any], decoder: Sequence[Any]) -> None:
        self._encoder, self._decoder = tuple(encoder), tuple(decoder)
        givers, takers = _cells(encoder), _cells(decoder)
        if len(takers) > len(givers):
            raise ValueError(
                f"decoder: expected at most {len(givers)} layers of GRUs, as many as hand over a state in the encoder, "
                f"got {len(takers)}"
            )
        self._givers = givers[len(givers) - len(takers) :]
        for (i, _), (j, _) in zip(self._givers, takers, strict=True):
            size, units = encoder[i].output_size(None), decoder[j].units
            if size != units:
                both = f", {encoder[i].units} in each direction" if size != encoder[i].units else ""
                raise ValueError(
                    f"decoder: expected {size} units in {title(decoder, j)}, because its state comes from "
                    f"{title(encoder, i)} of the encoder, of {size} units{both}, got {units}"
                )

    def states(self, after: States) -> list[Array | None]:
        """Return what each layer of the decoder starts from, from the states of the encoder's layers."""
        given = iter([self._merged(i, layer, after[i]) for i, layer in self._givers])
        found: list[Array | None] = []
        for layer in self._decoder:
            own = [next(given) for _ in range(layer.num_layers)] if isinstance(layer, GRU) else []
            found.append(np.stack(own) if len(own) > 1 else own[0] if own else None)
        return found

    def gradients(self, d_states: States, after: States) -> list[Array | None]:
        """Return the gradients of the states of the encoder's layers, from those of what the decoder started from."""
        parts = [
            part
            for layer, d in zip(self._decoder, d_states, strict=True)
            if isinstance(layer, GRU) and d is not None
            for part in (d if layer.num_layers > 1 else [d])
        ]
        found: list[Any] = [None] * len(self._encoder)
        for (i, layer), part in zip(self._givers, parts, strict=True):
            if found[i] is None:
                found[i] = np.zeros_like(after[i])
            giver, cells = self._encoder[i], self._of(i, layer, after[i])
            directions = giver._split(np.asarray(part, giver.dtype), cells)
            for cell, d in zip(self._of(i, layer, found[i]), directions, strict=True):
                cell[...] = d
        return found

    def _merged(self, i: int, layer: int, state: Any) -> Array:
        merged: Array = self._encoder[i]._merge(None, self._of(i, layer, state))
        return merged

    def _of(self, i: int, layer: int, state: Any) -> list[Any]:
        """The states of the directions of one layer, views."""
        count = len(self._encoder[i]._directions)
        cells = state[None] if state.ndim == 2 else state
        return [cells[layer * count + d] for d in range(count)]


def _cells(layers: Sequence[Any]) -> list[tuple[int, int]]:
    """(index of a GRU, index of one of its layers), for each."""
    return [(i, k) for i, layer in enumerate(layers) if isinstance(layer, GRU) for k in range(layer.num_layers)]
