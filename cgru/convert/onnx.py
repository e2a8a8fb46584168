"""ONNX: the GRU operator. Rows z, r, h; z weighs the old state; the reset before or after; reverse directions in the
order of the input.

The operator: https://onnx.ai/onnx/operators/onnx__GRU.html
"""

import os

import numpy as np

from cgru.convert.cells import (
    Arrays,
    Cell,
    add_biases,
    canonical,
    cells_of,
    chain,
    foreign,
    gru_layers,
    layer_of,
    refuse,
    require_flippable,
)
from cgru.convert.onnx_graph import Graph, Operator
from cgru.layers import check_bool, check_dtype

_ORDER = "zrn"
_OPSET, _IR_VERSION = 14, 8  # both since ONNX Runtime 1.10
_WHERE = "ONNX"
_FLOAT32_MAX = float(np.finfo(np.float32).max)

_FIFTH, _SIXTH = float(np.float32(1 / 5)), float(np.float32(1 / 6))  # attributes are float32
# cgru's name: the operator's, and alpha and beta where it has them
_ACTIVATIONS = {
    "sigmoid": ("Sigmoid",),
    "tanh": ("Tanh",),
    "relu": ("Relu",),
    "linear": ("Affine", 1.0, 0.0),
    "hard_sigmoid_keras2": ("HardSigmoid", _FIFTH, 0.5),
    "hard_sigmoid": ("HardSigmoid", _SIXTH, 0.5),
}
_DEFAULTS = {"Affine": (1.0, 0.0), "HardSigmoid": (_FIFTH, 0.5)}  # alpha and beta
_ATTRIBUTES = {
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout",
    "linear_before_reset", "output_sequence",
}  # fmt: skip


def _import_onnx(function):
    try:
        import onnx
    except ImportError:
        raise ImportError(f'{function} needs onnx: pip install "cgru[onnx]"') from None
    return onnx


def from_onnx(model, node=None, *, time_major=None, **attributes):
    """A layer of a GRU node of an ONNX model, or of the operator's arrays.

    Biases are summed with the reset before, where ONNX has two for one sum and the second is not zero; with the reset
    after both are kept, and `to_onnx` gives back the same bits. Only the signs of z's weights change otherwise. Outputs
    agree to rounding.

    Parameters
    ----------
    model : onnx.ModelProto, path, bytes, or mapping of arrays
        Weights may be initializers or computed from constants; external data are read where a path is given. A mapping
        has "W", "R" and, if there are any, "B" and "initial_h"; it needs no onnx.
    node : str, optional
        Name of the node, or of one of its outputs. Without it the only one is taken, or all of them where they stand in
        a row, each fed by the one before.
    time_major : bool, optional
        Whether the layer takes (T, N, D). Without it, it takes the model's input, if that reaches the node with nothing
        but transpositions in between, and else what the node takes: (T, N, D) with layout 0.
    **attributes
        Of the operator, beside a mapping of arrays: direction, linear_before_reset, activations and so on.

    Returns
    -------
    GRU or Sequential
        With return_sequences and return_state on; a Sequential, which takes (N, T, D), of several nodes. Lengths are
        the caller's where the model takes sequence_lens, and so is the initial state where it is computed in the model
        or one of its inputs; a constant initial_h becomes a learned initial state.

    Raises
    ------
    ImportError
        If onnx is needed and not installed.
    TypeError, ValueError
        If there is no such node, or more than one, or a part of it is not known or cannot be exact; the message names
        it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> arrays = {"W": np.ones((1, 6, 3)), "R": np.ones((1, 6, 2)), "B": np.ones((1, 12))}
    >>> layer = cgru.from_onnx(arrays, linear_before_reset=1, time_major=False)
    >>> layer.units, layer.reset_after
    (2, True)
    """
    if hasattr(model, "keys"):
        operator = Operator("weights", "", attributes, model)
        return _layer_of(operator, operator.attribute("layout", 0) == 0 if time_major is None else time_major)
    if attributes:
        raise TypeError(f"{next(iter(attributes))}: expected no attributes beside a model, which has its own")
    onnx = _import_onnx("from_onnx")
    graph = Graph(onnx, _model_of(onnx, model))
    nodes = graph.gru_nodes(node)
    operators = [graph.operator(chosen) for chosen in nodes]
    if len(operators) == 1:
        return _layer_of(operators[0], graph.is_time_major(nodes[0]) if time_major is None else time_major)
    for operator in operators:
        if operator.takes_state:
            refuse(operator.name, "initial_h in a row of nodes", "a Sequential starts from constant states",
                   "Each node by itself can be converted: give node=")  # fmt: skip
    return chain([_layer_of(operator, False) for operator in operators])


