"""ONNX, the way out: models with GRU operators, and the operator's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgru.checks import check_bool, check_dtype
from cgru.convert.cells import built_layers, cells_of, foreign, gru_layers, refuse, require_flippable
from cgru.convert.onnx import ACTIVATIONS, ORDER, import_onnx
from cgru.layers import GRU, Dense, Dropout, Embedding, Layer
from cgru.models import Sequential
from cgru.typing import DictOrList, DType

_OPSET, _IR_VERSION = 14, 8  # both since ONNX Runtime 1.10
_WHERE = "ONNX"
# The operator and its attributes.
_DENSE_ACTIVATIONS = {
    "linear": (None, {}),
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "tanh": ("Tanh", {}),
}


def to_onnx(
    layer: Layer | Sequential, *, lengths: bool = False, initial_state: bool = False, dtype: DType | None = None
) -> Any:
    """An ONNX model that computes what a call of the layer or model does, for batches and sequences of any size.

    No biases are summed: `from_onnx` gives back the same bits of a GRU. ONNX Runtime runs it; it has no GRU in float64,
    for which `dtype` rounds the weights.

    Parameters
    ----------
    layer : GRU, Dense, Embedding, or Sequential of these and of Dropout, which does nothing in inference
    lengths : bool
        Whether the model has an input "sequence_lens", (N,) int32. Where one is 0, ONNX Runtime's final state is zero,
        not the initial one.
    initial_state : bool
        Whether the model has an input "initial_h" of the state's shape, for a GRU or a model with one: to go on from
        the output "h", step by step if need be. Without it a learned initial state is a constant of the model.
    dtype : {"float32", "float64"}, optional
        Instead of the layers'.

    Returns
    -------
    onnx.ModelProto
        With an input "x", of type int64 where it is the ids of an Embedding, and outputs "y" as a call returns it and,
        for a GRU or with `initial_state`, "h", the final state. Without a GRU, Embedding and lengths, x are vectors
        (N, F).

    Raises
    ------
    ImportError
        If onnx is not installed.
    TypeError, ValueError
        If the operators cannot do what the layers do: gates other than sigmoid and hard sigmoids, layers of several
        dtypes, and with lengths go_backwards or outputs with zero_output_for_mask=False.
    """
    onnx = import_onnx("to_onnx")
    parts = [part for part in built_layers(layer) if not isinstance(part, Dropout)]
    if not parts:
        raise ValueError("layer: expected at least one beside Dropout, got none")
    lengths, initial_state = check_bool(lengths, "lengths"), check_bool(initial_state, "initial_state")
    alone = layer if isinstance(layer, GRU) else None
    recurrent = [part for part in parts if isinstance(part, GRU)]
    if initial_state and len(recurrent) != 1:
        got = f"a {type(layer).__name__} with {len(recurrent)} GRUs"
        raise ValueError(f"initial_state: expected False for all but a GRU or a model with one, got True for {got}")
    for i, part in enumerate(parts):
        if isinstance(part, GRU):
            _require_representable(part, parts[i + 1 :], lengths, initial_state)
    writer = _Writer(onnx, _dtype_of(parts, dtype))
    first = parts[0]
    axes = ["T", "N"] if alone is not None and alone.time_major else ["N", "T"]
    if isinstance(first, Embedding):
        x = writer.add_input("x", axes, onnx.TensorProto.INT64)
    else:
        axes = axes if recurrent or lengths else ["N"]
        x = writer.add_input("x", [*axes, first.input_size])
    sequence_lens = writer.add_input("sequence_lens", ["N"], onnx.TensorProto.INT32) if lengths else ""
    valid = writer.valid(x, sequence_lens, axes) if lengths and alone is None else None
    shown = recurrent[0] if initial_state else alone  # whose final state is an output
    state_axes = None
    if shown is not None:
        state_axes = ["N", shown.units] if shown._state_is_flat else [len(cells_of(shown)), "N", shown.units]
    state = writer.add_input("initial_h", state_axes) if initial_state else None

    given = axes
    for part in parts:
        if isinstance(part, Embedding):
            x = _write_embedding(writer, part, x, valid)
        elif isinstance(part, Dense):
            x = _write_dense(writer, part, x)
        else:
            x, finals = _write_gru(writer, part, writer.time_major(x, axes), sequence_lens, state)
            axes = ["T", "N"]
            if not part.return_sequences:
                x, axes = writer.merged(part, finals[-1], 0), ["N"]
    if len(axes) == 2:
        x = x if axes == given else writer.node("Transpose", [x], perm=[1, 0, 2])
        axes = given
        if valid is not None and not isinstance(parts[-1], GRU):
            x = writer.zeroed(x, valid)
    writer.add_output("y", x, [*axes, parts[-1].output_size(None)])
    if shown is not None:
        h = writer.squeeze(finals[0], 0) if shown._state_is_flat else writer.node("Concat", finals, axis=0)
        writer.add_output("h", h, state_axes)
    return writer.model()


def _dtype_of(parts, dtype):
    if dtype is not None:
        return check_dtype(dtype)
    found = {part.dtype for part in parts}
    if len(found) > 1:
        refuse(_WHERE, "layers of float32 and float64", "a model has one type", "dtype= chooses one, and rounds")
    return found.pop()


def _require_representable(part, above, lengths, initial_state):
    require_flippable(part.recurrent_activation, _WHERE)
    if part.stateful and not initial_state:
        refuse(_WHERE, "stateful=True", "a model has no state between its calls",
               "With initial_state=True each call takes the state that the last one gave")  # fmt: skip
    if lengths and part.go_backwards:
        refuse(_WHERE, "go_backwards=True with lengths", "padding would come first", "reverse=True can be converted")
    if lengths and part.return_sequences and not above and not part.zero_output_for_mask:
        refuse(_WHERE, "zero_output_for_mask=False with lengths", "outputs past the end are zero",
               "Without lengths it can be converted")  # fmt: skip
    if not part.return_sequences and any(isinstance(layer, GRU) for layer in above):
        raise ValueError("layer: expected return_sequences=True in all layers but the last, got False")


def _write_embedding(writer, part, ids, valid):
    if valid is not None:  # where it is not, anything may stand
        ids = writer.node("Where", [valid, ids, writer.constant(np.array(0, np.int64))])
    return writer.node("Gather", [writer.weight(part.parameters["embeddings"]), ids])


def _write_dense(writer, part, x):
    x = writer.node("MatMul", [x, writer.weight(part.parameters["kernel"])])
    if part.use_bias:
        x = writer.node("Add", [x, writer.weight(part.parameters["bias"])])
    operator, attributes = _DENSE_ACTIVATIONS[part.activation]
    return writer.node(operator, [x], **attributes) if operator else x


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
        weights = [writer.weight(arrays[name]) if name in arrays else "" for name in "WRB"]
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


def to_onnx_arrays(layer: GRU | Sequential) -> DictOrList:
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
    TypeError, ValueError
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
        "W": np.stack([foreign(cell.kernel, ORDER).T for cell in cells]),
        "R": np.stack([foreign(cell.recurrent_kernel, ORDER).T for cell in cells]),
    }
    if cells[0].bias is not None:
        biases = [foreign(cell.bias, ORDER) for cell in cells]
        # The reset before has one bias for each sum; the other is zero.
        biases = [bias if reset_after else np.stack([bias, np.zeros_like(bias)]) for bias in biases]
        arrays["B"] = np.stack([bias.reshape(-1) for bias in biases])
    if cells[0].initial_state is not None:
        arrays["initial_h"] = np.stack([cell.initial_state for cell in cells])[:, None]
    return arrays


def _activation_attributes(part, directions):
    pairs = [ACTIVATIONS[part.recurrent_activation], ACTIVATIONS[part.activation]] * directions
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
        self.initializers.append(self.onnx.numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def weight(self, array):
        return self.constant(array.astype(self.dtype))

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
        return self.node("Expand", [self.weight(states), shape])

    def valid(self, x, sequence_lens, axes):
        """Which steps are valid, bool of the first two axes of x."""
        T = self.node("Gather", [self.node("Shape", [x]), self.constant(np.array(axes.index("T"), np.int64))])
        zero, one = (self.constant(np.array(value, np.int64)) for value in (0, 1))
        times = self.node("Range", [zero, T, one])  # (T,)
        ends = self.node("Cast", [sequence_lens], to=self.onnx.TensorProto.INT64)
        return self.node("Less", [times, self.node("Unsqueeze", [ends, self.integers(1)])])  # (N, T)

    def zeroed(self, x, valid):
        """x (N, T, F), zero where it is not valid."""
        valid = self.node("Unsqueeze", [valid, self.integers(2)])
        return self.node("Where", [valid, x, self.weight(np.zeros(()))])

    def model(self):
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "cgru", self.inputs, self.outputs, self.initializers)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="cgru"
        )
