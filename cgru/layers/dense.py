"""Dense: an affine map and an activation for every vector or step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from cgru import kernels
from cgru.checks import check_bool, check_int, check_name
from cgru.layers.affine import ACTIVATIONS, Affine
from cgru.layers.base import expected_vectors
from cgru.layers.rows import from_valid_rows, valid_rows
from cgru.sequences import Batch
from cgru.typing import (
    AnyArray,
    Array,
    BoolArray,
    ConstraintLike,
    DenseActivation,
    DType,
    InitializerLike,
    Key,
    RegularizerLike,
    Shape,
)


class _Tape(NamedTuple):
    handle: kernels.DenseHandle  # which has the kernel
    rows: Array  # (M, F), the inputs at the valid steps
    y: Array | None  # (M, K)
    leading: Shape  # (N,) or (N, T)
    valid: BoolArray | None
    d_penalty: Array | None = None  # gradient of the activity's penalty, of the shape of the outputs


class Dense(Affine):
    """y = activation(x W + b) for every vector, or every valid step, of the batch.

    Parameters
    ----------
    units : int
        Number of output features.
    activation : {"linear", "relu", "sigmoid", "softmax", "tanh"}
        Applied to the output; None is "linear". softmax is over the features.
    use_bias : bool
        Whether there is a bias b.
    kernel_initializer, bias_initializer : str, Initializer or callable
        From `cgru.initializers`.
    kernel_regularizer, bias_regularizer, activity_regularizer : str or Regularizer, optional
        From `cgru.regularizers`: what kernel, bias and outputs add to the loss of a model.
    kernel_constraint, bias_constraint : str, Constraint or callable, optional
        From `cgru.constraints`: what is done with kernel and bias after each update.
    trainable : bool
        Whether `Sequential.fit` changes the parameters; the one option that may be set later.
    dtype : {"float32", "float64"}
        Type of parameters and results.
    seed : int, optional
        Seed of the initial parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, out of range, or not among the names above.

    Notes
    -----
    Parameters: `kernel` (F, units) and `bias` (units,).

    Examples
    --------
    >>> import cgru
    >>> layer = cgru.Dense(3, activation="softmax", seed=0)
    >>> layer.build(5)
    >>> {name: array.shape for name, array in layer.parameters.items()}
    {'kernel': (5, 3), 'bias': (3,)}
    """

    dtype: np.dtype[Any]
    _options: tuple[str, ...] = (
        *("units", "activation", "use_bias", "kernel_initializer", "bias_initializer"),
        *("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint"),
    )

    def __init__(
        self,
        units: SupportsIndex,
        activation: DenseActivation | None = "linear",
        *,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        trainable: bool = True,
        dtype: DType = "float32",
        seed: SupportsIndex | None = None,
    ) -> None:
        super().__init__(dtype, seed, trainable)
        self.units = check_int(units, "units", 1)
        if isinstance(activation, (int, np.integer)) and not isinstance(activation, bool):
            raise TypeError(
                f"activation: expected a name, got {activation}: "
                f"PyTorch's Linear({self.units}, {activation}) is Dense({activation}) here"
            )
        self.activation = check_name("linear" if activation is None else activation, "activation", ACTIVATIONS)
        self.use_bias = check_bool(use_bias, "use_bias")
        self._keep(kernel_initializer=kernel_initializer, bias_initializer=bias_initializer)
        self._keep(kernel_regularizer=kernel_regularizer, bias_regularizer=bias_regularizer)
        self._keep(activity_regularizer=activity_regularizer)
        self._keep(kernel_constraint=kernel_constraint, bias_constraint=bias_constraint)
        self._check_axes()

    @property
    def draws(self) -> bool:
        return type(self).forward_batch is not Dense.forward_batch  # whatever that does in training

    def output_size(self, input_size: Any) -> int:
        return self.units

    def expected_shape(self, shape: Shape) -> str | None:
        return expected_vectors(shape, self.input_size)

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        yield "kernel", (input_size, self.units)
        if self.use_bias:
            yield "bias", (self.units,)

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        rows, handle = self._rows(batch, training)
        y = np.empty((len(rows), self.units), self.dtype)
        handle.apply(rows, y, kernels.get_num_threads())
        leading, valid = batch.data.shape[:-1], batch.valid
        out = from_valid_rows(y, leading, valid)
        penalty, d_penalty = self._activity(out, valid, training)
        return batch.with_data(out), None, penalty, _Tape(handle, rows, y, leading, valid, d_penalty)

    def forward_logits(self, batch: Batch, logits: Array) -> tuple[Array, Any]:
        """The training pass up to the bias, for a loss that does the rest itself.

        Parameters
        ----------
        batch : Batch
        logits : ndarray of shape (M, units)
            Where x W of the M valid steps goes.

        Returns
        -------
        bias : ndarray of shape (units,)
        tape : object
            For `backward_logits`.
        """
        rows, handle = self._rows(batch, training=True)
        handle.apply(rows, logits, kernels.get_num_threads(), raw=True)
        return handle.bias, _Tape(handle, rows, None, batch.data.shape[:-1], batch.valid)

    def _rows(self, batch: Batch, training: bool) -> tuple[Array, kernels.DenseHandle]:
        x = batch.data
        if x.ndim not in (2, 3):
            raise ValueError(f"Dense: expected data of shape (N, F) or (N, T, F), got {x.shape}")
        self.build(x.shape[-1])
        return valid_rows(x, batch.valid, self.dtype), self._handle_for(training)

    def step_rows(self, x: AnyArray) -> Array:
        y = np.empty((len(x), self.units), self.dtype)
        if self._parameters is not None and self._ready().apply(x, y, kernels.get_num_threads()):
            return y
        return super().step_rows(x)

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, None, dict[str, Array]]:
        dx, grads = self.backward_logits(self._before_activation(d_out, tape), tape, need_dx, need_grads)
        return dx, None, grads

    def backward_logits(
        self, d: Array, tape: Any, need_dx: bool = True, need_grads: bool = True
    ) -> tuple[Array | None, dict[str, Array]]:
        """Return (gradient of the inputs or None, gradients of the parameters) from `d` (M, units), the gradient of
        x W + b at the valid steps."""
        kernel, grads = tape.handle.kernel, {}
        make = np.empty if len(d) else np.zeros
        if need_grads:
            grads["kernel"] = make(kernel.shape, self.dtype)
            if self.use_bias:
                grads["bias"] = make(self.units, self.dtype)
        route, threads = tape.handle.route, kernels.get_num_threads()
        if len(d) and need_grads:  # (F, K) = (F, M)(M, K)
            kernels.multiply(tape.rows.T, d, grads["kernel"], grads.get("bias"), False, route, threads)
        if not need_dx:
            return None, grads
        dx = np.empty_like(tape.rows)
        if len(d):  # (M, F) = (M, K)(K, F)
            kernels.multiply(d, kernel.T, dx, None, False, route, threads)
        return from_valid_rows(dx, tape.leading, tape.valid), grads
