"""What is known of the arrays of an ONNX model before it runs: their numbers, their sizes, whether they are zero.

Each question about an array is answered once. The answers are generators that yield the questions that they depend on;
one loop runs them, so that a chain of any length needs no recursion, and one that leads in a circle is seen.

Sizes may be unknown: those of a batch or of time. They are `Symbol`s then, also within the arrays of integers that a
model computes its shapes with.
"""

import numpy as np

from cgru.convert.onnx_model import Value
from cgru.convert.onnx_operators import OPERATORS, Call
from cgru.reading import short

_MAX_SYMBOLIC = 64  # elements of an array that sizes are computed with
_SAME_SIZE = {
    "Abs", "Cast", "CastLike", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "Identity",
    "LayerNormalization", "LeakyRelu", "Log", "Neg", "Reciprocal", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt",
    "Tanh",
}  # fmt: skip
_BROADCASTING = {"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"}
# Operators that give zeros where their data are zero.
_KEEP_ZEROS = {
    "Cast", "CastLike", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
}  # fmt: skip


class Symbol:
    """A size that is not known, or a product of such ones."""

    def __init__(self, *names):
        self.names = tuple(sorted(names))

    def __mul__(self, other):
        if isinstance(other, Symbol):
            return Symbol(*self.names, *other.names)
        return self if other == 1 else Symbol(*self.names, str(other))

    __rmul__ = __mul__

    def __eq__(self, other):
        return isinstance(other, Symbol) and self.names == other.names

    def __hash__(self):
        return hash(self.names)

    def __repr__(self):
        return "*".join(self.names)


def _is_symbolic(array):
    return array.dtype == object and any(isinstance(part, Symbol) for part in array.reshape(-1)[:_MAX_SYMBOLIC])


