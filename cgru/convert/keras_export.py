"""Keras, the way out: the list for set_weights(), and models."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgru import constraints, regularizers
from cgru.convert.cells import (
    built_layers,
    cells_of,
    foreign,
    refuse,
    require_activations,
    require_flippable,
    require_no_initial_state,
    require_reset,
)
from cgru.convert.keras import ORDER
from cgru.layers import (
    GRU,
    Conv1D,
    Dense,
    Embedding,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    Layer,
    LayerNormalization,
    Masking,
)
from cgru.models import Sequential
from cgru.typing import Array

_MORE = (Conv1D, LayerNormalization, GlobalMaxPooling1D, GlobalAveragePooling1D, Masking)


def to_keras(layer: Layer | Sequential, *, cudnn: bool = False, without_initial_state: bool = False) -> list[Array]:
    """The list of arrays for set_weights() of Keras.

    No biases are summed: `from_keras` gives back the same bits.

    Parameters
    ----------
    layer : GRU, Dense, Embedding, Conv1D, LayerNormalization, or Sequential
        Of these, Dropout, Masking and global pooling.
    cudnn : bool
        Whether it is for the CuDNNGRU of Keras 2.
    without_initial_state : bool
        Whether a learned initial state may be left out, because it will be given to Keras at each call.

    Returns
    -------
    list of ndarray
        kernel, recurrent_kernel and bias of each cell, in the order of the state: for a GRU, a Bidirectional, an RNN of
        several GRUCells, or a model of Bidirectionals; kernel and bias of a Dense, embeddings of an Embedding. The list
        does not hold settings: make the layer of Keras with the same units, activations, reset_after, use_bias,
        merge_mode and go_backwards, or let `to_keras_model` do it.

    Raises
    ------
    TypeError, ValueError
        If Keras has no such layer: gates other than sigmoid and hard sigmoids, reverse=True, a learned initial state;
        for cudnn, all but reset_after=True, tanh and sigmoid.

    Examples
    --------
    >>> import cgru
    >>> layer = cgru.GRU(2, input_size=3)
    >>> [array.shape for array in cgru.convert.to_keras(layer)]
    [(3, 6), (2, 6), (6,)]
    """
    weights = []
    for part in built_layers(layer, _MORE):
        if isinstance(part, GRU):
            weights += _gru_weights(part, cudnn, without_initial_state)
        else:
            weights += part.get_weights()  # the forms of Keras
    return weights


def _gru_weights(part, cudnn, without_initial_state):
    cells, weights = cells_of(part), []
    require_flippable(part.recurrent_activation, "Keras")
    if part.reverse:
        refuse("Keras", "reverse=True", "its go_backwards gives outputs in processing order",
               "A layer with go_backwards=True and the same weights can be converted")  # fmt: skip
    if cudnn:
        require_reset(part.reset_after, True, "CuDNNGRU", "GRU has both")
        require_activations(part, "tanh", "sigmoid", "CuDNNGRU")
    if not without_initial_state:
        require_no_initial_state(
            cells, "Keras", "With without_initial_state=True it is left out, for you to give at each call"
        )
    for cell in cells:
        arrays = [foreign(array, ORDER) for array in cell[:3] if array is not None]
        if cudnn:
            bias = arrays[2] if len(arrays) == 3 else np.zeros((2, 3 * cell.units), part.dtype)
            arrays = _to_cudnn(*arrays[:2], bias)
        weights += arrays
    return weights


def _to_cudnn(kernel, recurrent_kernel, bias):
    D, H = len(kernel), len(recurrent_kernel)
    kernel = np.concatenate([gate.T.reshape(D, H) for gate in np.split(kernel, 3, axis=1)], axis=1)
    recurrent_kernel = np.concatenate([gate.T for gate in np.split(recurrent_kernel, 3, axis=1)], axis=1)
    return kernel, recurrent_kernel, bias.reshape(6 * H)


def to_keras_model(layer: Layer | Sequential) -> Any:
    """A keras.Sequential that computes what the layer or model does, for batches and sequences of any size.

    Parameters
    ----------
    layer : GRU, Dense, Embedding, Conv1D, LayerNormalization, or Sequential
        Of these, Dropout, Masking and global pooling.
        Regularizers and constraints go with them, initializers do not: the weights are there.

    Returns
    -------
    keras.Sequential
        Several layers of a GRU become as many of Keras. Keras has no lengths: it takes a mask, as a call of its layers
        has it. Without a GRU and an Embedding it takes vectors.

    Raises
    ------
    ImportError
        If Keras 3 is not installed.
    TypeError, ValueError
        As for `to_keras`; and for "hard_sigmoid_keras2", which Keras 3 does not have, and for stateful and time-major
        layers.
    """
    weights = to_keras(layer)
    try:
        import keras
    except ImportError:
        raise ImportError("to_keras_model needs Keras 3: pip install keras") from None
    parts = built_layers(layer, _MORE)
    masked = False
    for part in parts:
        if isinstance(part, GRU):
            _require_keras_3(part, alone=not isinstance(layer, Sequential))
        if masked and isinstance(part, (Conv1D, GlobalMaxPooling1D)):
            refuse("Keras", f"{type(part).__name__} behind a mask", "it reads there what is masked",
                   "Without Masking and mask_zero it can be converted")  # fmt: skip
        masked |= isinstance(part, Masking) or (isinstance(part, Embedding) and part.mask_zero)
    sized = [part for part in parts if part.input_size is not None]
    if any(isinstance(part, Embedding) for part in sized[:1]):
        layers = [keras.Input((None,), dtype="int64")]
    else:
        steps = (None,) if any(part._takes_sequences for part in parts) else ()
        layers = [keras.Input((*steps, sized[0].input_size), dtype=sized[0].dtype.name)]
    for part in parts:
        layers += _keras_layers(keras, part, sized[0].dtype.name)
    model = keras.Sequential(layers)
    model.set_weights(weights)
    return model


def _require_keras_3(part, alone):
    for name in ("activation", "recurrent_activation"):
        if getattr(part, name) == "hard_sigmoid_keras2":
            refuse("Keras 3", f"{name}='hard_sigmoid_keras2'", "it has the other hard_sigmoid", "Keras 2 has it")
    if part.stateful:
        refuse("Keras", "stateful=True", "its size of a batch is fixed", "With stateful=False it can be converted")
    if alone and part.time_major:
        refuse("Keras 3", "time_major=True", "it takes (N, T, D)", "to_keras gives the weights")


def _held(keras, part):
    """The regularizers and constraints of a layer, as Keras' objects."""
    held = {}
    for option in part._options:
        kind = {"regularizer": regularizers, "constraint": constraints}.get(option.rpartition("_")[2])
        value = None if kind is None else kind.get(getattr(part, option))
        if value is None:
            continue
        name = type(value).__name__
        if not isinstance(kind.config_of(value), dict):
            reason, module = "it has no such object", kind.__name__
            refuse("Keras", f"{option}={value!r}", reason, f"Those of {module} can be converted")
        if name == "NonNeg" and isinstance(part, GRU):
            refuse("Keras", f"{option}={value!r} of a GRU", "the signs of z differ there", "Norms can be converted")
        if option == "activity_regularizer" and isinstance(part, GRU) and part.bidirectional:
            reason = "it is of each direction there"
            refuse("Keras", f"{option}={value!r} of two directions", reason, "Without it the layer can be converted")
        held[option] = getattr(getattr(keras, kind.__name__[5:]), name)(**value.get_config())
    return held


