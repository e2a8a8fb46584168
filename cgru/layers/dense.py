"""Dense: an affine map and an activation for every vector or step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import numpy as np

from cgru import initializers, kernels
from cgru.checks import check_bool, check_int, check_name
from cgru.layers.base import Layer, check_gradient, from_valid_rows, valid_rows
from cgru.sequences import Batch
from cgru.typing import AnyArray, Array, DenseActivation, DType, Initializer, InitializerName, Key, Shape

# -- activations of Dense: in place on rows (M, K), and the gradient from the activated rows


def _softmax(y: Array) -> None:
    with np.errstate(invalid="ignore"):  # inf - inf: that row becomes NaN, the others do not
        y -= y.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)


def _sigmoid(y: Array) -> None:
    import scipy.special  # here, because few need it and it is most of an import of cgru

    scipy.special.expit(y, out=y)


_ACTIVATIONS: dict[str, tuple[Callable[[Array], Any], Callable[[Array, Array], Array]]] = {
    "linear": (lambda y: None, lambda d, y: d),
    "relu": (lambda y: np.maximum(y, 0, out=y), lambda d, y: d * (y > 0)),
    "sigmoid": (_sigmoid, lambda d, y: d * (y * (1 - y))),
    "softmax": (_softmax, lambda d, y: y * (d - np.einsum("mk,mk->m", d, y)[:, None])),
    "tanh": (lambda y: np.tanh(y, out=y), lambda d, y: d * (1 - y * y)),
}


class Dense(Layer):
    """y = activation(x W + b) for every vector, or every valid step, of the batch.

    Parameters
    ----------
    units : int
        Number of output features.
    activation : {"linear", "relu", "sigmoid", "softmax", "tanh"}
        Applied to the output; None is "linear". softmax is over the features.
    use_bias : bool
        Whether there is a bias b.
    kernel_initializer, bias_initializer : str
        Names from `cgru.initializers`.
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
    _options = ("units", "activation", "use_bias", "kernel_initializer", "bias_initializer")

    def __init__(
        self,
        units: SupportsIndex,
        activation: DenseActivation | None = "linear",
        *,
        use_bias: bool = True,
        kernel_initializer: InitializerName = "glorot_uniform",
        bias_initializer: InitializerName = "zeros",
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
        self.activation = check_name("linear" if activation is None else activation, "activation", _ACTIVATIONS)
        self.use_bias = check_bool(use_bias, "use_bias")
        self.kernel_initializer = initializers.check(kernel_initializer, "kernel_initializer")
        self.bias_initializer = initializers.check(bias_initializer, "bias_initializer")

    def output_size(self, input_size: Any) -> int:
        return self.units

    def expected_shape(self, shape: Shape) -> str | None:
        if len(shape) in (2, 3) and shape[-1] == (self.input_size if self.built else max(1, shape[-1])):
            return None
        F = self.input_size or ("F >= 1" if len(shape) in (2, 3) else "F")
        return f"(N, {F}) or (N, T, {F})"

    def parameter_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape]]:
        yield "kernel", (input_size, self.units)
        if self.use_bias:
            yield "bias", (self.units,)

    def _initial(self, name: str) -> Initializer:
        return initializers.get(self.bias_initializer if name == "bias" else self.kernel_initializer)

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False
    ) -> tuple[Batch, None, float, Any]:
        x = batch.data
        if x.ndim not in (2, 3):
            raise ValueError(f"Dense: expected data of shape (N, F) or (N, T, F), got {x.shape}")
        self.build(x.shape[-1])
        parameters = self._built_parameters()
        valid = batch.valid
        rows = valid_rows(x, valid, self.dtype)
        y = kernels.gemm(rows, parameters["kernel"])  # (M, K) = (M, F)(F, K)
        if self.use_bias:
            y += parameters["bias"]
        _ACTIVATIONS[self.activation][0](y)
        out = batch.with_data(from_valid_rows(y, x.shape[:-1], valid))
        return out, None, 0.0, (rows, y, x.shape[:-1], valid)

    def step_rows(self, x: AnyArray) -> Array:
        parameters = self._parameters
        if parameters is None or x.ndim != 2 or x.dtype != self.dtype or not x.flags.c_contiguous:
            return super().step_rows(x)
        y = kernels.gemm(x, parameters["kernel"])  # (N, K) = (N, F)(F, K)
        if self.use_bias:
            y += parameters["bias"]
        _ACTIVATIONS[self.activation][0](y)
        return y

    def backward_batch(
        self, d_out: Array, d_state: Array | None, tape: Any, need_dx: bool = True, at_logits: bool = False
    ) -> tuple[Array | None, None, dict[str, Array]]:
        """As `Layer.backward_batch`; with `at_logits`, `d_out` is the gradient at the input of the activation."""
        x, y, leading, valid = tape
        check_gradient(d_out, (*leading, self.units))
        d = valid_rows(d_out, valid, self.dtype)
        if not at_logits:
            d = _ACTIVATIONS[self.activation][1](d, y)
        grads = {"kernel": kernels.gemm(x, d, transpose_a=True)}  # (F, K) = (F, M)(M, K)
        if self.use_bias:
            grads["bias"] = d.sum(axis=0)
        if not need_dx:
            return None, None, grads
        dx = kernels.gemm(d, self._built_parameters()["kernel"], transpose_b=True)  # (M, F) = (M, K)(K, F)
        return from_valid_rows(dx, leading, valid), None, grads
