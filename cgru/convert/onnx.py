"""ONNX: the GRU operator. Rows z, r, h; z weighs the old state; the reset before or after; reverse directions in the
order of the input.

The operator: https://onnx.ai/onnx/operators/onnx__GRU.html
"""

from __future__ import annotations

import numbers
import os
from typing import Any

import numpy as np

from cgru.checks import check_bool
from cgru.convert.arrays import Arrays, some, warn_partial
from cgru.convert.cells import Cell, add_biases, canonical, layer_of, refuse, require_flippable, stack_of
from cgru.convert.onnx_graph import Graph, Operator
from cgru.convert.onnx_model import read_model
from cgru.models import Sequential
from cgru.reading import errors_mention, short
from cgru.typing import LayerOrModel

ORDER = "zrn"
_FLOAT32_MAX = float(np.finfo(np.float32).max)

_FIFTH, _SIXTH = float(np.float32(1 / 5)), float(np.float32(1 / 6))  # attributes are float32
# cgru's name: the operator's, and alpha and beta where it has them
ACTIVATIONS = {
    "sigmoid": ("Sigmoid",),
    "tanh": ("Tanh",),
    "relu": ("Relu",),
    "linear": ("Affine", 1.0, 0.0),
    "hard_sigmoid_keras2": ("HardSigmoid", _FIFTH, 0.5),
    "hard_sigmoid": ("HardSigmoid", _SIXTH, 0.5),
}
_DEFAULTS = {"Affine": (1.0, 0.0), "HardSigmoid": (_FIFTH, 0.5)}  # alpha and beta
# Attributes, what each holds, and whether it is a list.
_ATTRIBUTES = {
    "activation_alpha": (numbers.Real, True), "activation_beta": (numbers.Real, True), "activations": (str, True),
    "clip": (numbers.Real, False), "direction": (str, False), "hidden_size": (numbers.Integral, False),
    "layout": (numbers.Integral, False), "linear_before_reset": (numbers.Integral, False),
    "output_sequence": (numbers.Integral, False),
}  # fmt: skip


def import_onnx(function: str) -> Any:
    try:
        import onnx
    except ImportError:
        raise ImportError(f'{function} needs onnx: pip install "cgru[onnx]"') from None
    return onnx


def from_onnx(
    model: Any,
    node: str | None = None,
    *,
    time_major: bool | None = None,
    return_sequences: bool = True,
    return_state: bool = True,
    **attributes: Any,
) -> LayerOrModel:
    """A layer of the GRU nodes of an ONNX model, or of the operator's arrays.

    Biases are summed with the reset before, where ONNX has two for one sum and the second is not zero; with the reset
    after both are kept, and `to_onnx` gives back the same bits. Only the signs of z's weights change otherwise. Outputs
    agree to rounding.

    Parameters
    ----------
    model : onnx.ModelProto, path, bytes, or mapping of arrays
        Weights may be initializers or computed from constants; external data are read where a path is given, from the
        model's folder alone. A mapping has "W", "R" and, if there are any, "B" and "initial_h"; it needs no onnx.
    node : str, optional
        Name of the node, or of one of its outputs, also within Loop, Scan, If and functions; with the names of the
        nodes around it where it shares its own: "loop/gru", "if/then_branch/gru". Without it the only one is taken, or
        all of them where they stand in a row, each fed by the one before.
    time_major : bool, optional
        Whether the layer takes (T, N, D). Without it, it takes the model's input, if that reaches the node with nothing
        but transpositions in between, and else what the node takes: (T, N, D) with layout 0.
    return_sequences, return_state : bool
        What a call of the layer returns, by default both.
    **attributes
        Of the operator, beside a mapping of arrays: direction, linear_before_reset, activations and so on.

    Returns
    -------
    GRU or Sequential
        Nodes in a row become the layers of one GRU, or a Sequential, which takes (N, T, D), where they differ in more
        than their weights. An input whose time is turned around before the first node is go_backwards; directions that
        are summed, multiplied or averaged after a node are its merge_mode. Lengths are the caller's where the model
        takes sequence_lens, and so is the initial state where it is computed in the model or one of its inputs; a
        constant initial_h becomes a learned initial state.

    Raises
    ------
    ImportError
        If onnx is needed and not installed.
    TypeError, ValueError
        If there is no such node, or more than one, or a part of it is not known or cannot be exact; the message names
        it. If the model is damaged, depends on itself, or stands for much more data than its size.
    OSError
        If the model or its external data cannot be read, or are no regular files.

    Warns
    -----
    PartialConversionWarning
        If the model has other weights, and no node was chosen.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> arrays = {"W": np.ones((1, 6, 3)), "R": np.ones((1, 6, 2)), "B": np.ones((1, 12))}
    >>> layer = cgru.from_onnx(arrays, linear_before_reset=1, time_major=False)
    >>> layer.units, layer.reset_after
    (2, True)
    """
    options = {"return_sequences": return_sequences, "return_state": return_state}
    if time_major is not None:
        options["time_major"] = check_bool(time_major, "time_major")
    if hasattr(model, "keys"):
        operator = Operator("weights", "", attributes, model)
        cells, kind = _read(operator)
        return layer_of(cells, **{"time_major": operator.attribute("layout", 0) == 0} | kind | options)
    if attributes:
        raise TypeError(f"{next(iter(attributes))}: expected no attributes beside a model, which has its own")
    with errors_mention(os.fsdecode(model) if isinstance(model, (str, os.PathLike)) else None):
        return _from_model(model, node, options)


