"""oneDNN: vanilla_gru and lbr_gru. Arrays (layers, directions, in, gates, out), ldigo, and (layers, directions, gates,
out), ldgo; gates u, r, o; u weighs the old state; both resets, lbr_gru with a fourth bias u'.

    u = sigmoid(W_u x + U_u h + B_u)    r = sigmoid(W_r x + U_r h + B_r)    h' = u * h + (1 - u) * o
    vanilla_gru: o = tanh(W_o x + U_o (r * h) + B_o)    lbr_gru: o = tanh(W_o x + r * (U_o h + B_u') + B_o)

https://uxlfoundation.github.io/oneDNN/dev_guide_rnn.html
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
    stack_of,
)
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import DictOrList, LayerOrModel, OneOrMany

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_WHERE = "oneDNN"
_ORDER = "zrn"
_CELLS = {"vanilla_gru": False, "lbr_gru": True}  # reset_after
# Options of cgru.GRU for each rnn_direction. All outputs are in the order of the input.
_DIRECTIONS = {
    "left2right": {"reverse": False},
    "right2left": {"reverse": True},
    "bidirectional_concat": {"directions": 2, "merge_mode": "concat"},
    "bidirectional_sum": {"directions": 2, "merge_mode": "sum"},
}


def from_onednn(weights: OneOrMany, **options: Unpack[CellOptions]) -> LayerOrModel:
    """A layer of the memory of one or more GRU primitives.

    No biases are summed and only the signs of u's weights change: `to_onednn` gives back the same bits. Outputs agree
    to rounding.

    Parameters
    ----------
    weights : mapping, or list of mappings, one for each primitive, each the input of the next
        "cell" is "vanilla_gru" or "lbr_gru". "direction" is the rnn_direction: "left2right", which it is without one,
        "right2left", "bidirectional_concat" or "bidirectional_sum". "weights_layer" (L, S, D, 3, H) and "weights_iter"
        (L, S, H, 3, H) are arrays in the order ldigo; S is 2 for the bidirectional ones, for which L must be 1, else 1.
        "bias" (L, S, 3, H), or (L, S, 4, H) of lbr_gru, may be left out.
    **options
        Of cgru.GRU, such as time_major=True for oneDNN's usual order of axes, tnc.

    Returns
    -------
    GRU or Sequential
        With return_sequences and return_state on; a Sequential where the primitives differ in size, cell or direction.

    Raises
    ------
    TypeError, ValueError
        If an array is missing, unknown or of the wrong shape, or a cell or direction is; the message names it. And if a
        bidirectional primitive has several layers: oneDNN runs the directions apart and merges them above the last.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.convert.from_onednn({
    ...     "cell": "lbr_gru",
    ...     "weights_layer": np.ones((1, 1, 3, 3, 2)), "weights_iter": np.ones((1, 1, 2, 3, 2)),
    ...     "bias": np.ones((1, 1, 4, 2)),
    ... })
    >>> layer.input_size, layer.units, layer.reset_after
    (3, 2, True)
    """
    parts = weights if isinstance(weights, (list, tuple)) else [weights]
    if not parts:
        raise ValueError("weights: expected at least one primitive, got an empty list")
    kinds = [_kind(part) for part in parts]
    cells = [_cells(part, kind["reset_after"], kind["directions"]) for part, kind in zip(parts, kinds, strict=True)]
    return stack_of(cells, kinds, options)


def _kind(weights):
    """The options of `layer_of` that cell and direction say."""
    if not hasattr(weights, "keys"):
        raise TypeError(f"weights: expected a mapping of names to arrays, got {type(weights).__name__}")
    kind = weights.get("cell"), weights.get("direction", "left2right")
    for name, got, known in zip(("cell", "direction"), kind, (_CELLS, _DIRECTIONS), strict=True):
        if got not in known:
            raise ValueError(f"{name}: expected one of {list(known)}, got {got!r}")
    cell, direction = kind
    fixed = {"activation": "tanh", "recurrent_activation": "sigmoid", "directions": 1, "go_backwards": False}
    return fixed | {"reset_after": _CELLS[cell]} | _DIRECTIONS[direction]


def _cells(weights, reset_after, directions):
    named = {name: weights[name] for name in weights if name not in ("cell", "direction")}
    arrays = Arrays(named, "weights", S=directions)
    iter_, layer_ = arrays.take("weights_iter", "L S H 3 H"), arrays.take("weights_layer", "L S D 3 H")
    bias = arrays.take_if_there("bias", "L S 4 H" if reset_after else "L S 3 H")
    arrays.finish()
    L, S, H = (arrays.sizes[letter] for letter in "LSH")
    if L > 1 and S > 1:
        refuse(
            _WHERE,
            f"a bidirectional primitive of {L} layers",
            "its directions are stacks of their own that meet above the last layer, here they meet after every layer",
            "Convert the two as left2right and right2left, and join their outputs",
        )

    def bias_of(gates):
        sums = canonical(gates[:3].reshape(-1), _ORDER)
        return from_four_biases(sums, gates[3]) if reset_after else sums

    return [
        Cell(
            canonical(layer_[i, j].reshape(-1, 3 * H), _ORDER),
            canonical(iter_[i, j].reshape(-1, 3 * H), _ORDER),
            None if bias is None else bias_of(bias[i, j]),
        )
        for i in range(L)
        for j in range(S)
    ]


def to_onednn(layer: GRU | Sequential) -> DictOrList:
    """The memory of a GRU primitive, or of several in a row.

    Of a layer with reset_after=True the two biases of u, and those of r, are summed; where it comes from
    `from_onednn`, one of them is zero, and the bits are the same. Without reset_after nothing is summed.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs

    Returns
    -------
    dict, or list of dicts where the layers do not fit into one primitive
        As `from_onednn` takes them. A primitive has layers of one input size, and merges two directions at its end
        alone: where the first layer's input size differs, or there are two directions, each layer is a primitive.

    Raises
    ------
    TypeError, ValueError
        If a layer has activations other than tanh and sigmoid, go_backwards=True, a merge other than "concat" and
        "sum", or a learned initial state.

    Examples
    --------
    >>> import cgru
    >>> weights = cgru.convert.to_onednn(cgru.GRU(2, input_size=3))
    >>> weights["cell"], weights["direction"], weights["weights_layer"].shape, weights["bias"].shape
    ('vanilla_gru', 'left2right', (1, 1, 3, 3, 2), (1, 1, 3, 2))
    """
    primitives = [weights for part in gru_layers(layer) for weights in _primitives(part)]
    return primitives[0] if len(primitives) == 1 else primitives


def _primitives(layer):
    cells, S = cells_of(layer), 1 + layer.bidirectional
    kind = {"cell": "lbr_gru" if layer.reset_after else "vanilla_gru", "direction": _direction(layer)}
    require_activations(layer, "tanh", "sigmoid", _WHERE)
    require_no_initial_state(cells, _WHERE, "Give layer.parameters['initial_state'] to it as src_iter")
    in_one = not layer.bidirectional and layer.input_size == layer.units
    size = len(cells) if in_one else S  # cells of a primitive
    return [kind | _memory(cells[i : i + size], layer.reset_after, S) for i in range(0, len(cells), size)]


def _direction(layer):
    if layer.go_backwards:
        refuse(_WHERE, "go_backwards=True", "right2left has outputs in the order of the input", "reverse=True is that")
    if not layer.bidirectional:
        return "right2left" if layer.reverse else "left2right"
    if layer.merge_mode not in ("concat", "sum"):
        refuse(_WHERE, f"merge_mode={layer.merge_mode!r}", "it concatenates or sums", 'Train with "concat" or "sum"')
    return f"bidirectional_{layer.merge_mode}"


def _memory(cells, reset_after, S):
    H = cells[0].units

    def stacked(arrays):
        array = np.stack(list(arrays))
        return np.ascontiguousarray(array.reshape(-1, S, *array.shape[1:]))

    def gates_of(bias):
        sums, b_hn = four_biases(bias) if reset_after else (bias, bias[:0])
        return np.concatenate([foreign(sums, _ORDER), b_hn]).reshape(-1, H)

    memory = {
        "weights_layer": stacked(foreign(cell.kernel, _ORDER).reshape(-1, 3, H) for cell in cells),
        "weights_iter": stacked(foreign(cell.recurrent_kernel, _ORDER).reshape(-1, 3, H) for cell in cells),
    }
    if cells[0].bias is not None:
        memory["bias"] = stacked(gates_of(cell.bias) for cell in cells)
    return memory