class Constants:
    """What is known of the values of a model."""

    def __init__(self, model, tensors):
        self._model, self._tensors = model, tensors
        self._answers, self._types = {}, {}

    def array(self, value):
        """The array of a value if it is constant, else None."""
        array = None if value is None else self._ask(self._array, value)
        return None if array is None or _is_symbolic(array) else array

    def shape_items(self, value):
        """The numbers of an array of integers, `Symbol`s among them; None if it is not known."""
        array = None if value is None else self._ask(self._array, value)
        return None if array is None else array.reshape(-1)[: _MAX_SYMBOLIC + 1].tolist()

    def sizes(self, value):
        """The shape of a value, `Symbol`s among it; None if it is not known."""
        return None if value is None else self._ask(self._sizes, value)

    def is_zero(self, value):
        """Whether an array is zero, whatever its shape will be."""
        return value is not None and self._ask(self._zero, value)

    def _ask(self, question, value):
        key, answer = (question, value), None
        if key in self._answers:
            return self._answers[key]
        stack, active = [(key, question(value))], {key}
        while stack:
            key, generator = stack[-1]
            try:
                asked = generator.send(answer)
            except StopIteration as stopped:
                answer = self._answers[key] = stopped.value
                active.discard(key)
                stack.pop()
                continue
            if asked[1] is None:
                answer = None
            elif asked in self._answers:
                answer = self._answers[asked]
            elif asked in active:
                name = short(asked[1].name)
                raise ValueError(f"model: expected arrays that do not depend on themselves, got {name!r}")
            else:
                active.add(asked)
                stack.append((asked, asked[0](asked[1])))
                answer = None
        return answer

    # -- numbers

    def _array(self, value):
        tensor, node = value.scope.initializers.get(value.name), value.producer
        if tensor is not None:
            return self._tensors.array(tensor, value.name)
        if node is None:
            return None
        if node.op in ("Shape", "Size"):
            sizes = yield self._sizes, node.input(0)
            return self._shape(node, sizes)
        if node.op not in OPERATORS or node.domain not in ("", "ai.onnx"):
            return None
        arrays = []
        for i in range(len(node.inputs)):
            array = None
            if node.input_name(i):
                array = yield self._array, node.input(i)
                if array is None:
                    return None
            arrays.append(array)
        outputs = self._evaluate(node, arrays)
        for name, array in zip(node.outputs, outputs, strict=False):
            self._answers[self._array, Value(value.scope, name)] = array
        return self._answers.get((self._array, value))

    def _shape(self, node, sizes):
        if sizes is None:
            return None
        if node.op == "Size":
            known = all(isinstance(size, int) for size in sizes)
            return np.array(np.prod(np.array(sizes, object)), np.int64) if known else None
        part = list(sizes)[slice(node.integer("start", 0), node.integer("end", len(sizes)))]
        known = all(isinstance(size, int) for size in part)
        return np.array(part, np.int64) if known else np.array([*part, None], object)[:-1]

    def _evaluate(self, node, arrays):
        symbolic = [array for array in arrays if array is not None and _is_symbolic(array)]
        if any(array is not None and array.size > _MAX_SYMBOLIC for array in (arrays if symbolic else ())):
            return [None] * len(node.outputs)
        call = Call(arrays, node.attributes(), node.scope.version, len(node.outputs), self._tensors, self._model.onnx)
        try:
            outputs = [np.array(one, object) if isinstance(one, Symbol) else np.asarray(one)
                       for one in OPERATORS[node.op](call)]  # fmt: skip
        except Exception as error:  # whatever NumPy says of arguments that do not fit
            if symbolic:
                return [None] * len(node.outputs)
            raise ValueError(f"{short(node.name)}: {node.op} cannot be computed: {short(error)}") from None
        for i, array in enumerate(outputs):
            if array.base is None and array.dtype != object and not any(array is given for given in arrays):
                self._tensors.spend(array.nbytes, short(node.name))
            elif array.dtype == object and symbolic and not _is_symbolic(array):
                outputs[i] = array.astype(np.int64)
        return outputs

    # -- sizes

    def _sizes(self, value):
        tensor, node = value.scope.initializers.get(value.name), value.producer
        if tensor is not None:
            return tuple(tensor.dims)
        found = None
        if node is not None:
            found = yield from self._sizes_of_output(node, node.outputs.index(value.name))
        return self._declared(value) if found is None else found

    def _declared(self, value):
        """What the graph says of a shape; sizes that it does not name are their own."""
        types = self._types.get(value.scope)
        if types is None:
            types = self._types[value.scope] = value.scope.types()
        kind = types.get(value.name)
        if kind is None or not kind.HasField("shape"):
            return None
        sizes = []
        for i, size in enumerate(kind.shape.dim):
            known = size.HasField("dim_value") and size.dim_value >= 0
            sizes.append(size.dim_value if known else Symbol(size.dim_param or f"{value.name}.{i}"))
        return tuple(sizes)

    def _sizes_of_output(self, node, index):
        sizes = (yield self._sizes, node.input(0)) if node.op not in ("Constant", "ConstantOfShape") else None
        if node.op == "GRU":
            return (yield from self._sizes_of_gru(node, sizes, index))
        if node.op in _SAME_SIZE and index == 0:
            return sizes
        if node.op in _BROADCASTING:
            others = (yield self._sizes, node.input(1)) if len(node.inputs) == 2 else None
            return _broadcast(sizes, others)
        if node.op in ("Expand", "ConstantOfShape"):
            target = yield self._array, node.input(1 if node.op == "Expand" else 0)
            target = None if target is None else tuple(target.reshape(-1)[:_MAX_SYMBOLIC].tolist())
            return _broadcast(sizes, target) if node.op == "Expand" else target
        if node.op == "Transpose" and sizes is not None:
            order = node.integers("perm") or list(range(len(sizes)))[::-1]
            return tuple(sizes[i] for i in order) if sorted(order) == list(range(len(sizes))) else None
        if node.op == "Reshape" and sizes is not None and node.input(1) is not None:
            target = yield self._array, node.input(1)
            return None if target is None else _reshaped(sizes, target.reshape(-1)[:_MAX_SYMBOLIC].tolist())
        if node.op == "Gather" and sizes and node.integer("axis", 0) == 0:
            indices = yield self._sizes, node.input(1)
            return None if indices is None else (*indices, *sizes[1:])
        if node.op == "MatMul" and sizes:
            others = yield self._sizes, node.input(1)
            return (*sizes[:-1], others[1]) if others is not None and len(others) == 2 else None
        if node.op in OPERATORS:
            array = yield self._array, Value(node.scope, node.outputs[index])
            return None if array is None else array.shape
        return None

    def _sizes_of_gru(self, node, sizes, index):
        R = yield self._sizes, node.input(2)
        if R is None or len(R) != 3:
            return None
        if sizes is None or len(sizes) != 3:
            sizes = tuple(Symbol(f"{node.name}.{i}") for i in range(3))
        batch_first = node.integer("layout", 0) == 1
        T, N = (sizes[1], sizes[0]) if batch_first else sizes[:2]
        if index == 0:
            return (N, T, R[0], R[2]) if batch_first else (T, R[0], N, R[2])
        return (N, R[0], R[2]) if batch_first else (R[0], N, R[2])

    # -- zeros

    def _zero(self, value):
        node = value.producer
        if node is not None and node.op == "ConstantOfShape":
            fill = node.attribute("value")
            if fill is None or hasattr(fill, "dims"):
                return fill is None or not self._tensors.array(fill, short(node.name)).any()
        if node is not None and node.op == "Concat":
            for i in range(len(node.inputs)):
                if not (yield self._zero, node.input(i)):
                    return False
            return True
        if node is not None and node.op in _KEEP_ZEROS and (yield self._zero, node.input(0)):
            return True
        array = yield self._array, value
        return array is not None and not _is_symbolic(array) and not array.any()


def _broadcast(one, other):
    if one is None or other is None:
        return None
    length = max(len(one), len(other))
    pairs = zip((1,) * (length - len(one)) + tuple(one), (1,) * (length - len(other)) + tuple(other), strict=True)
    sizes = [b if a == 1 else a if b == 1 or a == b else None for a, b in pairs]
    return None if None in sizes else tuple(sizes)


def _reshaped(sizes, target):
    if len(target) > len(sizes) and 0 in target[len(sizes) :]:
        return None
    target = [sizes[i] if size == 0 else size for i, size in enumerate(target)]
    if target.count(-1) == 1:
        before, after = list(sizes), [size for size in target if size != -1]
        for size in [size for size in after if size in before]:  # what stays, and may be a symbol
            before.remove(size)
            after.remove(size)
        if any(isinstance(size, Symbol) for size in (*before, *after)):
            rest = before[0] if len(before) == 1 and not after else None
        else:
            product, divisor = int(np.prod(before or [1])), int(np.prod(after or [1]))
            rest = product // divisor if divisor and product % divisor == 0 else None
        if rest is None:
            return None
        target = [rest if size == -1 else size for size in target]
    return tuple(target)
