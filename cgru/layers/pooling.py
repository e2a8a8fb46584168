"""One vector of a sequence: the largest values, or the mean, of its valid steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cgru.layers.base import check_gradient, expected_sequences
from cgru.layers.rows import Rows, from_valid_rows, rows_of, sums_by_owner
from cgru.layers.stateless import Parameterless
from cgru.sequences import Batch, as_numeric, last_segments
from cgru.typing import Array, BoolArray, Key, Shape


class _Pooling(Parameterless):
    """What the two have in common. A subclass implements `_pool` and `_spread`."""

    _takes_sequences = True
    _has_step_state = True

    def __init__(self, *, trainable: bool = True) -> None:
        super().__init__(trainable=trainable)

    def get_config(self) -> dict[str, Any]:
        return {"trainable": self.trainable}

    @property
    def draws(self) -> bool:
        return False

    def output_shape(self, shape: Shape) -> Shape:
        return (shape[0], shape[-1])

    def expected_shape(self, shape: Shape) -> str | None:
        return expected_sequences(shape, None)

    def output_steps(self, batch: Batch) -> Batch:
        return Batch(np.empty((len(batch.data), 0)))

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        if batch.data.ndim != 3:
            raise ValueError(f"{type(self).__name__}: expected data of shape (N, T, F), got {batch.data.shape}")
        if batch.data.dtype.kind != "f":
            raise TypeError(f"{type(self).__name__}: expected floating-point data, got dtype {batch.data.dtype}")
        rows = rows_of(last_segments(batch), batch.data.dtype)
        y = self._pool(rows)
        return batch.with_vectors(y), None, 0.0, (rows, y) if training else None

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, None, dict[str, Array]]:
        rows, y = tape
        check_gradient(d_out, y.shape)
        if not need_dx:
            return None, None, {}
        d = self._spread(rows, y, np.asarray(d_out, y.dtype))
        return from_valid_rows(d, rows.shape[:2], rows.valid), None, {}

    def _pool(self, rows: Rows) -> Array:
        """Return (N, F)."""
        raise NotImplementedError

    def _spread(self, rows: Rows, y: Array, d: Array) -> Array:
        """Return the gradient of the rows, (M, F), from that of what `_pool` returned."""
        raise NotImplementedError


class GlobalMaxPooling1D(_Pooling):
    """The largest value of each feature over the valid steps: (N, T, F) to (N, F).

    Steps outside of lengths or mask, and those before the last reset, are not read. A sequence without any step gives
    zeros. Where several steps have the largest value, they share its gradient evenly.

    Parameters
    ----------
    trainable : bool
        For likeness with the other layers: there is nothing to train.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> x = np.array([[[1.0], [3.0], [9.0]]])
    >>> cgru.GlobalMaxPooling1D()(x, lengths=[2])
    array([[3.]])
    """

    _step_start = -np.inf

    def _pool(self, rows: Rows) -> Array:
        y = np.zeros((rows.shape[0], rows.shape[2]), rows.data.dtype)
        filled = rows.counts > 0
        if filled.any():
            y[filled] = np.maximum.reduceat(rows.data, rows.starts[filled], axis=0)
            y += 0  # of two zeros either may be the larger: there is one
        return y

    def _spread(self, rows: Rows, y: Array, d: Array) -> Array:
        owners = rows.owners
        largest = (rows.data == y[owners]).astype(y.dtype)
        ties = np.maximum(sums_by_owner(largest, owners, len(y)), 1)
        return largest * (d / ties)[owners]

    def step(self, x_t: ArrayLike, state: Array | None = None) -> tuple[Array, Array]:
        """One time step: return what the layer gives for the sequences up to here, (N, F), and the state after it."""
        x = as_numeric(x_t, None, "x_t")
        y = x + 0 if state is None else np.maximum(state, x) + 0
        return y, y

    def restarted(self, state: Array | None, resets: BoolArray) -> Array | None:
        return state if state is None else np.where(resets[:, None], -np.inf, state).astype(state.dtype)


class GlobalAveragePooling1D(_Pooling):
    """The mean of each feature over the valid steps: (N, T, F) to (N, F).

    Steps outside of lengths or mask, and those before the last reset, are not read. A sequence without any step gives
    zeros. Results have the type of the inputs.

    Parameters
    ----------
    trainable : bool
        For likeness with the other layers: there is nothing to train.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> x = np.array([[[1.0], [3.0], [9.0]]])
    >>> cgru.GlobalAveragePooling1D()(x, lengths=[2])
    array([[2.]])
    """

    def _pool(self, rows: Rows) -> Array:
        return sums_by_owner(rows.data, rows.owners, rows.shape[0]) / self._counts(rows)

    def _spread(self, rows: Rows, y: Array, d: Array) -> Array:
        return (d / self._counts(rows))[rows.owners]

    def _counts(self, rows: Rows) -> Array:
        return np.maximum(rows.counts, 1).astype(rows.data.dtype)[:, None]

    def step(self, x_t: ArrayLike, state: Any = None) -> tuple[Array, Any]:
        """One time step: return what the layer gives for the sequences up to here, (N, F), and the state after it, the
        sums (N, F), in float64, and the number of steps, of all rows or (N,)."""
        x = as_numeric(x_t, None, "x_t")
        total, count = (np.zeros(x.shape), 0) if state is None else state
        total, count = total + x, count + 1
        by = count.astype(x.dtype)[:, None] if isinstance(count, np.ndarray) else x.dtype.type(count)
        return total.astype(x.dtype, copy=False) / by, (total, count)

    def restarted(self, state: Any, resets: BoolArray) -> Any:
        return state and (np.where(resets[:, None], 0, state[0]), np.where(resets, 0, state[1]))
