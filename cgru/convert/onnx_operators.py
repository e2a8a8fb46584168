"""Operators of ONNX on constants, in NumPy: what exporters leave between the weights and the node that takes them.

An operator is a function of a `Call` and gives its outputs. Whatever can be larger than its inputs asks for room first.
"""

import functools
import math

import numpy as np

_MAX_RANK = 32  # of NumPy's arrays before 2.0


class Call:
    """What an operator is given: arrays, None for those that are left out, and attributes."""

    def __init__(self, arrays, attributes, version, outputs, tensors, onnx):
        self.arrays, self.version, self.outputs, self.onnx = arrays, version, outputs, onnx
        self._attributes, self._tensors = attributes, tensors

    def array(self, index):
        return self.arrays[index] if index < len(self.arrays) else None

    def has(self, name):
        return name in self._attributes

    def integer(self, name, default):
        value = self._attributes.get(name, default)
        if not isinstance(value, int):
            raise ValueError(f"expected an integer as {name}, got {value!r}")
        return value

    def integers(self, index, name):
        """A list of integers, in an input or, in older versions, in an attribute; None where there is neither."""
        array = self.array(index)
        values = self._attributes.get(name) if array is None else array.reshape(-1).tolist()
        if values is not None and not (isinstance(values, list) and all(isinstance(value, int) for value in values)):
            raise ValueError(f"expected integers as {name}, got something else")
        return values

    def number(self, name, default):
        value = self._attributes.get(name, default)
        if not isinstance(value, (int, float)):
            raise ValueError(f"expected a number as {name}, got {value!r}")
        return value

    def tensor(self, name):
        value = self._attributes.get(name)
        if value is not None and not hasattr(value, "dims"):
            raise ValueError(f"expected a tensor as {name}, got something else")
        return None if value is None else self._tensors.array(value, name)

    def value(self, name):
        return self._attributes[name]

    def room(self, shape, dtype):
        """ValueError unless there may be an array of this shape."""
        if len(shape) > _MAX_RANK or any(size < 0 for size in shape):
            raise ValueError(f"expected at most {_MAX_RANK} sizes of at least 0, got {list(shape)[:8]}")
        size = math.prod(shape) * max(1, np.dtype(dtype).itemsize)
        if size > self._tensors.left:
            raise ValueError(f"expected a constant that a model of this size can have, got one of {size} bytes")

    def room_together(self, *arrays):
        """The same for the shape that these arrays have when they are broadcast."""
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        self.room(shape, max((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize))
        return shape


# -- what moves numbers


def identity(call):
    return [call.array(0)]


def constant(call):
    if call.has("value"):
        return [call.tensor("value")]
    for name, dtype in (("value_float", "f4"), ("value_int", "i8"), ("value_floats", "f4"), ("value_ints", "i8")):
        if call.has(name):
            return [np.array(call.value(name), dtype)]
    raise ValueError("expected a value of numbers, got another one")


def cast(call):
    return [_cast(call, call.onnx.helper.tensor_dtype_to_np_dtype(call.integer("to", 0)))]


def cast_like(call):
    return [_cast(call, call.array(1).dtype)]


def _cast(call, dtype):
    array = call.array(0)
    if array.dtype == object:  # sizes that are not known are integers
        if np.dtype(dtype).kind not in "iu":
            raise ValueError("expected sizes to stay integers, got another type")
        return array
    call.room(array.shape, dtype)
    with np.errstate(all="ignore"):
        return array.astype(dtype)


def concat(call):
    first = call.array(0)
    axis = call.integer("axis", 1)
    total = sum(array.size for array in call.arrays)
    call.room((total,), first.dtype)
    return [np.concatenate(call.arrays, axis)]


def constant_of_shape(call):
    fill = call.tensor("value") if call.has("value") else np.zeros(1, "f4")
    shape = call.array(0).tolist()
    call.room(shape, fill.dtype)
    return [np.full(shape, fill.reshape(-1)[0], fill.dtype)]


def expand(call):
    array = call.array(0)
    target = call.array(1).reshape(-1).tolist()
    call.room([size for size in target if size != 1], "u1")
    shape = np.broadcast_shapes(array.shape, tuple(target))
    call.room(shape, array.dtype)
    return [np.broadcast_to(array, shape)]


def gather(call):
    array, indices, axis = call.array(0), call.array(1), call.integer("axis", 0)
    axis = axis + array.ndim if axis < 0 else axis
    if not 0 <= axis < array.ndim:
        raise ValueError(f"expected an axis below {array.ndim}, got {axis}")
    call.room((*array.shape[:axis], *indices.shape, *array.shape[axis + 1 :]), array.dtype)
    return [np.take(array, indices, axis)]


def reshape(call):
    array, shape = call.array(0), call.integers(1, "shape")
    if not call.integer("allowzero", 0):
        shape = [array.shape[i] if size == 0 and i < array.ndim else size for i, size in enumerate(shape)]
    if len(shape) > _MAX_RANK:
        raise ValueError(f"expected at most {_MAX_RANK} sizes, got {len(shape)}")
    return [array.reshape(shape)]


def slice_(call):
    array = call.array(0)
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = call.integers(4, "steps") or [1] * len(starts)
    parts = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        parts[axis] = slice(start, end, step)
    return [array[tuple(parts)]]


def split(call):
    array, axis = call.array(0), call.integer("axis", 0)
    sizes = call.integers(1, "split")
    size = array.shape[axis]
    if sizes is None:
        own = -(-size // call.outputs)
        sizes = [own] * (call.outputs - 1) + [size - own * (call.outputs - 1)]
    if sum(sizes) != size or min(sizes) < 0 or len(sizes) != call.outputs:
        raise ValueError(f"expected {call.outputs} parts of {size} in all, got {sizes[:20]}")
    return np.split(array, np.cumsum(sizes)[:-1], axis)


def squeeze(call):
    axes = call.integers(1, "axes")
    return [np.squeeze(call.array(0), None if axes is None else tuple(axes))]


def unsqueeze(call):
    array, axes = call.array(0), call.integers(1, "axes")
    if array.ndim + len(axes) > _MAX_RANK:
        raise ValueError(f"expected at most {_MAX_RANK} axes, got more")
    return [np.expand_dims(array, tuple(axes))]


def tile(call):
    array, repeats = call.array(0), call.array(1).tolist()
    call.room([size * times for size, times in zip(array.shape, repeats, strict=True)], array.dtype)
    return [np.tile(array, repeats)]


def transpose(call):
    return [np.transpose(call.array(0), call.integers(len(call.arrays), "perm"))]


# -- what computes


def _elementwise(function, inputs):
    """Of one input, of two, or of any number that are taken one after the other (None)."""

    def operator(call):
        if len(call.arrays) != inputs and inputs is not None:
            raise ValueError(f"expected {inputs} inputs, got {len(call.arrays)}")
        call.room_together(*call.arrays)
        with np.errstate(all="ignore"):
            return [function(call.array(0)) if inputs == 1 else functools.reduce(function, call.arrays)]

    return operator


def _divide(a, b):
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        if not b.all():
            raise ValueError("expected no division by zero, got one")
        quotient = np.abs(a) // np.abs(b)
        return np.where((a < 0) != (b < 0), -quotient, quotient)
    return a / b


def clip(call):
    array, low, high = call.array(0), call.array(1), call.array(2)
    if call.version < 11:
        low, high = (np.array(call.number(name, default), array.dtype)
                     for name, default in (("min", -np.inf), ("max", np.inf)))  # fmt: skip
    array = array if low is None else np.maximum(array, low)
    return [array if high is None else np.minimum(array, high)]


def _reduction(function):
    def operator(call):
        array, axes = call.array(0), call.integers(1, "axes")
        if not axes and call.integer("noop_with_empty_axes", 0):
            return [array]
        axes = tuple(axes) if axes else None
        with np.errstate(all="ignore"):
            return [function(array, axes, bool(call.integer("keepdims", 1)))]

    return operator


def _norm(array, axes, keepdims):
    return np.sqrt(np.sum(array * array, axes, keepdims=keepdims))


def dequantize(call):
    """(x - zero point) * scale, one for all, for each of an axis, or for each block of it; before opset 19 as well."""
    x, scale, zero = call.array(0), call.array(1), call.array(2)
    call.room(x.shape, "f4")
    scale, zero = (None if part is None else _along(call, part, x) for part in (scale, zero))
    if zero is not None:
        common = np.int64 if _is_integer(x) else scale.dtype
        x = x.astype(common) - zero.astype(common)
    return [x.astype(scale.dtype) * scale]


def quantize(call):
    x, scale, zero = call.array(0), call.array(1), call.array(2)
    dtype = np.dtype("u1") if zero is None else zero.dtype
    if dtype.kind not in "iu":
        raise ValueError(f"expected integers, got {dtype}")
    call.room(x.shape, "f8")
    scale = _along(call, scale, x)
    y = np.rint(x / scale) + (0 if zero is None else _along(call, zero, x).astype(np.float64))
    limits = np.iinfo(dtype)
    return [np.clip(y, limits.min, limits.max).astype(dtype)]


def _is_integer(array):
    return array.dtype.kind in "iu" or array.dtype.name in ("int4", "uint4", "int2", "uint2")


def _along(call, part, x):
    """Scales or zero points in the shape of x, or one that is broadcast to it."""
    if part.size == 1 and part.ndim <= 1:
        return part.reshape(())
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    axis = axis + x.ndim if axis < 0 else axis
    if not 0 <= axis < x.ndim:
        raise ValueError(f"expected an axis below {x.ndim}, got {axis}")
    if part.ndim == 1:
        return part.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    if block <= 0 or part.ndim != x.ndim or part.shape[axis] * block > x.shape[axis] + block:
        raise ValueError(f"expected a scale for all, for each of an axis or for each block, got shape {part.shape}")
    call.room(x.shape, part.dtype)
    return np.take(np.repeat(part, block, axis), np.arange(x.shape[axis]), axis)


OPERATORS = {
    "Abs": _elementwise(np.abs, 1), "Add": _elementwise(np.add, 2), "Cast": cast, "CastLike": cast_like, "Clip": clip,
    "Concat": concat, "Constant": constant, "ConstantOfShape": constant_of_shape, "DequantizeLinear": dequantize,
    "Div": _elementwise(_divide, 2), "Expand": expand, "Gather": gather, "Identity": identity,
    "Max": _elementwise(np.maximum, None), "Min": _elementwise(np.minimum, None), "Mul": _elementwise(np.multiply, 2),
    "Neg": _elementwise(np.negative, 1), "Pow": _elementwise(lambda a, b: np.power(a, b).astype(a.dtype), 2),
    "QuantizeLinear": quantize, "Reciprocal": _elementwise(lambda a: 1 / a, 1), "ReduceL2": _reduction(_norm),
    "ReduceMax": _reduction(lambda a, axes, keep: np.max(a, axes, keepdims=keep)),
    "ReduceMean": _reduction(lambda a, axes, keep: np.mean(a, axes, keepdims=keep)),
    "ReduceSum": _reduction(lambda a, axes, keep: np.sum(a, axes, keepdims=keep)),
    "ReduceSumSquare": _reduction(lambda a, axes, keep: np.sum(a * a, axes, keepdims=keep)),
    "Reshape": reshape, "Slice": slice_, "Split": split, "Sqrt": _elementwise(np.sqrt, 1), "Squeeze": squeeze,
    "Sub": _elementwise(np.subtract, 2), "Tile": tile, "Transpose": transpose, "Unsqueeze": unsqueeze,
}  # fmt: skip
