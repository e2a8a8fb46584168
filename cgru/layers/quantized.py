"""Layers with small weights, for inference alone: the GRU, Dense and Embedding that `cgru.quantize` makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import kernels, small
from cgru.checks import check_bool, check_dtype, check_name
from cgru.layers.affine import ACTIVATIONS
from cgru.layers.base import Layer
from cgru.layers.dense import Dense
from cgru.layers.embedding import Embedding
from cgru.layers.gru import GRU
from cgru.layers.stored import digest_of
from cgru.locks import owned
from cgru.sequences import Batch
from cgru.small import Codes, SmallMatrix, SmallTable
from cgru.typing import AnyArray, Array, IntArray, Key, Shape, SmallKind

if TYPE_CHECKING:
    from typing_extensions import Self

_NO_TRAINING = "quantised layers cannot be trained; train the float32 layer and quantise again"


class Quantized(Layer):
    """What layers with small weights have in common. It stands before the class of the float32 layer.

    Their parameters are a `SmallMatrix` or `SmallTable` each, biases and the like float32 arrays.
    """

    kind: SmallKind
    _options: tuple[str, ...] = ("kind",)
    _small: ClassVar[tuple[str, ...]]  # names of the parameters that are
    _scaled_axis: ClassVar[int] = 0  # along which the codes of "int8" share a scale
    _made_of: str | None = None  # the digest of the float32 parameters, where it is known

    def __init__(self, *args: Any, kind: SmallKind, **options: Any) -> None:
        if check_dtype(options.get("dtype", "float32")) != np.float32:
            raise ValueError(f"dtype: expected 'float32' beside small weights, got {options['dtype']!r}")
        self.kind = check_name(kind, "kind", small.KINDS)
        super().__init__(*args, **{"trainable": False} | options)

    @classmethod
    def of(cls, layer: Layer, kind: SmallKind, where: str = "") -> Self:
        """The layer with the weights of a float32 layer; `where` is what messages have before the parameters' names."""
        config = layer.get_config() | {"kind": kind, "trainable": False}
        made = cls.from_config(config)
        parameters = layer.parameters
        for name, array in parameters.items():
            small.check_finite(array, where + name)
        made._adopt(
            layer.input_size,
            {
                name: made._of_codes(small.checked_narrow(array, kind, where + name, cls._scaled_axis))
                if cls._is_small(name)
                else array.copy()
                for name, array in parameters.items()
            },
        )
        made._made_of = digest_of(parameters)
        return made

    # -- small parameters

    @classmethod
    def _is_small(cls, name: str) -> bool:
        return name.rpartition(".")[2] in cls._small

    def _of_codes(self, codes: Codes) -> Any:
        """What the layer keeps of a small parameter."""
        raise NotImplementedError

    def widened(self) -> Layer:
        """Return the float32 layer that computes with these weights: of 16 bits, the same results."""
        weights = self.get_weights()
        config = {name: value for name, value in self.get_config().items() if name not in ("kind", "trainable")}
        layer = next(plain for plain, own in QUANTIZED.items() if isinstance(self, own)).from_config(config)
        assert self.input_size is not None
        layer.build_from(self.input_size, weights)
        return layer

    @property
    def parameters(self) -> dict[str, Array]:
        """dict name -> read-only float32 array: the weights that the layer computes with, made anew at each access."""
        arrays = dict(zip(self._built_parameters(), self.get_weights(), strict=True))
        for array in arrays.values():
            array.flags.writeable = False
        return arrays

    def get_weights(self) -> list[Array]:
        """Return the float32 weights that the layer computes with, a list in the order of `parameters`."""
        parameters: dict[str, Any] = self._built_parameters()
        return [parameters[name].values() if self._is_small(name) else parameters[name].copy() for name in parameters]

    @property
    def _digests(self) -> list[str]:
        return super()._digests + ([] if self._made_of is None else [self._made_of])

    def stored_shapes(self, input_size: int | None) -> Iterator[tuple[str, Shape, str]]:
        for name, shape in self.parameter_shapes(input_size):
            yield name, shape, small.STORED[self.kind] if self._is_small(name) else "F32"
            if self._is_small(name) and self.kind == "int8":
                yield f"{name}_scale", (shape[1 - self._scaled_axis],), "F32"

    def stored(self) -> dict[str, AnyArray]:
        """Return the tensors of a file, dict name -> array: float16; of "bfloat16" the upper halves of float32, uint16;
        int8, and the scales beside it as "kernel_scale" and so on."""
        tensors: dict[str, AnyArray] = {}
        parameters: dict[str, Any] = self._built_parameters()
        for name, parameter in parameters.items():
            if not self._is_small(name):
                tensors[name] = parameter.copy()
                continue
            codes: Codes = parameter.codes()
            tensors[name] = codes.codes.copy()
            if codes.scales is not None:
                tensors[f"{name}_scale"] = codes.scales.copy()
        return tensors

    def adopt_stored(self, input_size: int | None, tensors: dict[str, AnyArray], where: str = "") -> None:
        parameters: dict[str, Any] = {}
        for name, _ in self.parameter_shapes(input_size):
            array = tensors[name]
            if not self._is_small(name):
                small.check_finite(array, where + name)
                parameters[name] = array
                continue
            if self.kind == "bfloat16":
                array = (array.view(np.uint32) >> 16).astype(np.uint16)
            codes = Codes(array, tensors.get(f"{name}_scale"))
            small.check_codes(codes, self.kind, where + name)
            parameters[name] = self._of_codes(codes)
        self._adopt(input_size, parameters)

    def _hand_over(self, other: Self) -> None:
        if other.kind != self.kind:
            raise ValueError(
                f"kind: expected {self.kind!r}, as the weights are, got {other.kind!r}: quantize the float32 layer"
            )
        other._adopt(self.input_size, self._built_parameters())
        other._made_of = self._made_of

    def __setstate__(self, state: dict[str, Any]) -> None:
        parameters = state["_parameters"]
        super().__setstate__(state | {"_parameters": None})
        self._parameters = parameters and {
            name: parameter if self._is_small(name) else owned(parameter) for name, parameter in parameters.items()
        }

    def _arguments(self) -> dict[str, Any]:
        return {name: value for name, value in super()._arguments().items() if name not in ("kind", "trainable")}

    def _shown(self) -> Iterator[str]:
        yield from super()._shown()
        yield f"kind={self.kind!r}"

    def _instead_of_change(self, name: str, value: str) -> str:
        if name == "kind":
            return f"cgru.quantize(layer, {value}) makes another of the float32 layer"
        return super()._instead_of_change(name, value)

    # -- no training

    def refuses_training(self) -> str:
        return _NO_TRAINING

    @property
    def draws(self) -> bool:
        return False  # in inference

    @property
    def trainable(self) -> bool:
        """False."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if check_bool(value, "trainable"):
            self._refuse("trainable")

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(f"{what}: {_NO_TRAINING} ({type(self).__name__})")

    def _create(self, input_size: int, rng: np.random.Generator) -> NoReturn:
        raise ValueError(
            f"{type(self).__name__} has no weights: cgru.quantize makes such a layer of a float32 layer that is built, "
            "and cgru.load of a file"
        )

    def build_from(self, input_size: SupportsIndex, weights: Sequence[ArrayLike]) -> NoReturn:
        """ValueError: `cgru.quantize` makes such a layer."""
        self._refuse("build_from")

    def _checked_weights(self, weights: Any, shapes: Any = None) -> NoReturn:
        self._refuse("set_weights")

    def set_weights(self, weights: Sequence[ArrayLike]) -> NoReturn:
        """ValueError: quantised layers cannot be trained."""
        self._refuse("set_weights")

    def update(self) -> NoReturn:
        """ValueError: quantised layers cannot be trained."""
        self._refuse("update")

    def forward_batch(
        self, batch: Batch, state: Array | None = None, key: Key = None, training: bool = False, recompute: Any = None
    ) -> tuple[Batch, Any, float, Any]:
        if training:
            self._refuse("training")
        return super().forward_batch(batch, state)

    def backward_batch(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("backward")

    def backward_logits(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("backward")

    def backward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """ValueError: quantised layers cannot be trained."""
        self._refuse("backward")


def _signature(layer: Callable[..., Any]) -> inspect.Signature:
    """That of the float32 layer's constructor, with the kind."""
    signature = inspect.signature(layer)
    kind = inspect.Parameter("kind", inspect.Parameter.KEYWORD_ONLY, annotation="SmallKind")
    return signature.replace(parameters=[*signature.parameters.values(), kind])


