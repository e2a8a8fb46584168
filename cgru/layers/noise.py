"""What chance chooses in one training pass through the layers and directions of a GRU: dropout and zoneout."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cgru import masks, recurrence
from cgru.masks import Key
from cgru.scheduling import Schedule
from cgru.segments import Cut
from cgru.typing import Array, IntArray

if TYPE_CHECKING:
    from cgru.layers.stack import Stack

RATES = ("dropout", "layer_dropout", "recurrent_dropout", "zoneout")


def input_factors(layer: Stack, key: Key, index: int, x: Array, steps: IntArray | None) -> Array | None:
    """What the input x (N, T, F) of layer `index` is multiplied with: a factor for each row and feature, (N, 1, D),
    below the first layer, for each element above it; None if nothing is. `steps` are of `masks.steps_of`."""
    if index == 0:
        if not layer.dropout:
            return None
        N, _, D = x.shape
        return masks.scales(key, (N, D), layer.dropout, x.dtype, "input")[:, None]
    if not layer.layer_dropout:
        return None
    return masks.scales(key, x.shape, layer.layer_dropout, x.dtype, "layers", cell=index, steps=steps)


def of_cell(
    layer: Stack, key: Key, index: int, direction: int, plan: Schedule | Cut, N: int
) -> recurrence.Noise:
    """What chance chooses for one direction of layer `index`, N rows; `direction` counts those of the layer. Resets
    change nothing: segments have the mask of their row, and its steps are counted through."""
    H, mask, taken = layer.units, None, None
    direction = int(direction == 1 or layer.reverse)
    if layer.recurrent_dropout:
        mask = masks.scales(key, (N, H), layer.recurrent_dropout, layer.dtype, "recurrent", index, direction)
    if layer.zoneout:
        rows, steps = packed_steps(plan, N) if isinstance(plan, Schedule) else plan.packed_steps()
        key = key._replace(examples=masks.examples_of(key, N)[rows])
        taken = functools.partial(_taken, key, H, layer.zoneout, index, direction, steps)
    if mask is not None and not isinstance(plan, Schedule):
        mask = mask[plan.segments.owners]
    return recurrence.Noise(mask, taken)


def _taken(
    key: Key, H: int, rate: float, index: int, direction: int, steps: IntArray, rows: slice
) -> NDArray[np.uint8]:
    """What zoneout chooses for some packed rows: `steps`, and the key's examples, are those of all."""
    assert key.examples is not None
    key, steps = key._replace(examples=key.examples[rows]), steps[rows]
    return masks.keep(key, (len(steps), 1, H), rate, "zoneout", index, direction, steps[:, None]).view(np.uint8)[:, 0]


def packed_steps(plan: Schedule, N: int) -> tuple[IntArray, Any]:
    """The (row of the batch, step) of each packed row."""
    counts = np.full(plan.steps // N if N else 0, N) if plan.offsets is None else np.diff(plan.offsets)
    steps = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(plan.steps) - (np.cumsum(counts) - counts)[steps]
    return rows if plan.rows is None else plan.rows[rows], steps
