"""Questions to an ONNX graph: which GRU nodes there are, what is constant, and how axes move between arrays."""

import itertools
from typing import NamedTuple

import numpy as np

from cgru.convert.cells import refuse

# Operators that are evaluated where all of their inputs are constant.
_FOLDED = {
    "Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Expand", "Gather", "Identity", "Reshape",
    "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
_MERGES = {"ReduceSum": "sum", "ReduceProd": "mul", "ReduceMean": "ave"}
# Operators that may stand between an array and the GRU that takes it, or between two GRUs.
_MOVING = {"Dropout", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", *_MERGES}
# Operators that give zeros where their data are zero.
_KEEP_ZEROS = _FOLDED - {"Constant", "ConstantOfShape", "DequantizeLinear"}


def name_of(node):
    """The name of a node, or where it has none, of an output."""
    return node.name or f"GRU {next(filter(None, node.output), '')!r}"


def _labels(axes, indices):
    """The axes at these indices; None for one that is not known."""
    return [axes[i] if -len(axes) <= i < len(axes) else None for i in indices]


class Operator(NamedTuple):
    """A GRU operator: its attributes, and those of its arrays that are constant."""

    name: str
    prefix: str  # of the names of arrays in errors
    attributes: dict
    arrays: dict  # of "W", "R", "B" and "initial_h" those that are there
    takes_state: bool = False  # whether initial_h comes at run time

    def attribute(self, name, default):
        value = self.attributes.get(name)
        return default if value is None else value


class Moved(NamedTuple):
    """Where nodes in between have brought the axes of an array."""

    axes: list  # letters
    flipped: set  # of the axes that run backwards now
    merge: str | None  # how two directions became one


class Graph:
    """What is asked of a graph: its GRU nodes, constants, and what lies between."""

    def __init__(self, onnx, model):
        self.onnx, self.opsets, graph = onnx, model.opset_import, model.graph
        self.nodes = list(graph.node)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = {value.name for value in graph.input} - self.initializers.keys()
        self.outputs = {value.name for value in graph.output}
        self.producers = {name: node for node in self.nodes for name in node.output if name}

    def gru_nodes(self, name):
        """The node of this name; or the only one, or all of them in a row."""
        found = [node for node in self.nodes if node.op_type == "GRU" and node.domain in ("", "ai.onnx")]
        if not found:
            operators = ", ".join(sorted({node.op_type for node in self.nodes})) or "none"
            raise ValueError(f"model: expected a GRU node, got these operators: {operators}")
        names = [name_of(node) for node in found]
        if name is not None:
            chosen = [node for node in found if name == name_of(node) or name in node.output]
            if len(chosen) != 1:
                raise ValueError(f"node: expected one of {names}, got {name!r}")
            return chosen
        if not all(self.link(below, node) for below, node in itertools.pairwise(found)):
            raise ValueError(f"node: expected one of {names}, which do not stand in a row, got None")
        return found

    def attribute(self, node, name, default=None):
        for attribute in node.attribute:
            if attribute.name == name:
                value = self.onnx.helper.get_attribute_value(attribute)
                if isinstance(value, list):
                    return [part.decode() if isinstance(part, bytes) else part for part in value]
                return value.decode() if isinstance(value, bytes) else value
        return default

    def constant(self, name):
        """The array of this name if it is constant, else None."""
        if name in self.initializers:
            tensor = self.initializers[name]
            if self.onnx.external_data_helper.uses_external_data(tensor):
                raise ValueError(f"{name}: expected its data in the model, got external data; give the model's path")
            return self.onnx.numpy_helper.to_array(tensor)
        node = self.producers.get(name)
        if node is None or node.op_type not in _FOLDED:
            return None
        feeds = {key: self.constant(key) for key in node.input if key}
        if any(value is None for value in feeds.values()):
            return None
        return self._evaluate(node, feeds)[list(node.output).index(name)]

    def _evaluate(self, node, feeds):
        helper = self.onnx.helper
        inputs = [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for key, value in feeds.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(key) for key in node.output]
        model = helper.make_model(helper.make_graph([node], "constant", inputs, outputs), opset_imports=self.opsets)
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(model).run(None, feeds)

    def is_zero(self, name):
        """Whether the array of this name is zero, whatever its shape will be."""
        value = self.constant(name)
        if value is not None:
            return not value.any()
        node = self.producers.get(name)
        if node is None:
            return False
        if node.op_type == "ConstantOfShape":
            fill = self.attribute(node, "value")
            return fill is None or not self.onnx.numpy_helper.to_array(fill).any()
        if node.op_type == "Concat":
            return all(self.is_zero(key) for key in node.input)
        return node.op_type in _KEEP_ZEROS and self.is_zero(node.input[0])

    def operator(self, node):
        """The `Operator` of a GRU node."""
        name = name_of(node)
        arrays = {}
        for letter, key in zip("WRB", node.input[1:4], strict=False):
            if key:
                arrays[letter] = self.constant(key)
                if arrays[letter] is None:
                    raise ValueError(f"{name}.{letter}: expected a constant, got {key!r}, which the model computes")
        lengths, state = (*node.input[4:], "", "")[:2]
        if lengths and self.constant(lengths) is not None:
            refuse(name, "a constant sequence_lens", "lengths are given with each call",
                   "Without it the node can be converted: layer(x, lengths=...)")  # fmt: skip
        takes_state = False
        if state and not self.is_zero(state):
            value = self._rows(state)
            takes_state = value is None
            if not takes_state:
                arrays["initial_h"] = value
        attributes = {attribute.name: self.attribute(node, attribute.name) for attribute in node.attribute}
        return Operator(name, f"{name}.", attributes, arrays, takes_state)

    def weights_besides(self, nodes):
        """Names of the initializers, arrays of floating-point numbers, that these GRU nodes are not made of."""
        names, used = [name for node in nodes for name in node.input[1:] if name], set()
        while names:
            name = names.pop()
            if name not in used:
                used.add(name)
                names += [key for key in getattr(self.producers.get(name), "input", ()) if key]
        types = {getattr(self.onnx.TensorProto, kind) for kind in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")}
        return [
            name
            for name, tensor in self.initializers.items()
            if name not in used and tensor.data_type in types and any(size > 1 for size in tensor.dims)
        ]

    def _rows(self, name):
        """The array of this name if it is constant, or one row of it if it repeats that as often as needed."""
        value = self.constant(name)
        producer = self.producers.get(name)
        if value is None and producer is not None and producer.op_type == "Expand":
            value = self.constant(producer.input[0])
            value = None if value is None else np.array(value, ndmin=3)
        return value

    # -- axes

    def path(self, name, sources):
        """(the first name among `sources` that this one is made of, nodes in between), or None where there is none.

        Nodes that a path may have move axes, turn time around or merge directions.
        """
        nodes = []
        while name not in sources:
            node = self.producers.get(name)
            if node is None or node.op_type not in _MOVING:
                return None
            nodes.append(node)
            name = node.input[0]
        return name, nodes[::-1]

    def moved(self, axes, nodes, directions, units):
        """The `Moved` of axes, letters, as these nodes leave them; None if that is not known. "d" and "H" merge into
        "dH"."""
        flipped, merge = set(), None
        for node in nodes:
            if node.op_type == "Transpose":
                order = self.attribute(node, "perm", range(len(axes))[::-1])
                axes = [axes[i] for i in order] if len(order) == len(axes) else None
            elif node.op_type == "Squeeze" or (node.op_type in _MERGES and directions == 1):
                gone = _labels(axes, self._axes_of(node))
                axes = [axis for axis in axes if axis != "d"] if gone == ["d"] and directions == 1 else None
            elif node.op_type in _MERGES:
                if _labels(axes, self._axes_of(node)) != ["d"] or self.attribute(node, "keepdims", 1):
                    return None
                axes, merge = [axis for axis in axes if axis != "d"], _MERGES[node.op_type]
            elif node.op_type == "Slice":
                axis = _labels(axes, self._turned(node))
                if len(axis) != 1:
                    return None
                flipped ^= set(axis)
            elif node.op_type == "Reshape":
                shape = self.constant(node.input[1])
                merges = axes[2:] == ["d", "H"] and shape is not None and len(shape) == 3
                keeps = merges and all(size in (0, -1) or size > 0 for size in shape[:2])
                axes = [*axes[:2], "dH"] if keeps and shape[2] in (-1, directions * units) else None
            if axes is None:
                return None
        return Moved(axes, flipped, merge)

    def _axes_of(self, node):
        """The axes that a node names in an input or, before opset 13 or 18, in an attribute."""
        axes = self.constant(node.input[1]) if len(node.input) > 1 else self.attribute(node, "axes", ())
        return [] if axes is None else [int(axis) for axis in axes]

    def _turned(self, node):
        """[the axis that a Slice turns around], if it does nothing else; or []."""
        parts = [self.constant(name) if name else None for name in node.input[1:]]
        if len(parts) != 4 or any(part is None or part.shape != (1,) for part in parts):
            return []
        start, end, axis, step = (int(part[0]) for part in parts)
        return [axis] if (start, step) == (-1, -1) and end <= -(2**31) + 1 else []

    def _outputs_of(self, node):
        """(axes of the first output, directions, units) of a GRU node; None if its R is no constant."""
        R = self.constant(node.input[2])
        if R is None or R.ndim != 3:
            return None
        axes = ["N", "T", "d", "H"] if self.attribute(node, "layout", 0) else ["T", "d", "N", "H"]
        return axes, len(R), R.shape[2]

    def link(self, below, node):
        """The `Moved` between a GRU node's outputs and another one that has them, and nothing else, as its input; None
        where it has not."""
        found, start = self.path(node.input[0], {below.output[0]}), self._outputs_of(below)
        moved = self.moved(start[0], found[1], *start[1:]) if found and start else None
        expected = ["N", "T"] if self.attribute(node, "layout", 0) else ["T", "N"]
        return moved if moved is not None and moved.axes[:2] == expected and moved.flipped <= {"T"} else None

    def entry(self, node):
        """(whether an array that the model takes, or else the node, is (T, N, D), whether time is turned around before
        the node)."""
        layout = self.attribute(node, "layout", 0)
        found = self.path(node.input[0], self.inputs)
        moved = self.moved([0, 1, 2], found[1], 0, 0) if found else None
        if moved is None or len(moved.axes) != 3:
            return layout == 0, False
        time = moved.axes[1 if layout else 0]
        if moved.flipped - {time}:
            return layout == 0, False
        return (layout == 0) == (moved.axes != [1, 0, 2]), bool(moved.flipped)

    def merge_after(self, node):
        """How the directions of the last node are merged behind it: "sum", "mul" or "ave" where nothing else is done
        with its outputs (or, where those are not used, with its final state), else None."""
        start = self._outputs_of(node)
        if start is None or start[1] == 1:
            return None
        axes, *sizes = start
        used = [name for name in node.output[:2] if name and self._users(name)]
        for name in used[:1]:
            merges = list(self._merges_of(name, axes if name == node.output[0] else ["d", "N", "H"], sizes))
            if name != node.output[0]:  # the final state itself is given beside what it merges into
                merges = [merge for merge in merges if merge is not None]
            if len(set(merges)) == 1:
                return merges[0]
        return None

    def _users(self, name):
        return [node for node in self.nodes if name in node.input]

    def _merges_of(self, name, axes, sizes):
        """Yield how each of the ways from an array on merges its directions; None for one that does not."""
        users = self._users(name)
        if not users or name in self.outputs:
            yield None
        for node in users:
            moved = self.moved(axes, [node], *sizes) if node.op_type in _MOVING and node.input[0] == name else None
            if moved is None or moved.merge or len(moved.axes) != len(axes):
                yield moved and moved.merge
            else:
                yield from self._merges_of(node.output[0], moved.axes, sizes)