class QuantizedGRU(Quantized, GRU):
    """A `GRU` with small kernels, as `cgru.quantize` makes it: everything that a GRU does in inference.

    Parameters
    ----------
    units, activation, ...
        As of a `GRU`.
    kind : {"float16", "bfloat16", "int8"}
        Of the weights.
    """

    __signature__ = _signature(GRU)
    _small = ("kernel", "recurrent_kernel")

    def _of_codes(self, codes: Codes) -> SmallMatrix:
        return SmallMatrix(self.kind, codes, blocks=3)

    def _chance(self, key: Key) -> NoReturn:
        self._refuse("training")  # which alone leaves anything to chance


class QuantizedDense(Quantized, Dense):
    """A `Dense` with a small kernel, as `cgru.quantize` makes it.

    Parameters
    ----------
    units, activation, ...
        As of a `Dense`.
    kind : {"float16", "bfloat16", "int8"}
        Of the kernel.
    """

    __signature__ = _signature(Dense)
    _small = ("kernel",)

    def _of_codes(self, codes: Codes) -> SmallMatrix:
        return SmallMatrix(self.kind, codes)

    def _handle(self, packed: bool) -> kernels.DenseHandle:
        parameters: dict[str, Any] = self._built_parameters()
        kernel = parameters["kernel"]
        return kernels.DenseHandle(
            None, parameters.get("bias"), ACTIVATIONS[self.activation], True, kernels.get_num_threads(),
            route=kernel.route, blob=kernel.blob, shape=kernel.shape,
        )  # fmt: skip


class QuantizedEmbedding(Quantized, Embedding):
    """An `Embedding` with a small table, as `cgru.quantize` makes it.

    Parameters
    ----------
    input_dim, output_dim, ...
        As of an `Embedding`.
    kind : {"float16", "bfloat16", "int8"}
        Of the table; of "int8" each row has a scale.
    """

    __signature__ = _signature(Embedding)
    _small = ("embeddings",)
    _scaled_axis = 1

    def _of_codes(self, codes: Codes) -> SmallTable:
        return SmallTable(self.kind, codes)

    def _gather(self, ids: IntArray, places: IntArray | None, out: Array) -> None:
        out[slice(None) if places is None else places] = self._rows_of(ids)

    def _rows_of(self, ids: IntArray) -> Array:
        table: Any = self._built_parameters()["embeddings"]
        return table.take(ids)


QUANTIZED: dict[type[Layer], type[Quantized]] = {
    GRU: QuantizedGRU, Dense: QuantizedDense, Embedding: QuantizedEmbedding,
}  # fmt: skip
