"""Questions to an ONNX model: which GRU nodes there are, what they are made of, and how axes move between arrays."""

import itertools
from collections import Counter
from typing import NamedTuple

import numpy as np

from cgru.convert.cells import refuse
from cgru.convert.onnx_constants import Constants, Symbol
from cgru.convert.onnx_model import Model, Tensors, Value
from cgru.reading import short

_MERGES = {"ReduceSum": "sum", "ReduceProd": "mul", "ReduceMean": "ave"}
# Operators that may stand between an array and the GRU that takes it, or between two GRUs.
_MOVING = {"Dropout", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", *_MERGES}
# Those that change numbers without arrays; a sum or a product may be one of shapes, and is not counted.
_CHANGING = set(
    "AveragePool Celu Clip Elu Exp Gelu GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish LeakyRelu Log LogSoftmax "
    "LpNormalization MaxPool Mish Relu Selu Sigmoid Softmax Softplus Softsign Sqrt Tanh ThresholdedRelu".split()
)


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
    """What is asked of a model: its GRU nodes, wherever they are, constants, and what lies between."""

    def __init__(self, onnx, proto, folder, size):
        self._onnx, self._model = onnx, Model(onnx, proto)
        self._constants = Constants(self._model, Tensors(onnx, folder, size))
        self._nodes = list(self._model.nodes())
        self._inputs = {Value(self._model.main, name) for name in self._model.main.inputs}
        self._users = None

    def gru_nodes(self, name):
        """The node of this name; or the only one, or all of them in a row."""
        found = [node for node in self._nodes if node.is_gru]
        if not found:
            operators = ", ".join(sorted({node.op for node in self._nodes})) or "none"
            raise ValueError(f"model: expected a GRU node, got these operators: {short(operators)}")
        names = self._names(found)
        if name is not None:
            ways = (lambda node: name == names[node], lambda node: name == node.name, lambda node: name in node.outputs)
            chosen = next(filter(None, ([node for node in found if reaches(node)] for reaches in ways)), [])
            if len(chosen) != 1:
                raise ValueError(f"node: expected one of {_some(names.values())}, got {name!r}")
            return chosen
        if not all(self.link(below, node) for below, node in itertools.pairwise(found)):
            raise ValueError(f"node: expected one of {_some(names.values())}, which do not stand in a row, got None")
        return found

    def _names(self, nodes):
        """dict of nodes to names: with those of the graphs and calls around them, where they share one."""
        counts = Counter(node.name for node in nodes)
        names = {
            node: node.name if counts[node.name] == 1 else "/".join(filter(None, (node.scope.path, node.name)))
            for node in nodes
        }
        counts = Counter(names.values())
        return {node: name if counts[name] == 1 else f"{name}: {node.outputs}" for node, name in names.items()}

    def operator(self, node):
        """The `Operator` of a GRU node."""
        name = node.name
        arrays = {}
        for i, letter in enumerate("WRB", start=1):
            if node.input_name(i):
                arrays[letter] = self._constants.array(node.input(i))
                if arrays[letter] is None:
                    got = short(node.input_name(i))
                    raise ValueError(f"{name}.{letter}: expected a constant, got {got!r}, which the model computes")
        lengths, state = node.input(4), node.input(5)
        if lengths is not None and self._constants.array(lengths) is not None:
            refuse(name, "a constant sequence_lens", "lengths are given with each call",
                   "Without it the node can be converted: layer(x, lengths=...)")  # fmt: skip
        takes_state = False
        if node.input_name(5) and not self._constants.is_zero(state):
            value = self._rows(state)
            takes_state = value is None
            if not takes_state:
                arrays["initial_h"] = value
        return Operator(name, f"{name}.", node.attributes(), arrays, takes_state)

    def _rows(self, value):
        """The array of a value if it is constant, or one row of it if it repeats that as often as needed."""
        array = self._constants.array(value)
        if array is None and value is not None and value.producer is not None and value.producer.op == "Expand":
            array = self._constants.array(value.producer.input(0))
            array = None if array is None else np.array(array, ndmin=3)
        return array

    def left_besides(self, nodes):
        """Names of what these GRU nodes are not made of: initializers, arrays of floating-point numbers, and operators
        that change numbers without any."""
        left, used = [value for node in nodes for value in node.inputs[1:]], set()
        while left:
            value = left.pop()
            if value is not None and value not in used:
                used.add(value)
                left += value.producer.inputs if value.producer is not None else ()
        types = {getattr(self._onnx.TensorProto, kind) for kind in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")}
        scopes = {node.scope: None for node in self._nodes}
        arrays = [
            name
            for scope in scopes
            for name, tensor in scope.initializers.items()
            if Value(scope, name) not in used and tensor.data_type in types and any(size > 1 for size in tensor.dims)
        ]
        changing = [node for node in self._nodes if node.op in _CHANGING and node.outputs]
        return arrays + [node.op for node in changing if Value(node.scope, node.outputs[0]) not in used]

    # -- axes

    def _path(self, value, sources):
        """(the first value among `sources` that this one is made of, nodes in between), or None where there is none.

        Nodes that a path may have move axes, turn time around or merge directions.
        """
        nodes, seen = [], set()
        while value not in sources:
            node = None if value is None or value in seen else value.producer
            if node is None or node.op not in _MOVING:
                return None
            seen.add(value)
            nodes.append(node)
            value = node.input(0)
        return value, nodes[::-1]

    def _moved(self, axes, nodes, directions, units):
        """The `Moved` of axes, letters, as these nodes leave them; None if that is not known. "d" and "H" merge into
        "dH"."""
        flipped, merge = set(), None
        for node in nodes:
            if node.op == "Transpose":
                order = node.integers("perm") or list(range(len(axes)))[::-1]
                axes = [axes[i] for i in order] if sorted(order) == list(range(len(axes))) else None
            elif node.op == "Squeeze" or (node.op in _MERGES and directions == 1):
                gone = _labels(axes, self._axes_of(node))
                axes = [axis for axis in axes if axis != "d"] if gone == ["d"] and directions == 1 else None
            elif node.op in _MERGES:
                if _labels(axes, self._axes_of(node)) != ["d"] or node.integer("keepdims", 1):
                    return None
                axes, merge = [axis for axis in axes if axis != "d"], _MERGES[node.op]
            elif node.op == "Slice":
                axis = _labels(axes, self._turned(node))
                if len(axis) != 1:
                    return None
                flipped ^= set(axis)
            elif node.op == "Reshape":
                axes = self._reshaped(axes, node, directions * units)
            if axes is None:
                return None
        return Moved(axes, flipped, merge)

    def _reshaped(self, axes, node, features):
        """The axes behind a Reshape that merges the directions and leaves the others as they are, or None."""
        shape = self._constants.shape_items(node.input(1))
        if axes[2:] != ["d", "H"] or shape is None or len(shape) != 3 or shape[2] not in (-1, features):
            return None
        sizes = self._constants.sizes(node.input(0))
        for i, size in enumerate(shape[:2]):
            if isinstance(size, Symbol):  # computed from a shape: that of this very axis?
                if sizes is None or len(sizes) != 4 or sizes[i] != size:
                    return None
            elif size < -1:
                return None
        return [*axes[:2], "dH"]

    def _axes_of(self, node):
        """The axes that a node names in an input or, before opset 13 or 18, in an attribute."""
        if not node.input_name(1):
            return node.integers("axes") or []
        axes = self._constants.array(node.input(1))
        return axes.reshape(-1).tolist() if axes is not None and axes.dtype.kind == "i" else []

    def _turned(self, node):
        """[the axis that a Slice turns around], if it does nothing else; or []."""
        parts = [self._constants.array(node.input(i)) for i in range(1, len(node.inputs))]
        if len(parts) != 4 or any(part is None or part.shape != (1,) or part.dtype.kind != "i" for part in parts):
            return []
        start, end, axis, step = (int(part[0]) for part in parts)
        return [axis] if (start, step) == (-1, -1) and end <= -(2**31) + 1 else []

    def _outputs_of(self, node):
        """(axes of the first output, directions, units) of a GRU node; None if the shape of its R is not known."""
        R = self._constants.sizes(node.input(2))
        if R is None or len(R) != 3 or not all(isinstance(size, int) for size in R):
            return None
        axes = ["N", "T", "d", "H"] if node.integer("layout", 0) else ["T", "d", "N", "H"]
        return axes, R[0], R[2]

    def link(self, below, node):
        """The `Moved` between a GRU node's outputs and another one that has them, and nothing else, as its input; None
        where it has not."""
        source = Value(below.scope, next(iter(below.outputs), ""))
        found, start = self._path(node.input(0), {source}), self._outputs_of(below)
        moved = self._moved(start[0], found[1], *start[1:]) if found and start else None
        expected = ["N", "T"] if node.integer("layout", 0) else ["T", "N"]
        return moved if moved is not None and moved.axes[:2] == expected and moved.flipped <= {"T"} else None

    def entry(self, node):
        """(whether an array that the model takes, or else the node, is (T, N, D), whether time is turned around before
        the node)."""
        layout = node.integer("layout", 0)
        found = self._path(node.input(0), self._inputs)
        moved = self._moved([0, 1, 2], found[1], 0, 0) if found else None
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
        outputs = [Value(node.scope, name) if name else None for name in node.outputs[:2]]
        used = [(i, value) for i, value in enumerate(outputs) if value is not None and self._users_of(value)]
        for i, value in used[:1]:
            merges = self._merges_of(value, ["d", "N", "H"] if i else axes, sizes)
            if i:  # the final state itself is given beside what it merges into
                merges = [merge for merge in merges if merge is not None]
            if len(set(merges)) == 1:
                return merges[0]
        return None

    def _users_of(self, value):
        """The nodes that take a value."""
        if self._users is None:
            self._users = {}
            # A call that was looked into takes nothing itself: the nodes in it do.
            for node in [node for node in self._nodes if not any(scope.function for scope in node.scopes())]:
                for taken in {taken for taken in node.inputs if taken is not None}:
                    self._users.setdefault(taken, []).append(node)
            self._given = {given for scope in {node.scope for node in self._nodes} for given in scope.outputs()}
        return self._users.get(value, [])

    def _merges_of(self, value, axes, sizes):
        """How each of the ways from an array on merges its directions; None for one that does not."""
        merges, left, seen = [], [(value, axes)], set()
        while left:
            value, axes = left.pop()
            users = self._users_of(value) if value not in seen else []
            seen.add(value)
            if not users or value in self._given:
                merges.append(None)
            for node in users:
                is_moved = node.op in _MOVING and node.input(0) == value
                moved = self._moved(axes, [node], *sizes) if is_moved else None
                if moved is None or moved.merge or len(moved.axes) != len(axes):
                    merges.append(moved and moved.merge)
                else:
                    left.append((Value(node.scope, node.outputs[0]), moved.axes))
        return merges


def _some(names):
    names = [short(name) for name in names]
    return f"{names}" if len(names) <= 50 else f"{names[:50]} and {len(names) - 50} more"
