"""Keras: Dense, Embedding, and Sequential of layers that there are here.

The classes: keras/src/layers/core and keras/src/layers/activations.
"""

from __future__ import annotations

from typing import Any

from cgru.convert.arrays import Arrays
from cgru.convert.cells import activate, dense_of, embedding_of, refuse
from cgru.convert.keras_config import object_in
from cgru.convert.keras_layouts import LAYERS, POOLING, SAME, Part, unwrapped
from cgru.layers import (
    Conv1D,
    Dense,
    Dropout,
    Embedding,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    LayerNormalization,
    Masking,
)
from cgru.models import Sequential
from cgru.reading import short
from cgru.typing import DenseActivation

_ACTIVATIONS = ("linear", "relu", "sigmoid", "softmax", "tanh")
_HAVE = (
    "Embedding, Masking, GRU, Conv1D, LayerNormalization, GlobalMaxPooling1D, GlobalAveragePooling1D, Dense, Dropout "
    "and activations after a Dense can be converted"
)
_NOT_PLAIN = {"lora_enabled": "LoRA", "quantization_mode": "quantization"}


def from_keras_dense(weights: Any, *, activation: DenseActivation = "linear") -> Dense:
    """A Dense layer of Keras' Dense.

    Parameters
    ----------
    weights : list of arrays, or keras.layers.Dense
        What get_weights() returns: kernel (F, units) and, if there is one, bias (units,).
    activation : str
        Of plain arrays, which do not tell; one of `cgru.Dense`.

    Returns
    -------
    Dense

    Raises
    ------
    TypeError, ValueError
        If an array is missing or misshapen, or the activation is not known; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.convert.from_keras_dense([np.ones((3, 2)), np.ones(2)], activation="relu")
    >>> layer.units, layer.input_size, layer.use_bias
    (2, 3, True)
    """
    if hasattr(weights, "get_config"):
        return layer_of(part_of(weights, "Dense"))
    return _dense(_listed(weights, ("kernel", "bias")), len(weights) > 1, activation)


def from_keras_embedding(weights: Any, *, without_masks: bool = False) -> Embedding:
    """An Embedding of Keras' Embedding.

    Parameters
    ----------
    weights : list of arrays, or keras.layers.Embedding
        What get_weights() returns: embeddings (input_dim, output_dim).
    without_masks : bool
        Whether mask_zero=True is left out, because calls give ``mask=ids != 0``.

    Returns
    -------
    Embedding

    Raises
    ------
    TypeError, ValueError
        If the array is missing or misshapen.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.convert.from_keras_embedding([np.ones((7, 3))])
    >>> layer.input_dim, layer.output_dim
    (7, 3)
    """
    if hasattr(weights, "get_config"):
        return layer_of(part_of(weights, "Embedding"), without_masks)
    return _embedding(_listed(weights, ("embeddings",)))


def _listed(weights, roles):
    if not isinstance(weights, (list, tuple)):
        raise TypeError(f"weights: expected a list of arrays or a layer of Keras, got {type(weights).__name__}")
    if not 1 <= len(weights) <= len(roles):
        raise ValueError(f"weights: expected {' and '.join(roles)}, got {len(weights)} arrays")
    return [(f"weights[{i}] ({role})", array) for i, (role, array) in enumerate(zip(roles, weights, strict=False))]


def _dense(named, use_bias, activation):
    arrays = Arrays(dict(named), "weights")
    names = [name for name, _ in named] + ["kernel", "bias"][len(named) :]
    kernel = arrays.take(names[0], "F U")
    bias = arrays.take(names[1], "U") if use_bias else None
    arrays.finish()
    return dense_of(kernel, bias, activation)


def _embedding(named, mask_zero=False):
    arrays = Arrays(dict(named), "weights")
    table = arrays.take(named[0][0] if named else "embeddings", "V F")
    arrays.finish()
    return embedding_of(table, mask_zero)