def _from_model(model, node, options):
    onnx = import_onnx("from_onnx")
    graph = Graph(onnx, *read_model(onnx, model))
    nodes = graph.gru_nodes(node)
    operators = [graph.operator(chosen) for chosen in nodes]
    cells, kinds = zip(*map(_read, operators), strict=True)
    is_time_major, is_turned = graph.entry(nodes[0])
    options = {"time_major": is_time_major} | options
    _connect(graph, nodes, kinds)
    if is_turned and kinds[0]["directions"] == 1 and not kinds[0]["reverse"]:
        are_equal = all(kind == kinds[0] for kind in kinds)
        (options if are_equal else kinds[0])["go_backwards"] = True  # a stack is turned once
    states = {operator.takes_state for operator in operators}
    layer = stack_of(list(cells), list(kinds), options)
    if True in states and (len(states) > 1 or isinstance(layer, Sequential)):
        taking = next(operator for operator in operators if operator.takes_state)
        refuse(taking.name, "initial_h in a row of nodes", "a Sequential starts from constant states",
               "Each node by itself can be converted: give node=")  # fmt: skip
    left = graph.left_besides(nodes) if node is None else []
    if left:
        names = [operator.name for operator in operators]
        warn_partial(f"from_onnx: only the GRU nodes {names} were converted; left out: {some(left)}. node= says which "
                     "node is meant, and that it is meant alone")  # fmt: skip
    return layer


def _connect(graph, nodes, kinds):
    """Write into the options of each layer what stands between the nodes and behind the last one."""
    for below, node, lower, upper in zip(nodes, nodes[1:], kinds, kinds[1:], strict=False):
        moved = graph.link(below, node)
        lower |= {"merge_mode": moved.merge} if moved.merge else {}
        upper |= {"go_backwards": True} if moved.flipped else {}
    merge = graph.merge_after(nodes[-1])
    if merge is not None:
        kinds[-1]["merge_mode"] = merge


# -- a node