def _model_of(onnx, model):
    if isinstance(model, onnx.ModelProto):
        return model
    if not isinstance(model, (bytes, str, os.PathLike)):
        raise TypeError(f"model: expected an onnx.ModelProto, a path or bytes, got {type(model).__name__}")
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load_model(os.fspath(model))
    except DecodeError:
        what = "bytes" if isinstance(model, bytes) else os.fspath(model)
        raise ValueError(f"model: expected an ONNX model, got {what} that cannot be parsed") from None


# -- a node


def _layer_of(operator, time_major):
    name = operator.name
    for attribute in operator.attributes:
        if attribute not in _ATTRIBUTES:
            raise ValueError(f"{name}: expected attributes of GRU, got {attribute!r}")
    direction = operator.attribute("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"{name}: expected direction forward, reverse or bidirectional, got {direction!r}")
    if operator.attribute("clip", _FLOAT32_MAX) < _FLOAT32_MAX:
        refuse(name, "clip", "nothing is clipped here", "Without it the node can be converted")
    directions = 2 if direction == "bidirectional" else 1
    recurrent_activation, activation = _activations_of(operator, directions)
    require_flippable(recurrent_activation, name)
    reset_after = bool(operator.attribute("linear_before_reset", 0))
    return layer_of(
        _cells_of(operator, directions, reset_after),
        reset_after=reset_after,
        directions=directions,
        reverse=direction == "reverse",
        activation=activation,
        recurrent_activation=recurrent_activation,
        time_major=check_bool(time_major, "time_major"),
    )


def _activations_of(operator, directions):
    """cgru's names of f and g, the same in both directions."""
    names = list(operator.attribute("activations", ["Sigmoid", "Tanh"] * directions))
    if len(names) != 2 * directions:
        raise ValueError(f"{operator.name}: expected {2 * directions} activations, got {names}")
    alphas, betas = (list(operator.attribute(f"activation_{which}", ())) for which in ("alpha", "beta"))
    found = []
    for function in names:
        # Each function takes the next alpha and beta, if it has any.
        default = _DEFAULTS.get(function, ())
        values = [of.pop(0) if of else value for of, value in zip((alphas, betas), default, strict=False)]
        key = (function, *(float(np.float32(value)) for value in values))
        ours = [ours for ours, theirs in _ACTIVATIONS.items() if theirs == key]
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
            bias = canonical(B[d].reshape(2, -1), _ORDER)
            bias = bias if reset_after else add_biases(*bias)
        state = None if states is None else states[d, 0]
        cells.append(Cell(canonical(W[d].T, _ORDER), canonical(R[d].T, _ORDER), bias, state))
    return cells


# -- the way back


def to_onnx(layer, *, lengths=False, initial_state=False, dtype=None):
    """An ONNX model that computes what a call of the layer does, for batches and sequences of any size.

    No biases are summed: `from_onnx` gives back the same bits. ONNX Runtime runs it; it has no GRU in float64, for
    which `dtype` rounds the weights.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs
    lengths : bool
        Whether the model has an input "sequence_lens", (N,) int32. Where one is 0, ONNX Runtime's final state is zero,
        not the initial one.
    initial_state : bool
        Whether the model has an input "initial_h" of the state's shape. Without it a learned initial state is a
        constant of the model.
    dtype : {"float32", "float64"}, optional
        Instead of the layer's.

    Returns
    -------
    onnx.ModelProto
        With an input "x", and outputs "y" as a call returns it and, for a GRU, "h", the final state.

    Raises
    ------
    ImportError
        If onnx is not installed.
    TypeError, ValueError
        If the operator cannot do what the layer does: gates other than sigmoid and hard sigmoids, and with lengths
        go_backwards or zero_output_for_mask=False.
    """
    onnx = _import_onnx("to_onnx")
    layers = gru_layers(layer)
    lengths, initial_state = check_bool(lengths, "lengths"), check_bool(initial_state, "initial_state")
    dtype = layers[0].dtype if dtype is None else check_dtype(dtype)
    for i, part in enumerate(layers):
        _require_representable(part, lengths, initial_state, is_last=i == len(layers) - 1)
    alone = layer is layers[0]
    if initial_state and not alone:
        raise ValueError("initial_state: expected False for a Sequential, which takes no initial state, got True")

    first, last = layers[0], layers[-1]
    writer = _Writer(onnx, dtype)
    axes = ["T", "N"] if alone and layer.time_major else ["N", "T"]
    x = writer.time_major(writer.add_input("x", [*axes, first.input_size]), axes)
    sequence_lens = writer.add_input("sequence_lens", ["N"], onnx.TensorProto.INT32) if lengths else ""
    state_axes = ["N", layer.units] if alone and layer._state_is_flat else [len(cells_of(last)), "N", last.units]
    state = writer.add_input("initial_h", state_axes) if initial_state else None
    for part in layers:
        x, finals = _write_gru(writer, part, x, sequence_lens, state)
    features = last.output_size(None)
    if last.return_sequences:
        writer.add_output("y", writer.time_major(x, axes), [*axes, features])
    else:
        writer.add_output("y", writer.merged(last, finals[-1], 0), ["N", features])
    if alone:
        h = writer.squeeze(finals[0], 0) if layer._state_is_flat else writer.node("Concat", finals, axis=0)
        writer.add_output("h", h, state_axes)
    return writer.model()


def _require_representable(part, lengths, initial_state, is_last):
    require_flippable(part.recurrent_activation, _WHERE)
    if part.stateful and not initial_state:
        refuse(_WHERE, "stateful=True", "a model has no state between its calls",
               "With initial_state=True each call takes the state that the last one gave")  # fmt: skip
    if lengths and part.go_backwards:
        refuse(_WHERE, "go_backwards=True with lengths", "padding would come first", "reverse=True can be converted")
    if lengths and not part.zero_output_for_mask:
        refuse(_WHERE, "zero_output_for_mask=False with lengths", "outputs past the end are zero",
               "Without lengths it can be converted")  # fmt: skip
    if not (is_last or part.return_sequences):
        raise ValueError("layer: expected return_sequences=True in all layers but the last, got False")


def _write_gru(writer, part, x, sequence_lens, state):
    """Write the nodes of a GRU with input x (T, N, D); return its outputs (T, N, F) and the final state of each
    layer, (directions, N, H)."""
    directions = 2 if part.bidirectional else 1
    cells, finals = cells_of(part), []
    if state is not None and part._state_is_flat:
        state = writer.node("Unsqueeze", [state, writer.integers(0)])
    if part.go_backwards:
        # all of the time axis, from its end
        x = writer.node("Slice", [x, *(writer.integers(i) for i in (-1, np.iinfo(np.int64).min, 0, -1))])
    for first in range(0, len(cells), directions):
        row = cells[first : first + directions]
        h0 = ""
        if state is not None:
            h0 = writer.node("Slice", [state, *(writer.integers(i) for i in (first, first + directions, 0))])
        arrays = _arrays_of(row, part.reset_after)
        if state is None and "initial_h" in arrays:
            h0 = writer.rows(arrays["initial_h"], x)
        weights = [writer.constant(arrays[name].astype(writer.dtype)) if name in arrays else "" for name in "WRB"]
        y, y_h = writer.node(
            "GRU",
            [x, *weights, sequence_lens, h0],
            outputs=2,
            hidden_size=part.units,
            direction="bidirectional" if part.bidirectional else "reverse" if part.reverse else "forward",
            linear_before_reset=int(part.reset_after),
            **_activation_attributes(part, directions),
        )
        finals.append(y_h)
        x = writer.merged(part, y, 1)
    return x, finals


def to_onnx_arrays(layer):
    """The operator's arrays of a layer, for a node that somebody else makes; onnx is not needed.

    No biases are summed: `from_onnx` gives back the same bits.

    Parameters
    ----------
    layer : GRU, or Sequential of GRUs

    Returns
    -------
    dict, or list of dicts where there are several layers
        "W" (directions, 3H, D), "R" (directions, 3H, H), "B" (directions, 6H) if there are biases, and "initial_h"
        (directions, 1, H) if the initial state is learned. The node's direction, linear_before_reset and activations
        must be those of the layer.

    Raises
    ------
    ValueError
        If the gates are other than sigmoid and hard sigmoids.

    Examples
    --------
    >>> import cgru
    >>> arrays = cgru.convert.to_onnx_arrays(cgru.GRU(2, input_size=3))
    >>> {name: array.shape for name, array in arrays.items()}
    {'W': (1, 6, 3), 'R': (1, 6, 2), 'B': (1, 12)}
    """
    dicts = []
    for part in gru_layers(layer):
        require_flippable(part.recurrent_activation, _WHERE)
        directions = 2 if part.bidirectional else 1
        cells = cells_of(part)
        rows = [cells[i : i + directions] for i in range(0, len(cells), directions)]
        dicts += [_arrays_of(row, part.reset_after) for row in rows]
    return dicts[0] if len(dicts) == 1 else dicts


def _arrays_of(cells, reset_after):
    """W, R, and if there are any B and initial_h, of the directions of a layer."""
    arrays = {
        "W": np.stack([foreign(cell.kernel, _ORDER).T for cell in cells]),
        "R": np.stack([foreign(cell.recurrent_kernel, _ORDER).T for cell in cells]),
    }
    if cells[0].bias is not None:
        biases = [foreign(cell.bias, _ORDER) for cell in cells]
        # The reset before has one bias for each sum; the other is zero.
        biases = [bias if reset_after else np.stack([bias, np.zeros_like(bias)]) for bias in biases]
        arrays["B"] = np.stack([bias.reshape(-1) for bias in biases])
    if cells[0].initial_state is not None:
        arrays["initial_h"] = np.stack([cell.initial_state for cell in cells])[:, None]
    return arrays


def _activation_attributes(part, directions):
    pairs = [_ACTIVATIONS[part.recurrent_activation], _ACTIVATIONS[part.activation]] * directions
    attributes = {"activations": [name for name, *_ in pairs]}
    if any(values for _, *values in pairs):
        attributes["activation_alpha"] = [values[0] for _, *values in pairs if values]
        attributes["activation_beta"] = [values[1] for _, *values in pairs if values]
    return attributes


class _Writer:
    """The parts of a model, as they are added; names of arrays stand for the arrays."""

    def __init__(self, onnx, dtype):
        self.onnx, self.dtype = onnx, dtype
        self.type = onnx.helper.np_dtype_to_tensor_dtype(dtype)
        self.inputs, self.outputs, self.nodes, self.initializers = [], [], [], []

    def add_input(self, name, shape, type_=None):
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, type_ or self.type, shape))
        return name

    def add_output(self, name, value, shape):
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, self.type, shape))

    def node(self, operator, inputs, outputs=1, **attributes):
        """Add a node; return the name of its output, or a list of names."""
        name = f"{operator.lower()}_{sum(node.op_type == operator for node in self.nodes)}"
        names = [f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array):
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def integers(self, *values):
        return self.constant(np.array(values, np.int64))

    def time_major(self, x, axes):
        """x, whose first axes these are, with the first two exchanged if they are not T, N."""
        return x if axes == ["T", "N"] else self.node("Transpose", [x], perm=[1, 0, 2])

    def squeeze(self, value, axis):
        return self.node("Squeeze", [value, self.integers(axis)])

    def merged(self, part, value, axis):
        """The directions, an axis of (T, d, N, H) or (d, N, H), merged as the layer does."""
        if not part.bidirectional:
            return self.squeeze(value, axis)
        if part.merge_mode == "sum":
            return self.node("ReduceSum", [value, self.integers(axis)], keepdims=0)
        if part.merge_mode != "concat":
            operator = "ReduceProd" if part.merge_mode == "mul" else "ReduceMean"
            return self.node(operator, [value], axes=[axis], keepdims=0)
        value = self.node("Transpose", [value], perm=[*range(axis), axis + 1, axis, axis + 2])
        return self.node("Reshape", [value, self.integers(*[0] * (axis + 1), 2 * part.units)])

    def rows(self, states, x):
        """States (directions, 1, H) for as many rows as x (T, N, D) has."""
        directions, _, units = states.shape
        N = self.node("Gather", [self.node("Shape", [x]), self.integers(1)])
        shape = self.node("Concat", [self.integers(directions), N, self.integers(units)], axis=0)
        return self.node("Expand", [self.constant(states.astype(self.dtype)), shape])

    def model(self):
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "cgru", self.inputs, self.outputs, self.initializers)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="cgru"
        )
