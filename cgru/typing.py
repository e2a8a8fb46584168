"""The types that annotations use: arrays in and out, and the names that arguments take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsFloat, SupportsIndex, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from cgru import masks

# -- arrays

Array: TypeAlias = NDArray[np.floating[Any]]  # float32 or float64
IntArray: TypeAlias = NDArray[np.integer[Any]]
BoolArray: TypeAlias = NDArray[np.bool_]
AnyArray: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[Any, ...]  # of sizes; names such as "N" may stand for them

# What a call returns depends on how the layer was made. A plain union would refuse every use that one of the types does
# not have; with Any beside it `y = layer(x)` and `y, h = layer(x)` both pass, and what no array has does not.
ArrayOrPair: TypeAlias = Array | Any  # (y, h) with return_state
ArrayOrList: TypeAlias = Array | Any  # a list for a ragged list of sequences
# Which class comes back is said by a file, or by what is converted; who knows it annotates it.
LayerOrModel: TypeAlias = Any

# -- arguments

DType: TypeAlias = Literal["float32", "float64"] | np.dtype[Any] | type[np.floating[Any]] | type[float]
Path: TypeAlias = str | os.PathLike[str]
Activation: TypeAlias = Literal["sigmoid", "tanh", "relu", "linear", "hard_sigmoid", "hard_sigmoid_keras2"]
DenseActivation: TypeAlias = Literal["linear", "relu", "sigmoid", "softmax", "tanh"]
AttentionScore: TypeAlias = Literal["dot", "general", "additive"]
Recompute: TypeAlias = SupportsIndex | Literal["auto"] | None
SmallKind: TypeAlias = Literal["float16", "bfloat16", "int8"]
MergeMode: TypeAlias = Literal["concat", "sum", "mul", "ave"]
InitializerName: TypeAlias = Literal[
    "constant", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "identity", "identity_per_gate",
    "lecun_normal", "lecun_uniform", "normal", "ones", "orthogonal", "orthogonal_per_gate", "pytorch", "random_normal",
    "random_uniform", "truncated_normal", "uniform", "variance_scaling", "xavier_normal", "xavier_uniform", "zeros",
]  # fmt: skip
RegularizerName: TypeAlias = Literal["l1", "l1_l2", "l2"]
ConstraintName: TypeAlias = Literal["max_norm", "min_max_norm", "non_neg", "unit_norm"]
Padding: TypeAlias = Literal["valid", "same", "causal"]
OptimizerName: TypeAlias = Literal["adam", "adamw", "rmsprop", "sgd"]
LearningRate: TypeAlias = float | Callable[[int], float]  # of the number of updates made before
LossName: TypeAlias = Literal[
    "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy", "mean_squared_error", "mse",
    "mean_absolute_error", "mae", "huber",
]  # fmt: skip
MetricName: TypeAlias = Literal["accuracy", "macro_f1", "mse", "mae", "perplexity", "auc"]
MetricFunction: TypeAlias = Callable[[Any, Any], SupportsFloat]  # of labels and outputs that count
ClassWeight: TypeAlias = Mapping[int, float] | Literal["balanced"]
AllReduce: TypeAlias = Callable[[Any], Any]  # sums a flat array in place over processes
BackendName: TypeAlias = Literal["native", "blas"]
BatchSource: TypeAlias = Iterable[Any] | Callable[[], Iterable[Any]]  # starts anew whenever it is asked
Validation: TypeAlias = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, dict[str, Any]]

# Options that are a name, an object with settings, the dict that stands for one in a configuration, or a function.
Initializer: TypeAlias = Callable[[Shape, Any, np.random.Generator], Array]  # of shape, dtype and generator
InitializerLike: TypeAlias = InitializerName | Mapping[str, Any] | Initializer
ConstraintLike: TypeAlias = ConstraintName | Mapping[str, Any] | Callable[[Array], Array] | None


class Penalty(Protocol):
    """What a regularizer is."""

    def value(self, array: Array) -> float: ...

    def gradient(self, array: Array) -> Array: ...


RegularizerLike: TypeAlias = RegularizerName | Mapping[str, Any] | Penalty | None

# -- inside of layers and models

Key: TypeAlias = "masks.Key | None"
States: TypeAlias = Sequence[Array | None]  # one for each layer, None from one that has no state
Parameter: TypeAlias = tuple[int, str]  # layer index, name

# -- converters

Weights: TypeAlias = Mapping[str, Any]  # names to arrays of any framework, nested where it nests them
OneOrMany: TypeAlias = Weights | Sequence[Weights]
DictOrList: TypeAlias = dict[str, Any] | Any  # of one cell or layer by itself, of several a list: see ArrayOrPair


class CommonOptions(TypedDict, total=False):
    """Options of `GRU` that no convention of weights says anything about."""

    dropout: float
    recurrent_dropout: float
    layer_dropout: float
    zoneout: float
    go_backwards: bool
    reverse: bool
    stateful: bool
    merge_mode: MergeMode
    time_major: bool
    zero_output_for_mask: bool
    kernel_regularizer: RegularizerLike
    recurrent_regularizer: RegularizerLike
    bias_regularizer: RegularizerLike
    activity_regularizer: RegularizerLike
    kernel_constraint: ConstraintLike
    recurrent_constraint: ConstraintLike
    bias_constraint: ConstraintLike
    trainable: bool
    seed: SupportsIndex | None


class ReturnOptions(CommonOptions, total=False):
    """And what a call returns, where a converter has no arguments for that."""

    return_sequences: bool
    return_state: bool


class CellOptions(ReturnOptions, total=False):
    """And the type, which is otherwise that of the weights."""

    dtype: DType


class GateOptions(CellOptions, total=False):
    """And the activations, where the weights need not say them."""

    activation: Activation
    recurrent_activation: Activation


class StoredOptions(CommonOptions, total=False):
    """What stands above what is stored with the weights."""

    activation: Activation
    recurrent_activation: Activation
    dtype: DType
