"""Dropout between layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np

from cgru.checks import check_int, check_rate
from cgru.layers.base import Layer, check_gradient
from cgru.sequences import Batch
from cgru.typing import Array, BoolArray, Key, Shape


class Dropout(Layer):
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
    Results have the type of the inputs. There are no parameters; the random generator is the layer's, so the masks of a
    training run follow from the seed.
    """

    _options = ("rate",)
    _has_dtype = False

    def __init__(self, rate: float, *, seed: SupportsIndex | None = None, trainable: bool = True) -> None:
        super().__init__(seed=seed, trainable=trainable)
        self.rate = check_rate(rate, "rate")
        self._parameters = {}
        self._masks: np.random.Generator | None = None

    def build(self, input_size: SupportsIndex) -> None:
        """Nothing to create; inputs of any size will do."""
        check_int(input_size, "input_size", 1)

    def output_size(self, input_size: Any) -> Any:
        return input_size

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        return iter(())

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        x = batch.data
        if x.dtype.kind != "f":
            raise TypeError(f"Dropout: expected floating-point data, got dtype {x.dtype}")
        scale = self._scale(x.shape, x.dtype, key) if training and self.rate else None
        valid = batch.valid
        return batch.with_data(_times(x, scale, valid)), None, 0.0, (scale, valid, x.shape)

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True
    ) -> tuple[Array | None, None, dict[str, Array]]:
        scale, valid, shape = tape
        check_gradient(d_out, shape)
        return (_times(d_out, scale, valid) if need_dx else None), None, {}

    def _scale(self, shape: Shape, dtype: np.dtype[Any], key: Key) -> Array:
        if key is None:
            with self._lock:
                if self._masks is None:
                    self._masks = self._generator()
                chosen = self._masks.random(shape, dtype=np.float32)
        else:
            chosen = np.random.default_rng(key).random(shape, dtype=np.float32)
        return (chosen >= np.float32(self.rate)) * dtype.type(1 / (1 - self.rate))


def _times(data: Array, scale: Array | None, valid: BoolArray | None) -> Array:
    """data * scale, zero at invalid steps, whatever `data` hold there; scale None means 1, valid None every step."""
    if valid is None:
        return data if scale is None else data * scale
    out = np.zeros_like(data)
    where = np.broadcast_to(valid.reshape(valid.shape + (1,) * (data.ndim - valid.ndim)), data.shape)
    return np.multiply(data, 1 if scale is None else scale, out=out, where=where)