def _read(operator):
    """(cells, options of `layer_of`) of an operator."""
    name = operator.name
    for attribute, value in operator.attributes.items():
        _check_attribute(attribute, value, name)
    direction = operator.attribute("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"{name}: expected direction forward, reverse or bidirectional, got {direction!r}")
    if operator.attribute("layout", 0) not in (0, 1):
        raise ValueError(f"{name}: expected layout 0 or 1, got {operator.attribute('layout', 0)}")
    if not operator.attribute("clip", _FLOAT32_MAX) >= _FLOAT32_MAX:
        refuse(name, "clip", "nothing is clipped here", "Without it the node can be converted")
    directions = 2 if direction == "bidirectional" else 1
    recurrent_activation, activation = _activations_of(operator, directions)
    require_flippable(recurrent_activation, name)
    reset_after = bool(operator.attribute("linear_before_reset", 0))
    cells = _cells_of(operator, directions, reset_after)
    kind = {
        "reset_after": reset_after,
        "directions": directions,
        "reverse": direction == "reverse",
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }
    return cells, kind


def _check_attribute(attribute, value, name):
    if attribute not in _ATTRIBUTES:
        raise ValueError(f"{name}: expected attributes of GRU, got {short(attribute)!r}")
    kind, is_list = _ATTRIBUTES[attribute]
    parts = value if is_list else [value]
    is_fitting = isinstance(value, (list, tuple, np.ndarray)) == is_list
    if value is not None and not (is_fitting and all(isinstance(part, kind) for part in parts)):
        what = {numbers.Real: "number", numbers.Integral: "integer", str: "text"}[kind]
        expected = f"a list of {what}s" if is_list else f"one {what}"
        raise ValueError(f"{name}: expected {expected} as {attribute}, got {short(value)!r}")


def _activations_of(operator, directions):
    """cgru's names of f and g, the same in both directions."""
    names = list(operator.attribute("activations", ["Sigmoid", "Tanh"] * directions))
    if len(names) != 2 * directions:
        raise ValueError(f"{operator.name}: expected {2 * directions} activations, got {short(names)}")
    alphas, betas = (list(operator.attribute(f"activation_{which}", ())) for which in ("alpha", "beta"))
    found = []
    for function in names:
        # Each function takes the next alpha and beta, if it has any.
        default = _DEFAULTS.get(function, ())
        values = [of.pop(0) if of else value for of, value in zip((alphas, betas), default, strict=False)]
        key = (function, *(float(np.float32(value)) for value in values))
        ours = [ours for ours, theirs in ACTIVATIONS.items() if theirs == key]
        if not ours:
            text = function if not values else f"{function}(alpha={values[0]:g}, beta={values[1]:g})"
            refuse(operator.name, f"the activation {text}", "there is no such activation here",
                   "Sigmoid, Tanh, Relu, HardSigmoid of alpha 0.2 or 1/6 and beta 0.5 can be converted")  # fmt: skip
        found += ours
    if found[:2] != found[-2:]:
        refuse(operator.name, f"the activations {names}", "both directions have the same ones here",
               "Two nodes of one direction each can be converted")  # fmt: skip
    return found[0], found[1]


def _cells_of(operator, directions, reset_after):
    """The cells of the directions, from W, R, B and initial_h."""
    arrays = Arrays({operator.prefix + name: array for name, array in operator.arrays.items()}, operator.name)
    W_name, R_name, B_name, h_name = (operator.prefix + name for name in ("W", "R", "B", "initial_h"))
    R = arrays.take(R_name, f"{directions} 3H H")
    W = arrays.take(W_name, f"{directions} 3H D")
    B = arrays.take_if_there(B_name, f"{directions} 6H")
    layout = operator.attribute("layout", 0)
    states = arrays.take_if_there(h_name, f"N {directions} H" if layout else f"{directions} N H")
    arrays.finish()
    hidden_size = operator.attribute("hidden_size", arrays.sizes["H"])
    if hidden_size != arrays.sizes["H"]:
        raise ValueError(f"{operator.name}: expected hidden_size {arrays.sizes['H']}, as R has it, got {hidden_size}")
    if states is not None:
        states = states.swapaxes(0, 1) if layout else states
        if (states != states[:, :1]).any():
            refuse(h_name, "a constant with a row for each sequence", "it depends on the batch",
                   "Without it the node can be converted: layer(x, initial_state=...)")  # fmt: skip
    cells = []
    for d in range(directions):
        bias = None
        if B is not None:
            bias = canonical(B[d].reshape(2, -1), ORDER)
            bias = bias if reset_after else add_biases(*bias)
        state = None if states is None else states[d, 0]
        cells.append(Cell(canonical(W[d].T, ORDER), canonical(R[d].T, ORDER), bias, state))
    return cells