def _keras_layers(keras, part, dtype):
    """The layers of Keras, without weights, that a layer becomes; `dtype` is for those that have none here."""
    own = {"dtype": dtype if part.dtype is None else part.dtype.name, **_held(keras, part)}
    if isinstance(part, Embedding):
        return [keras.layers.Embedding(part.input_dim, part.output_dim, mask_zero=part.mask_zero, **own)]
    if isinstance(part, Dense):
        return [keras.layers.Dense(part.units, part.activation, part.use_bias, **own)]
    if isinstance(part, Conv1D):
        names = ("strides", "padding", "dilation_rate", "activation", "use_bias")
        options = {name: getattr(part, name) for name in names}
        return [keras.layers.Conv1D(part.filters, part.kernel_size, **options, **own)]
    if isinstance(part, LayerNormalization):
        options = {name: getattr(part, name) for name in ("epsilon", "center", "scale")}
        return [keras.layers.LayerNormalization(**options, **own)]
    if isinstance(part, Masking):
        return [keras.layers.Masking(part.mask_value, **own)]
    if isinstance(part, (GlobalMaxPooling1D, GlobalAveragePooling1D)):
        return [getattr(keras.layers, type(part).__name__)(**own)]
    if not isinstance(part, GRU):
        return [keras.layers.Dropout(part.rate, **own)]
    made = []
    activity = own.pop("activity_regularizer", None)
    for i in range(part.num_layers):
        layer = keras.layers.GRU(
            part.units,
            activation=part.activation,
            recurrent_activation=part.recurrent_activation,
            use_bias=part.use_bias,
            reset_after=part.reset_after,
            return_sequences=part.return_sequences or i < part.num_layers - 1,
            go_backwards=part.go_backwards and i == 0,  # a stack is turned once
            zero_output_for_mask=part.zero_output_for_mask,
            activity_regularizer=activity if i == part.num_layers - 1 else None,
            **own,
        )
        if part.bidirectional:
            layer = keras.layers.Bidirectional(layer, merge_mode=part.merge_mode, dtype=part.dtype.name)
        made.append(layer)
    return made
