"""ncnn's GRU: rows r, u, n; reset after; u weighs the old state; four rows of biases, R, U, WN and BN.

    R = sigmoid(W_r x + U_r h + b_R)    U = sigmoid(W_u x + U_u h + b_U)
    N = tanh(W_n x + b_WN + R * (U_n h + b_BN))    h' = (1 - U) * N + U * h

https://github.com/Tencent/ncnn/blob/master/src/layer/gru.cpp
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru.convert.arrays import Arrays
from cgru.convert.cells import (
    Cell,
    canonical,
    cells_of,
    foreign,
    four_biases,
    from_four_biases,
    gru_layers,
    refuse,
    require_activations,
    require_no_initial_state,
    require_reset,
    stack_of,
    with_bias,
)
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import DictOrList, LayerOrModel, OneOrMany

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_WHERE = "ncnn's GRU"
# Options of cgru.GRU for each direction (parameter 2). Outputs are in the order of the input.
_DIRECTIONS = {0: {"reverse": False}, 1: {"reverse": True}, 2: {"directions": 2}}
_PARAMETERS = ("num_output", "weight_data_size", "direction")


def from_ncnn(weights: OneOrMany, **options: Unpack[CellOptions]) -> LayerOrModel:
    """A layer of the weights of one or more GRU layers of ncnn.

    No biases are summed and only the signs of u's weights change: `to_ncnn` gives back the same bits. Outputs agree to
    rounding. Weights of type int8 are refused: give them dequantised.

    Parameters
    ----------
    weights : mapping, or list of mappings, one for each layer
        "weight_xc_data" (S, 3H, D), "bias_c_data" (S, 4, H) and "weight_hc_data" (S, 3H, H), in the order of the .bin
        file, and "direction", parameter 2: 0 forward (also without it), 1 reverse, 2 bidirectional, for which S is 2
        and not 1. "num_output" and "weight_data_size" may be there as well.
    **options
        Of cgru.GRU.

    Returns
    -------
    GRU or Sequential
        With return_sequences and return_state on; a Sequential where the layers differ in size or direction.

    Raises
    ------
    TypeError, ValueError
        If an array is missing, unknown, of integers or of the wrong shape, or the direction is unknown; the message
        names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> shapes = {"weight_xc_data": (1, 6, 3), "bias_c_data": (1, 4, 2), "weight_hc_data": (1, 6, 2)}
    >>> layer = cgru.convert.from_ncnn({name: np.ones(shape) for name, shape in shapes.items()})
    >>> layer.input_size, layer.units
    (3, 2)
    """
    parts = weights if isinstance(weights, (list, tuple)) else [weights]
    if not parts:
        raise ValueError("weights: expected at least one layer, got an empty list")
    kinds = [_kind(part) for part in parts]
    cells = [_cells(part, kind["directions"]) for part, kind in zip(parts, kinds, strict=True)]
    return stack_of(cells, kinds, options)


def _kind(weights):
    """The options of `layer_of` that the direction says."""
    if not hasattr(weights, "keys"):
        raise TypeError(f"weights: expected a mapping of names to arrays, got {type(weights).__name__}")
    direction = weights.get("direction", 0)
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction: expected 0, 1 or 2, got {direction!r}")
    fixed = {"reset_after": True, "activation": "tanh", "recurrent_activation": "sigmoid"}
    return fixed | {"directions": 1, "go_backwards": False} | _DIRECTIONS[direction]


def _cells(weights, directions):
    arrays = Arrays({name: weights[name] for name in weights if name not in _PARAMETERS}, "weights", S=directions)
    hc, xc = arrays.take("weight_hc_data", "S 3H H"), arrays.take("weight_xc_data", "S 3H D")
    bias = arrays.take("bias_c_data", "S 4 H")
    arrays.finish()
    return [
        Cell(
            canonical(xc[i].T, "rzn"),
            canonical(hc[i].T, "rzn"),
            from_four_biases(canonical(bias[i, :3].reshape(-1), "rzn"), bias[i, 3]),
        )
        for i in range(directions)
    ]


def to_ncnn(layer: GRU | Sequential) -> DictOrList:
    """The weights and parameters of GRU layers of ncnn.

    The two biases of u, and those of r, are summed; where the layer comes from `from_ncnn`, one of them is zero, and
    the bits are the same. Biases are zero where the layer has none. ncnn computes in float32.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs

    Returns
    -------
    dict, or list of dicts where there are several layers, one for each
        As `from_ncnn` takes them, with the parameters "num_output" (0), "weight_data_size" (1) and "direction" (2) of
        the .param file. In the .bin file a flag of four zero bytes stands before each of the three arrays.

    Raises
    ------
    TypeError, ValueError
        If a layer is not what ncnn computes: reset before, other activations, go_backwards=True, a merge other than
        "concat", a learned initial state.

    Examples
    --------
    >>> import cgru
    >>> weights = cgru.convert.to_ncnn(cgru.GRU(2, reset_after=True, input_size=3))
    >>> weights["direction"], weights["bias_c_data"].shape
    (0, (1, 4, 2))
    """
    dicts = [weights for part in gru_layers(layer) for weights in _dicts_of(part)]
    return dicts[0] if len(dicts) == 1 else dicts


def _dicts_of(layer):
    cells, directions = cells_of(layer), 1 + layer.bidirectional
    require_reset(layer.reset_after, True, _WHERE, "ONNX has the reset before")
    require_activations(layer, "tanh", "sigmoid", _WHERE)
    if layer.go_backwards:
        refuse(_WHERE, "go_backwards=True", "its reverse has outputs in the order of the input", "reverse=True is that")
    if layer.bidirectional and layer.merge_mode != "concat":
        refuse(_WHERE, f"merge_mode={layer.merge_mode!r}", "it concatenates", "oneDNN can sum")
    require_no_initial_state(cells, _WHERE, "Give layer.parameters['initial_state'] to it as its second input")
    direction = 2 if layer.bidirectional else int(layer.reverse)
    return [_dict_of(cells[i : i + directions], direction) for i in range(0, len(cells), directions)]


def _dict_of(cells, direction):
    """The weights of one layer."""
    biases = []
    for cell in cells:
        sums, b_hn = four_biases(with_bias(cell, reset_after=True).bias)
        biases.append(np.concatenate([foreign(sums, "rzn"), b_hn]).reshape(4, -1))
    xc = np.ascontiguousarray(np.stack([foreign(cell.kernel, "rzn").T for cell in cells]))
    hc = np.ascontiguousarray(np.stack([foreign(cell.recurrent_kernel, "rzn").T for cell in cells]))
    return {
        "weight_xc_data": xc,
        "bias_c_data": np.stack(biases),
        "weight_hc_data": hc,
        "num_output": cells[0].units,
        "weight_data_size": xc.size,
        "direction": direction,
    }
