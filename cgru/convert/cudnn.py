"""cuDNN: six matrices and six biases a pseudo-layer, output rows; gates r, i (the update gate), h; reset after;
i weighs the old state; both biases are kept.

    r = sigmoid(W_0 x + R_3 h + b_0 + b_3)    i = sigmoid(W_1 x + R_4 h + b_1 + b_4)
    n = tanh(W_2 x + b_2 + r * (R_5 h + b_5))    h' = (1 - i) * n + i * h

Indices are linLayerID of cudnnGetRNNWeightParams.
https://docs.nvidia.com/deeplearning/cudnn/latest/api/cudnn-adv-library.html#cudnnrnnmode-t. CuDNNGRU of Keras 2 has
another form (`from_keras`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from cgru.convert.arrays import Arrays
from cgru.convert.cells import Cell, cells_of, gru_layers, refuse
from cgru.convert.conventions import CONVENTIONS, shared_words
from cgru.layers import GRU
from cgru.typing import Array, LayerOrModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_THEIRS = CONVENTIONS["cudnn"]
# Which of the six biases are there, in cudnnRNNBiasMode_t.
_BIASES = {"no": (), "single_inp": (0, 1, 2), "single_rec": (3, 4, 5), "double": (0, 1, 2, 3, 4, 5)}


@shared_words
def from_cudnn(
    weights: Sequence[ArrayLike],
    biases: Sequence[ArrayLike] | None = None,
    *,
    bias_mode: Literal["no", "single_inp", "single_rec", "double"] | None = None,
    directions: Literal[1, 2] = 1,
    **options: Unpack[CellOptions],
) -> LayerOrModel:
    """A layer of cuDNN's matrices and biases in canonical form, such as CudnnRNNParamsToCanonical of TensorFlow gives.

    %(signs)s

    Parameters
    ----------
    weights : list of arrays, six for each pseudo-layer
        By linLayerID: three (H, D) of the input, gates r, i, h, then three (H, H) of the state. Pseudo-layers are in
        the order of the state: layer by layer, forward before backward.
    biases : list of arrays (H,), optional
        By linLayerID, six for each pseudo-layer, or three with one of the single modes; None: there are none.
    bias_mode : {"no", "single_inp", "single_rec", "double"}, optional
        cudnnRNNBiasMode_t; needed for the two single modes, which have biases for the input or for the state alone.
    directions : {1, 2}
        2: CUDNN_BIDIRECTIONAL.
    **options
        Of cgru.GRU, such as time_major.

    Returns
    -------
    %(layer)s

    Raises
    ------
    TypeError, ValueError
        If the number of arrays or a shape is wrong; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.convert.from_cudnn([np.ones((2, 3))] * 3 + [np.ones((2, 2))] * 3, [np.ones(2)] * 6)
    >>> layer.input_size, layer.units
    (3, 2)
    """
    if bias_mode is None:
        bias_mode = "double" if biases is not None else "no"
    if bias_mode not in _BIASES:
        raise ValueError(f"bias_mode: expected one of {list(_BIASES)}, got {bias_mode!r}")
    weights = _groups(weights, 6, None, "weights")
    present = _BIASES[bias_mode]
    if present:
        biases = _groups(biases, len(present), len(weights), "biases")
    elif biases is not None:
        raise ValueError("biases: expected none with bias_mode='no', got some")
    else:
        biases = [()] * len(weights)
    return _THEIRS.layer_of(
        [_cell_of(i, *parts, present) for i, parts in enumerate(zip(weights, biases, strict=True))],
        directions=directions,
        **options,
    )


def _groups(arrays, size, count, name):
    """[list of the arrays of each pseudo-layer]."""
    if not isinstance(arrays, (list, tuple)):
        raise TypeError(f"{name}: expected a list of arrays, got {type(arrays).__name__}")
    expected = f"{size} for each pseudo-layer" if count is None else f"{size} for each of {count} pseudo-layers"
    if not arrays or len(arrays) % size or len(arrays) != size * (count or len(arrays) // size):
        raise ValueError(f"{name}: expected {expected}, got {len(arrays)}")
    return [arrays[i : i + size] for i in range(0, len(arrays), size)]


def _cell_of(index, weights, biases, present):
    named = {f"weights[{6 * index + i}]": array for i, array in enumerate(weights)}
    named |= {f"biases[{len(present) * index + i}]": array for i, array in enumerate(biases)}
    arrays, names = Arrays(named, "weights"), list(named)
    recurrent_kernel = np.concatenate([arrays.take(name, "H H") for name in names[3:6]]).T
    kernel = np.concatenate([arrays.take(name, "H D") for name in names[:3]]).T
    bias = None
    if present:
        parts = np.zeros((6, arrays.sizes["H"]), recurrent_kernel.dtype)
        taken = [arrays.take(name, "H") for name in names[6:]]
        parts = parts.astype(np.result_type(parts, *taken))
        parts[list(present)] = taken
        bias = _THEIRS.canonical(parts.reshape(2, -1))
    return Cell(_THEIRS.canonical(kernel), _THEIRS.canonical(recurrent_kernel), bias)


@shared_words
def to_cudnn(layer: GRU) -> tuple[list[Array], list[Array] | None]:
    """cuDNN's matrices and biases in canonical form.

    No biases are summed: `from_cudnn` gives back the same bits.

    Parameters
    ----------
    layer : GRU

    Returns
    -------
    weights : list of ndarray
    biases : list of ndarray, or None where the layer has none
        As `from_cudnn` takes them, CUDNN_RNN_DOUBLE_BIAS.

    Raises
    ------
    TypeError, ValueError
        If the layer is not what cuDNN computes: reset before, other activations, a merge other than "concat", one
        direction that runs backwards, layers of unequal size, a learned initial state.

    Examples
    --------
    >>> import cgru
    >>> weights, biases = cgru.convert.to_cudnn(cgru.GRU(2, reset_after=True, input_size=3))
    >>> [array.shape for array in weights], len(biases)
    ([(2, 3), (2, 3), (2, 3), (2, 2), (2, 2), (2, 2)], 6)
    """
    layers = gru_layers(layer)
    if len(layers) > 1:
        refuse(_THEIRS.where, "a Sequential of several GRUs", "its layers are equal", "Convert each layer by itself")
    _check(layers[0])
    weights, biases = [], []
    for cell in cells_of(layers[0]):
        for kernel in (cell.kernel, cell.recurrent_kernel):
            weights += [part.copy() for part in np.split(_THEIRS.foreign(kernel).T, 3)]
        if cell.bias is not None:
            biases += [part.copy() for part in _THEIRS.foreign(cell.bias).reshape(6, -1)]
    return weights, biases or None


def _check(layer):
    _THEIRS.require(layer)
    for name in ("reverse", "go_backwards"):
        if getattr(layer, name):
            reason = "it has no direction that is only backwards"
            refuse(_THEIRS.where, f"{name}=True", reason, "oneDNN and ONNX have one")
    if layer.bidirectional and layer.merge_mode != "concat":
        refuse(_THEIRS.where, f"merge_mode={layer.merge_mode!r}", "it concatenates", "oneDNN can sum")
    for cell in cells_of(layer):
        _THEIRS.parts_of(cell)
