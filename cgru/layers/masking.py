"""Masking: steps that hold one value throughout are padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgru.checks import check_finite
from cgru.layers.base import check_gradient, expected_sequences
from cgru.layers.stateless import Parameterless
from cgru.sequences import Batch, with_mask
from cgru.typing import AnyArray, Array, Key, Shape

_ROWS = 1024  # looked at at once


class Masking(Parameterless):
    """Take the steps of (N, T, F) at which all features are `mask_value` for padding: no layer behind reads them.

    They are left out beside those that lengths or a mask leave out already, and are zero in the outputs of the layer.

    Parameters
    ----------
    mask_value : float
    trainable : bool
        For likeness with the other layers: there is nothing to train.

    Raises
    ------
    TypeError, ValueError
        If `mask_value` is not a finite number.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> model = cgru.Sequential([cgru.Masking(-1.0), cgru.GRU(4)], seed=0)
    >>> x = np.ones((1, 5, 3))
    >>> padded = np.concatenate([x, np.full((1, 2, 3), -1.0)], axis=1)
    >>> bool((model(padded) == model(x)).all())
    True
    """

    _options = ("mask_value",)
    _takes_sequences = True

    def __init__(self, mask_value: float = 0.0, *, trainable: bool = True) -> None:
        super().__init__(trainable=trainable)
        self.mask_value = check_finite(mask_value, "mask_value")

    def get_config(self) -> dict[str, Any]:
        return {"mask_value": self.mask_value, "trainable": self.trainable}

    @property
    def draws(self) -> bool:
        return False

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def expected_shape(self, shape: Shape) -> str | None:
        return expected_sequences(shape, None)

    def masked(self, batch: Batch) -> Batch:
        if batch.data.ndim != 3:
            return batch
        mask = np.empty(batch.data.shape[:2], bool)
        for start in range(0, len(mask), _ROWS):  # data may be mapped from a file
            some = slice(start, start + _ROWS)
            mask[some] = (batch.data[some] != self.mask_value).any(axis=-1)
        return with_mask(batch, mask)

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        if batch.data.ndim != 3:
            raise ValueError(f"Masking: expected data of shape (N, T, F), got {batch.data.shape}")
        batch = self.masked(batch)
        valid = batch.valid
        return batch.with_data(_cleared(batch.data, valid)), None, 0.0, (valid, batch.data.shape)

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, None, dict[str, Array]]:
        valid, shape = tape
        check_gradient(d_out, shape)
        return (_cleared(d_out, valid) if need_dx else None), None, {}

    def step_rows(self, x: AnyArray) -> Array:
        hidden = (x == self.mask_value).all(axis=-1)
        if hidden.any():
            raise ValueError(
                f"x_t: expected no step of {self.mask_value:g} alone, which is padding, got one in row "
                f"{int(np.flatnonzero(hidden)[0])}"
            )
        return x


def _cleared(data: AnyArray, valid: Any) -> Array:
    """The data, zero where they are not valid."""
    return data if valid is None else np.where(valid[..., None], data, data.dtype.type(0))
