"""LayerNormalization: the features of each step brought to mean 0 and variance 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from cgru.checks import check_bool, check_positive
from cgru.layers.base import check_gradient, expected_vectors
from cgru.layers.rows import column_sums, from_valid_rows, row_sums, valid_rows
from cgru.layers.stateless import Stateless
from cgru.sequences import Batch
from cgru.typing import Array, BoolArray, ConstraintLike, DType, InitializerLike, Key, RegularizerLike, Shape


class _Tape(NamedTuple):
    normal: Array  # (M, F): before gamma and beta
    inverse: Array  # (M, 1): 1 / sqrt(variance + epsilon)
    gamma: Array | None
    shape: Shape
    valid: BoolArray | None


class LayerNormalization(Stateless):
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta`` over the features of every vector, or every valid step.

    J. L. Ba, J. R. Kiros and G. E. Hinton (2016), arXiv:1607.06450.

    Parameters
    ----------
    epsilon : float
        Keras' default; PyTorch has 1e-5.
    center, scale : bool
        Whether there is a `beta`, and a `gamma`.
    beta_initializer, gamma_initializer : str, Initializer or callable
        From `cgru.initializers`.
    beta_regularizer, gamma_regularizer : str or Regularizer, optional
        From `cgru.regularizers`.
    beta_constraint, gamma_constraint : str, Constraint or callable, optional
        From `cgru.constraints`.
    trainable : bool
        Whether `Sequential.fit` changes the parameters; the one option that may be set later.
    dtype : {"float32", "float64"}
        Type of parameters and results.
    seed : int, optional
        Seed of the initial parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, out of range or unknown; the message names it.

    Notes
    -----
    Parameters: `gamma` (F,) and `beta` (F,). Steps outside of lengths or mask are not read, and zero in the outputs.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> y = cgru.LayerNormalization()(np.array([[1.0, 2.0, 6.0]]))
    >>> bool(abs(y.mean()) < 1e-6), y.round(2).tolist()[0][0]
    (True, -0.9300000071525574)
    """

    dtype: np.dtype[Any]
    _options = (
        *("epsilon", "center", "scale", "beta_initializer", "gamma_initializer", "beta_regularizer"),
        *("gamma_regularizer", "beta_constraint", "gamma_constraint"),
    )

    def __init__(
        self,
        *,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike = "zeros",
        gamma_initializer: InitializerLike = "ones",
        beta_regularizer: RegularizerLike = None,
        gamma_regularizer: RegularizerLike = None,
        beta_constraint: ConstraintLike = None,
        gamma_constraint: ConstraintLike = None,
        trainable: bool = True,
        dtype: DType = "float32",
        seed: SupportsIndex | None = None,
    ) -> None:
        super().__init__(dtype, seed, trainable)
        self.epsilon = check_positive(epsilon, "epsilon")
        self.center, self.scale = check_bool(center, "center"), check_bool(scale, "scale")
        self._keep(beta_initializer=beta_initializer, gamma_initializer=gamma_initializer)
        self._keep(beta_regularizer=beta_regularizer, gamma_regularizer=gamma_regularizer)
        self._keep(beta_constraint=beta_constraint, gamma_constraint=gamma_constraint)
        self._check_axes()

    @property
    def draws(self) -> bool:
        return type(self).forward_batch is not LayerNormalization.forward_batch  # whatever that does in training

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        if self.scale:
            yield "gamma", (input_size,)
        if self.center:
            yield "beta", (input_size,)

    def output_size(self, input_size: Any) -> Any:
        return input_size

    def expected_shape(self, shape: Shape) -> str | None:
        return expected_vectors(shape, self.input_size)

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        x = batch.data
        if x.ndim not in (2, 3):
            raise ValueError(f"LayerNormalization: expected data of shape (N, F) or (N, T, F), got {x.shape}")
        self.build(x.shape[-1])
        valid, size = batch.valid, self.dtype.type(x.shape[-1])
        rows = valid_rows(x, valid, self.dtype)
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN in its own row
            centred = rows - row_sums(rows) / size
            variance = row_sums(centred * centred) / size
            inverse = 1 / np.sqrt(variance + self.dtype.type(self.epsilon))
            normal = centred * inverse
            parameters = self._built_parameters()
            gamma, beta = parameters.get("gamma"), parameters.get("beta")
            y = normal if gamma is None else normal * gamma
            y = y if beta is None else y + beta
        tape = _Tape(normal, inverse, gamma, x.shape, valid) if training else None
        y = y.copy() if y is normal and training else y
        return batch.with_data(from_valid_rows(y, x.shape[:-1], valid)), None, 0.0, tape

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, None, dict[str, Array]]:
        check_gradient(d_out, tape.shape)
        d = valid_rows(d_out, tape.valid, self.dtype)
        grads = {}
        if self.scale and need_grads:
            grads["gamma"] = column_sums(d * tape.normal)
        if self.center and need_grads:
            grads["beta"] = column_sums(d)
        if not need_dx:
            return None, None, grads
        d = d if tape.gamma is None else d * tape.gamma
        size = self.dtype.type(tape.shape[-1])
        dx = tape.inverse * (d - row_sums(d) / size - tape.normal * (row_sums(d * tape.normal) / size))
        return from_valid_rows(dx, tape.shape[:-1], tape.valid), None, grads