def _convolution(part):
    arrays, config = Arrays(dict(part.arrays), "weights"), part.config
    names = [name for name, _ in part.arrays] + ["kernel", "bias"][len(part.arrays) :]
    if config.get("data_format") not in (None, "channels_last") or config.get("groups", 1) != 1:
        got = f"data_format={short(config.get('data_format'))!r}, groups={short(config.get('groups'))}"
        refuse(part.name, got, "features come last here, in one group", _HAVE)
    kernel = arrays.take(names[0], "S F U")
    use_bias = config.get("use_bias", True)
    bias = [arrays.take(names[1], "U")] if use_bias else []
    arrays.finish()
    try:
        layer = Conv1D(
            kernel.shape[2],
            kernel.shape[0],
            strides=config.get("strides", 1),
            padding=config.get("padding", "valid"),
            dilation_rate=config.get("dilation_rate", 1),
            activation=_activation(part, config.get("activation")),
            use_bias=bool(bias),
            dtype=kernel.dtype,
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{part.name}: {error}") from None
    layer.build_from(kernel.shape[1], [kernel, *bias])
    return layer


def _normalization(part):
    arrays, config = Arrays(dict(part.arrays), "weights"), part.config
    axis = config.get("axis", -1)
    if axis not in (-1, [-1], 2, [2]) or config.get("rms_scaling"):
        got = "rms_scaling" if config.get("rms_scaling") else f"axis={short(axis)}"
        refuse(part.name, got, "it is over the features here, the last axis, less their mean", _HAVE)
    scale, center = (bool(config.get(name, True)) for name in ("scale", "center"))
    taken = [arrays.take(name, "F") for name, _ in part.arrays[: scale + center]]
    arrays.finish()
    if len(taken) != scale + center:
        raise ValueError(f"{part.name}: expected {scale + center} arrays, got {len(taken)}")
    layer = LayerNormalization(epsilon=config.get("epsilon", 1e-3), scale=scale, center=center, dtype=taken[0].dtype)
    layer.build_from(len(taken[0]), taken)
    return layer


# -- layers of models and files


def part_of(layer, class_name=None):
    """The `Part` of a layer; of one that somebody derived, whose call may be another, with no class of Keras.

    Raises
    ------
    TypeError, ValueError
        If it is not of the class that is expected, or has no weights yet.
    """
    kind = type(layer)
    root = kind.__module__.partition(".")[0]
    is_kerass = root in ("keras", "tf_keras", "tensorflow")
    if class_name is not None and not (is_kerass and kind.__name__ == class_name):
        raise TypeError(f"weights: expected a {class_name} of Keras, got {kind.__name__}")
    if not is_kerass:
        return Part(layer.name, f"{kind.__module__}.{kind.__name__}", {}, None, [])
    for attribute, what in _NOT_PLAIN.items():
        if getattr(layer, attribute, None):
            reason = "its arrays are not the ones that it computes with"
            refuse(layer.name, what, reason, "A layer without it can be converted")
    own, config, _ = unwrapped(kind.__name__, layer.get_config())
    arrays = layer.get_weights() if own in LAYERS else []
    if own in LAYERS and not arrays:
        raise ValueError(f"{layer.name}: expected a layer that is built, got one without weights")
    roles = {"Embedding": ("embeddings",), "LayerNormalization": ("gamma", "beta")}.get(own, ("kernel", "bias"))
    roles = (*roles, *["another array"] * len(arrays))
    named = [(f"{role} of {layer.name}", array) for role, array in zip(roles, arrays, strict=False)]
    return Part(layer.name, own, config, None, named)


def whole(parts, convert_gru, return_sequences, without_masks):
    """The Sequential of the layers of one of Keras.

    Parameters
    ----------
    parts : list of Part
    convert_gru : function
        Gives the layer of a `Stored` and options.
    return_sequences : bool or None
        That of the last GRU; None is what Keras' has.
    without_masks : bool
    """
    layers, recurrent = [], [part for part in parts if part.recurrent is not None]
    masked = None  # which layer made a mask
    for part in parts:
        if masked is not None and part.class_name in ("Conv1D", "GlobalMaxPooling1D"):
            refuse(part.name, f"{part.class_name} behind the mask of {masked}", "it reads what is masked in Keras",
                   "With without_masks=True it can be converted: give each call mask=")  # fmt: skip
        if not without_masks and (part.class_name == "Masking" or part.config.get("mask_zero")):
            masked = part.name
        if part.recurrent is not None:
            wanted = _returns_sequences(part)
            if part is recurrent[-1] and return_sequences is not None:
                wanted = return_sequences
            if part.config.get("time_major"):
                refuse(part.name, "time_major=True", "a Sequential takes (N, T, D)", _advice(part))
            layer = convert_gru(part.recurrent, {"return_sequences": wanted})
            layers += layer.layers if isinstance(layer, Sequential) else [layer]
        elif part.class_name in LAYERS:
            layers.append(layer_of(part, without_masks))
        elif part.class_name == "Dropout":
            if part.config.get("noise_shape") is not None:
                refuse(part.name, "a noise_shape", "a mask has an element for each of the input's", _HAVE)
            layers.append(Dropout(_rate_of(part)))
        elif part.class_name == "Masking":
            if not without_masks:
                layers.append(Masking(part.config.get("mask_value", 0.0)))
        elif part.class_name in POOLING:
            if part.config.get("keepdims") or part.config.get("data_format") not in (None, "channels_last"):
                refuse(part.name, "keepdims or data_format", "the outputs are (N, F) here", _HAVE)
            layers.append((GlobalMaxPooling1D if part.class_name == POOLING[0] else GlobalAveragePooling1D)())
        elif part.class_name not in SAME:
            activation = _activation_of(part)
            if activation != "linear":
                activate(layers, activation, part.name, f"{part.class_name} {activation!r}", _HAVE)
    return Sequential(layers)


def layer_of(part, without_masks=False):
    """The layer of one that has arrays and is no GRU."""
    if part.class_name == "Dense":
        activation = _activation(part, part.config.get("activation"))
        return _dense(part.arrays, part.config.get("use_bias", True), activation)
    if part.class_name == "Conv1D":
        return _convolution(part)
    if part.class_name == "LayerNormalization":
        return _normalization(part)
    return _embedding(part.arrays, bool(part.config.get("mask_zero")) and not without_masks)


def _advice(part):
    return f"name={part.name!r} converts the layer alone"


def _returns_sequences(part):
    config = part.config
    if part.class_name == "Bidirectional":
        _, config = object_in(config, "layer", part.name)
    return bool(config.get("return_sequences", False))


def _rate_of(part):
    rate = part.config.get("rate")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(f"{part.name}: expected a rate of at least 0 and less than 1 in its config, got {short(rate)}")
    return rate


def _activation(part, name):
    name = "linear" if name is None else name
    if name not in _ACTIVATIONS:
        refuse(part.name, f"activation={short(repr(name))}", "there is no such activation here",
               f"{', '.join(_ACTIVATIONS)} can be converted")  # fmt: skip
    return name


def _activation_of(part):
    """The name of what a layer without arrays computes."""
    config = part.config
    if part.class_name == "Softmax":
        if config.get("axis", -1) != -1:
            refuse(part.name, f"axis={short(config['axis'])}", "softmax is over the last axis here", _HAVE)
        return "softmax"
    if part.class_name == "ReLU":
        if config.get("max_value") is not None or config.get("negative_slope") or config.get("threshold"):
            refuse(part.name, "a ReLU with options", "there is no such activation here", _HAVE)
        return "relu"
    return _activation(part, config.get("activation"))
