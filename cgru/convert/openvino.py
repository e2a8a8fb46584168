"""OpenVINO's GRUSequence: rows z, r, h; z weighs the old state; both resets; biases of a sum are one, and with
linear_before_reset there is a fourth block, Rb_h.

    z = f(x W_z^T + h R_z^T + B_z)    r = f(x W_r^T + h R_r^T + B_r)    h' = (1 - z) * n + z * h
    n = g(x W_h^T + (r * h) R_h^T + B_h)
    linear_before_reset: n = g(x W_h^T + r * (h R_h^T + Rb_h) + Wb_h)

https://docs.openvino.ai/2025/documentation/openvino-ir-format/operation-sets/operation-specs/sequence/gru-sequence-5.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.convert.arrays import Arrays, some
from cgru.convert.cells import (
    Cell,
    canonical,
    cells_of,
    foreign,
    four_biases,
    from_four_biases,
    gru_layers,
    refuse,
    require_flippable,
    require_no_initial_state,
    stack_of,
    with_bias,
)
from cgru.layers import GRU
from cgru.models import Sequential
from cgru.typing import DictOrList, LayerOrModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from cgru.typing import CellOptions

_WHERE = "OpenVINO's GRUSequence"
_ORDER = "zrn"
_ACTIVATIONS = ("sigmoid", "tanh", "relu")
# Options of cgru.GRU for each direction. Outputs are in the order of the input.
_DIRECTIONS = {"forward": {"reverse": False}, "reverse": {"reverse": True}, "bidirectional": {"directions": 2}}


def from_openvino(source: Any, name: str | Sequence[str] | None = None, **options: Unpack[CellOptions]) -> LayerOrModel:
    """A layer of one or more GRUSequences.

    No biases are summed and only the signs of z's weights change: `to_openvino` gives back the same bits. Outputs agree
    to rounding.

    Parameters
    ----------
    source : openvino.Node, openvino.Model, mapping, or list of these, each the input of the next
        The operation; a model that has it; or its arguments by name: "W" (S, 3H, D), "R" (S, 3H, H), "B" (S, 3H), or
        (S, 4H) with linear_before_reset, and where they differ from these "direction" = "forward",
        "linear_before_reset" = False, "activations" = ("sigmoid", "tanh"). S is 2 if bidirectional, else 1.
    name : str or list of str, optional
        Friendly name of the operation, needed where a model has several; a list for several in a row.
    **options
        Of cgru.GRU, such as zero_output_for_mask.

    Returns
    -------
    GRU or Sequential
        With return_sequences and return_state on; a Sequential where the operations differ in size or attributes.
        Outputs of a bidirectional layer are (N, T, 2H); a GRUSequence has them as (N, 2, T, H). Lengths are heeded
        always; by OpenVINO's CPU plugin (2026.4) only where shapes are fixed.

    Raises
    ------
    TypeError, ValueError
        If an array is missing or of the wrong shape, an attribute has no equivalent, or the model has no GRUSequence,
        or several and no name is given; the message names it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.convert.from_openvino({"W": np.ones((1, 6, 3)), "R": np.ones((1, 6, 2)), "B": np.ones((1, 6))})
    >>> layer.input_size, layer.units, layer.reset_after
    (3, 2, False)
    """
    if isinstance(source, (list, tuple)):
        sources = [(part, name) for part in source]
    else:
        sources = [(source, one) for one in (name if isinstance(name, (list, tuple)) else [name])]
    parts = [part if hasattr(part, "keys") else _arguments(_node_of(part, one)) for part, one in sources]
    if not parts:
        raise ValueError("source: expected at least one operation, got an empty list")
    kinds = [_kind(part) for part in parts]
    cells = [_cells(part, kind["directions"], kind["reset_after"]) for part, kind in zip(parts, kinds, strict=True)]
    return stack_of(cells, kinds, options)


def _cells(arguments, directions, reset_after):
    arrays = Arrays({name: arguments[name] for name in "WRB" if name in arguments}, "source", S=directions)
    R, W = arrays.take("R", "S 3H H"), arrays.take("W", "S 3H D")
    B = arrays.take("B", "S 4H" if reset_after else "S 3H")
    cells = []
    for i in range(directions):
        sums, b_hn = np.split(B[i], [3 * arrays.sizes["H"]])
        bias = canonical(sums, _ORDER)
        bias = from_four_biases(bias, b_hn) if reset_after else bias
        cells.append(Cell(canonical(W[i].T, _ORDER), canonical(R[i].T, _ORDER), bias))
    return cells


def _kind(arguments):
    """The options of `layer_of` that the attributes say; those that have no equivalent are refused."""
    known = {
        "W", "R", "B", "direction", "linear_before_reset", "activations", "clip", "hidden_size", "activations_alpha",
        "activations_beta",
    }  # fmt: skip
    for name in arguments:
        if name not in known:
            raise ValueError(f"source: expected {some(sorted(known))} and no others, got {name!r} as well")
    direction = arguments.get("direction", "forward")
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction: expected one of {list(_DIRECTIONS)}, got {direction!r}")
    if arguments.get("clip"):
        refuse(_WHERE, f"clip={arguments['clip']}", "cgru does not clip", "clip=0 can be converted")
    for name in ("activations_alpha", "activations_beta"):
        if arguments.get(name):
            refuse(_WHERE, f"{name}={arguments[name]}", "activations have no parameters here", "Leave it out")
    activations = [str(name).lower() for name in arguments.get("activations", ("sigmoid", "tanh"))]
    if len(activations) != 2 or not set(activations) <= set(_ACTIVATIONS):
        raise ValueError(f"activations: expected two of {list(_ACTIVATIONS)}, got {activations}")
    require_flippable(activations[0], _WHERE)
    return {
        "reset_after": bool(arguments.get("linear_before_reset", False)),
        "activation": activations[1],
        "recurrent_activation": activations[0],
        "directions": 1,
        "go_backwards": False,
        **_DIRECTIONS[direction],
    }


def _node_of(source, name):
    """The GRUSequence of a model, or the node itself."""
    if hasattr(source, "get_attributes"):
        nodes = [source]
    elif hasattr(source, "get_ordered_ops"):
        nodes = source.get_ordered_ops()
    else:
        got = type(source).__name__
        raise TypeError(f"source: expected an openvino.Node, an openvino.Model or a mapping, got {got}")
    found = [node for node in nodes if node.get_type_name() == "GRUSequence"]
    if not found:
        raise ValueError(f"source: expected a GRUSequence, got {some(sorted({n.get_type_name() for n in nodes}))}")
    names = [node.get_friendly_name() for node in found]
    if name is not None:
        found = [node for node in found if node.get_friendly_name() == name]
    if len(found) != 1:
        raise ValueError(f"name: expected one of {names}, got {name!r}")
    return found[0]


def _arguments(node):
    """The mapping of a node: its attributes, and its inputs 3 to 5."""
    arguments = dict(node.get_attributes())
    for index, name in enumerate("WRB", start=3):
        constant = node.input_value(index).get_node()
        if constant.get_type_name() == "Convert":  # of weights stored in half precision
            constant = constant.input_value(0).get_node()
        if constant.get_type_name() != "Constant":
            raise ValueError(f"{name}: expected a Constant, got what a {constant.get_type_name()} computes")
        arguments[name] = constant.data
    return arguments


def to_openvino(layer: GRU | Sequential) -> DictOrList:
    """The arguments of openvino.opset5.gru_sequence, by name, beside X, initial_hidden_state and sequence_lengths.

    Of a layer with reset_after=True the two biases of z, and those of r, are summed; where it comes from
    `from_openvino`, one of them is zero, and the bits are the same. Without reset_after nothing is summed. Biases are
    zero where the layer has none.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs

    Returns
    -------
    dict, or list of dicts where there are several layers, one for each
        As `from_openvino` takes them, and "hidden_size". Between two bidirectional ones the outputs (N, 2, T, H) have
        to become (N, T, 2H).

    Raises
    ------
    TypeError, ValueError
        If a layer is not what a GRUSequence computes: go_backwards=True, a merge other than "concat", gates other than
        sigmoid, a candidate other than tanh, sigmoid and relu, a learned initial state.

    Examples
    --------
    >>> import cgru
    >>> arguments = cgru.convert.to_openvino(cgru.GRU(2, reset_after=True, input_size=3))
    >>> {name: arguments[name].shape for name in "WRB"}
    {'W': (1, 6, 3), 'R': (1, 6, 2), 'B': (1, 8)}
    """
    dicts = [arguments for part in gru_layers(layer) for arguments in _dicts_of(part)]
    return dicts[0] if len(dicts) == 1 else dicts


def _dicts_of(layer):
    cells, directions = cells_of(layer), 1 + layer.bidirectional
    attributes = {
        "hidden_size": layer.units,
        "direction": _direction(layer),
        "linear_before_reset": layer.reset_after,
        "activations": [layer.recurrent_activation, layer.activation],
    }
    if layer.activation not in _ACTIVATIONS:
        refuse(_WHERE, f"activation={layer.activation!r}", f"it has {', '.join(_ACTIVATIONS)}", "ONNX has more")
    if layer.recurrent_activation != "sigmoid":
        got = f"recurrent_activation={layer.recurrent_activation!r}"
        refuse(_WHERE, got, "of its gates only sigmoid fits", "ONNX has more")
    require_no_initial_state(cells, _WHERE, "Give layer.parameters['initial_state'] to it as initial_hidden_state")
    rows = [cells[i : i + directions] for i in range(0, len(cells), directions)]
    return [attributes | _arrays_of(row, layer.reset_after) for row in rows]


def _direction(layer):
    if layer.go_backwards:
        refuse(_WHERE, "go_backwards=True", "its reverse has outputs in the order of the input", "reverse=True is that")
    if layer.bidirectional and layer.merge_mode != "concat":
        refuse(_WHERE, f"merge_mode={layer.merge_mode!r}", "it keeps both outputs", 'Train with merge_mode="concat"')
    return "bidirectional" if layer.bidirectional else "reverse" if layer.reverse else "forward"


def _biases_of(bias):
    sums, b_hn = four_biases(bias) if bias.ndim == 2 else (bias, bias[:0])
    return np.concatenate([foreign(sums, _ORDER), b_hn])


def _arrays_of(cells, reset_after):
    """W, R and B of the directions of one layer."""
    rows = {
        "W": [foreign(cell.kernel, _ORDER).T for cell in cells],
        "R": [foreign(cell.recurrent_kernel, _ORDER).T for cell in cells],
        "B": [_biases_of(with_bias(cell, reset_after).bias) for cell in cells],
    }
    return {name: np.ascontiguousarray(np.stack(arrays)) for name, arrays in rows.items()}
