"""Dropout between layers."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np

from cgru import masks
from cgru.checks import check_rate
from cgru.layers.base import check_gradient
from cgru.layers.stateless import Parameterless
from cgru.sequences import Batch
from cgru.typing import Array, BoolArray, Key, Shape


class Dropout(Parameterless):
    """In training, zero each feature with probability `rate` and scale the others by 1 / (1 - rate).

    Parameters
    ----------
    rate : float
        From 0 up to, but not including, 1.
    seed : int, optional
        Seed of the masks.
    trainable : bool
        For likeness with the other layers: there is nothing to train.

    Raises
    ------
    TypeError, ValueError
        If `rate` is not a number in that range.

    Notes
    -----
    Results have the type of the inputs. There are no parameters. Each element is kept or dropped by itself, by a number
    that follows from the key of the pass (`cgru.masks`), the example, the step and the feature; padding changes none.
    """

    _options = ("rate",)

    def __init__(self, rate: float, *, seed: SupportsIndex | None = None, trainable: bool = True) -> None:
        super().__init__(seed=seed, trainable=trainable)
        self.rate = check_rate(rate, "rate")

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        x = batch.data
        if x.dtype.kind != "f":
            raise TypeError(f"Dropout: expected floating-point data, got dtype {x.dtype}")
        scale = None
        valid = batch.valid
        if training and self.rate:
            scale = self._scale(x, batch.mask, self._next_key() if key is None else key)
        return batch.with_data(_times(x, scale, valid)), None, 0.0, (scale, valid, x.shape)

    def record_batch(self, batch: Batch, state: Array | None = None) -> tuple[Batch, None, float, Any]:
        return self.forward_batch(batch)

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, None, dict[str, Array]]:
        scale, valid, shape = tape
        check_gradient(d_out, shape)
        return (_times(d_out, scale, valid) if need_dx else None), None, {}

    def _scale(self, x: Array, mask: BoolArray | None, key: masks.Key) -> Array:
        shape = x.shape if x.ndim in (2, 3) else (*x.shape, 1)
        return masks.scales(key, shape, self.rate, x.dtype, steps=masks.steps_of(mask)).reshape(x.shape)


def _times(data: Array, scale: Array | None, valid: BoolArray | None) -> Array:
    """data * scale, zero at invalid steps, whatever `data` hold there; scale None means 1, valid None every step."""
    if valid is None:
        return data if scale is None else data * scale
    out = np.zeros_like(data)
    where = np.broadcast_to(valid.reshape(valid.shape + (1,) * (data.ndim - valid.ndim)), data.shape)
    return np.multiply(data, 1 if scale is None else scale, out=out, where=where)
