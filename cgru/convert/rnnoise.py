"""RNNoise 0.1: 8-bit weights, 256 for 1; columns z, r, h; reset before; z weighs the old state.

    z = sigmoid(x W_z + h U_z + b_z)    r = sigmoid(x W_r + h U_r + b_r)
    n = g(x W_h + (r * h) U_h + b_h)    h' = z * h + (1 - z) * n

https://github.com/xiph/rnnoise/blob/v0.1.1/src/rnn.c. Its sigmoid and tanh are looked up in a table and interpolated:
outputs agree with it to about 1e-5 a step, not to rounding. Later versions of RNNoise have another form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from cgru.convert.arrays import Arrays
from cgru.convert.cells import Cell, one_or_list, refuse
from cgru.convert.conventions import CONVENTIONS, shared_words
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import DictOrList, DType, LayerOrModel, OneOrMany

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import ReturnOptions

_THEIRS = CONVENTIONS["rnnoise"]
_SCALE = 256
_ACTIVATIONS = ("tanh", "relu", "sigmoid")


@shared_words
def from_rnnoise(
    weights: OneOrMany,
    *,
    activation: Literal["tanh", "relu", "sigmoid"],
    dtype: DType = "float32",
    **options: Unpack[ReturnOptions],
) -> LayerOrModel:
    """A layer of a GRULayer of RNNoise 0.1.

    No biases are summed, and n / 256 is exact: `to_rnnoise` gives back the same integers.

    Parameters
    ----------
    weights : mapping, or list of mappings, one for each layer
        Integers from -128 to 127: "bias" (3H,), "input_weights" (D, 3H) and "recurrent_weights" (H, 3H); the two
        matrices may be flat, as they are in C.
    activation : {"tanh", "relu", "sigmoid"}
        g, as the C source of the GRULayer has it: ACTIVATION_RELU and so on.
    dtype : {"float32", "float64"}
    **options
        Of cgru.GRU.

    Returns
    -------
    %(layer)s

    Raises
    ------
    TypeError, ValueError
        If an array is missing, unknown, of the wrong size or not of 8-bit integers; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> weights = {"bias": np.full(6, 3), "input_weights": np.full(18, -5), "recurrent_weights": np.full(12, 127)}
    >>> layer = cgru.convert.from_rnnoise(weights, activation="relu")
    >>> layer.input_size, layer.units, layer.parameters["recurrent_kernel"][0, 0] * 256
    (3, 2, np.float32(127.0))
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of {list(_ACTIVATIONS)}, got {activation!r}")
    parts = weights if isinstance(weights, (list, tuple)) else [weights]
    return _THEIRS.layer_of(
        [_cell_of(part, dtype) for part in parts],
        activation=activation,
        **options,
    )


def _cell_of(weights, dtype):
    if not hasattr(weights, "keys"):
        raise TypeError(f"weights: expected a mapping of names to arrays, got {type(weights).__name__}")
    arrays = Arrays({name: _scaled(weights[name], name, dtype) for name in weights}, "weights")
    columns = arrays.take("bias", "3H").size
    for name in ("input_weights", "recurrent_weights"):
        if name in arrays and arrays.arrays[name].ndim == 1 and arrays.arrays[name].size % columns == 0:
            arrays.arrays[name] = arrays.arrays[name].reshape(-1, columns)
    parts = arrays.take("input_weights", "D 3H"), arrays.take("recurrent_weights", "H 3H"), arrays.take("bias", "3H")
    arrays.finish()
    return Cell(*(_THEIRS.canonical(part) for part in parts))


def _scaled(value, name, dtype):
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected 8-bit integers, got dtype {array.dtype}")
    if array.size and (array.min() < -128 or array.max() > 127):
        raise ValueError(f"{name}: expected integers from -128 to 127, got {array.min()} to {array.max()}")
    return array.astype(dtype) / np.dtype(dtype).type(_SCALE)


@shared_words
def to_rnnoise(layer: GRU | Sequential) -> DictOrList:
    """The weights of a GRULayer of RNNoise 0.1 for each cell of the layer, as int8.

    No biases are summed: `from_rnnoise` gives back the same bits. Biases are zero where the layer has none. What a
    GRULayer does not know is left out: direction, merge mode.

    Parameters
    ----------
    %(of)s

    Returns
    -------
    dict of str to ndarray, or list of dicts where there are several cells
        "bias" (3H,), "input_weights" (D, 3H) and "recurrent_weights" (H, 3H).

    Raises
    ------
    TypeError, ValueError
        If a layer has reset_after=True, gates other than sigmoid, a candidate that RNNoise does not have, a learned
        initial state, or a weight that is no multiple of 1/256 from -128/256 to 127/256: round first, as the message
        says, and measure what that costs.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.GRU(2, activation="relu", input_size=3, seed=0)
    >>> with layer.update() as p:
    ...     for name in p:
    ...         p[name] = np.clip(np.round(256 * p[name]), -127, 127) / 256
    >>> {name: array.shape for name, array in cgru.convert.to_rnnoise(layer).items()}
    {'bias': (6,), 'input_weights': (3, 6), 'recurrent_weights': (2, 6)}
    """
    return one_or_list(layer, _check, _dict_of)


def _check(layer):
    _THEIRS.require(layer)
    if layer.activation not in _ACTIVATIONS:
        refuse(_THEIRS.where, f"activation={layer.activation!r}", f"it has {', '.join(_ACTIVATIONS)}", "ONNX has more")


def _dict_of(cell):
    cell = _THEIRS.parts_of(cell)
    parts = {"bias": cell.bias, "input_weights": cell.kernel, "recurrent_weights": cell.recurrent_kernel}
    return {name: _unscaled(_THEIRS.foreign(part), name) for name, part in parts.items()}


def _unscaled(array, name):
    scaled = array * _SCALE
    with np.errstate(invalid="ignore"):  # of NaN
        integers = scaled.astype(np.int64)
    wrong = ~((integers == scaled) & (integers >= -128) & (integers <= 127))
    if wrong.any():
        refuse(
            _THEIRS.where,
            f"the value {array[wrong][0]} of {name}",
            "its weights are n / 256 with n from -128 to 127",
            "Round the parameters of the layer first: np.clip(np.round(256 * p), -127, 127) / 256",
        )
    return integers.astype(np.int8)
