"""What is computed from constants, against ONNX' own evaluation of each operator in the versions that it has had."""

import warnings

import numpy as np
import pytest

import cgru
from cgru.convert import to_onnx_arrays

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says when it is imported is not ours
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

from cgru.convert.onnx_constants import Constants
from cgru.convert.onnx_model import Model, Tensors, Value

helper, numpy_helper = onnx.helper, onnx.numpy_helper


def model_of(nodes, inputs, outputs, opset=17):
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in inputs.items()]
    values = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "graph", [], values, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def folded(model, outputs, size=1 << 20):
    graph = Model(onnx, model)
    constants = Constants(graph, Tensors(onnx, None, size))
    return [constants.array(Value(graph.main, name)) for name in outputs]


def assert_folded(op, inputs, outputs=1, opset=17, expected=None, **attributes):
    names = [f"y{i}" for i in range(outputs)]
    given = {f"x{i}": array for i, array in enumerate(inputs) if array is not None}
    node = helper.make_node(op, [f"x{i}" if f"x{i}" in given else "" for i in range(len(inputs))], names, **attributes)
    model = model_of([node], given, names, opset)
    if expected is None:
        expected = ReferenceEvaluator(model).run(None, {})
    for ours, theirs in zip(folded(model, names), expected, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


X = np.arange(24, dtype="f4").reshape(2, 3, 4) / 7 - 1


@pytest.mark.parametrize(
    ("op", "inputs", "options"),
    [
        ("Identity", [X], {}),
        ("Cast", [X], {"to": 11}), ("Cast", [X * 9], {"to": 7}), ("Cast", [X], {"to": 10}),
        ("Cast", [X > 0], {"to": 1}), ("CastLike", [X, np.zeros(1)], {}),
        ("Concat", [X, X, X * 2], {"axis": 1}), ("Concat", [X, X], {"axis": -1}),
        ("ConstantOfShape", [np.array([2, 3])], {}),
        ("ConstantOfShape", [np.array([2, 0])], {"value": numpy_helper.from_array(np.array([7], "i8"))}),
        ("ConstantOfShape", [np.array([], "i8")], {"value": numpy_helper.from_array(np.array([2.5]))}),
        ("Expand", [X[:, :1], np.array([2, 3, 4])], {}), ("Expand", [X[0], np.array([5, 1, 1])], {}),
        ("Gather", [X, np.array([[0, -1], [1, 1]])], {"axis": 1}), ("Gather", [X, np.array(1)], {}),
        ("Reshape", [X, np.array([4, -1])], {}), ("Reshape", [X, np.array([0, 12])], {}),
        ("Reshape", [X[:, :0], np.array([0, 5, 4])], {"allowzero": 1}),
        ("Slice", [X, np.array([1]), np.array([3]), np.array([1])], {}),
        ("Slice", [X, np.array([0, -3]), np.array([9, -1])], {}),
        ("Slice", [X, np.array([-1]), np.array([-(2**63)]), np.array([2]), np.array([-1])], {}),
        ("Slice", [X, np.array([3]), np.array([0]), np.array([-1]), np.array([-2])], {}),
        ("Slice", [X], {"opset": 9, "starts": [1], "ends": [3], "axes": [2]}),
        ("Squeeze", [X[:, :1], np.array([1])], {}), ("Squeeze", [X[:1, :, :1]], {}),
        ("Squeeze", [X[:, :1]], {"opset": 11, "axes": [1]}),
        ("Unsqueeze", [X, np.array([0, 2])], {}), ("Unsqueeze", [X], {"opset": 11, "axes": [0]}),
        ("Tile", [X, np.array([1, 2, 3])], {}),
        ("Transpose", [X], {"perm": [2, 0, 1]}), ("Transpose", [X], {}),
        ("Shape", [X], {}), ("Shape", [X], {"start": 1}), ("Shape", [X], {"start": -2, "end": -1}), ("Size", [X], {}),
        ("Add", [X, X[0]], {}), ("Sub", [X, X[:, :1]], {}), ("Mul", [X, np.float32(3)], {}), ("Div", [X, X + 9], {}),
        ("Div", [np.array([7, -7, 8]), np.array([2, 2, -3])], {"expected": [np.array([3, -3, -2])]}),
        ("Max", [X, X[0], np.float32(0)], {}), ("Min", [X, X * 2], {}), ("Max", [X], {}),
        ("Pow", [X, np.float32(2)], {}), ("Sqrt", [X + 2], {}), ("Neg", [X], {}), ("Abs", [X], {}),
        ("Reciprocal", [X + 5], {}),
        ("Clip", [X, np.float32(-0.5), np.float32(0.5)], {}), ("Clip", [X, None, np.float32(0.5)], {}),
        ("Clip", [X], {"opset": 6, "min": -0.25}),
        ("ReduceL2", [X], {"axes": [1]}), ("ReduceL2", [X, np.array([1, 2])], {"opset": 18, "keepdims": 0}),
        ("ReduceSum", [X, np.array([-1])], {}), ("ReduceSum", [X], {"opset": 11, "axes": [0], "keepdims": 0}),
        ("ReduceSum", [X], {}), ("ReduceSum", [X, np.array([], "i8")], {"noop_with_empty_axes": 1}),
        ("ReduceMean", [X], {"axes": [2]}), ("ReduceMax", [X], {"axes": [0]}), ("ReduceSumSquare", [X], {"axes": [1]}),
        ("QuantizeLinear", [X, np.float32(0.02), np.int8(3)], {"opset": 13}),
        ("QuantizeLinear", [X, np.full(3, 0.01, "f4"), np.zeros(3, "u1")], {"opset": 13}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_an_operator(op, inputs, options):
    assert_folded(op, inputs, **options)


@pytest.mark.parametrize(
    ("inputs", "options"),
    [([X, None], {"opset": 11, "axis": 2, "split": [1, 3]}), ([X, np.array([3, 1])], {"axis": -1}),
     ([X], {"opset": 13, "axis": 2}), ([X], {"opset": 18, "axis": 1, "num_outputs": 2})],
)  # fmt: skip
def test_split(inputs, options):
    assert_folded("Split", inputs if inputs[-1] is not None else inputs[:1], outputs=2, **options)


def test_constants_of_every_kind():
    kinds = {"value_float": 1.5, "value_floats": [1.0, 2.0], "value_int": 3, "value_ints": [1, 2]}
    for name, value in kinds.items():
        assert_folded("Constant", [], **{name: value})
    for array in (X, X.astype("f8"), X.astype("f2"), np.array(3, "i4"), np.array([True])):
        assert_folded("Constant", [], value=numpy_helper.from_array(array))


Q = np.array([[1, 2, -3], [4, -128, 127]], "i1")


@pytest.mark.parametrize("opset", [10, 13, 18, 19, 21])
@pytest.mark.parametrize(
    ("scale", "zero", "options"),
    [(np.float32(0.5), np.int8(3), {}), (np.float32(0.5), None, {}), (np.array([0.5], "f4"), np.array([3], "i1"), {}),
     (np.array([1, 2, 4], "f4"), np.array([1, 0, -1], "i1"), {}), (np.array([1, 2], "f4"), None, {"axis": 0}),
     (np.array([1, 2], "f4"), np.array([5, -5], "i1"), {"axis": -2})],
)  # fmt: skip
def test_dequantized_weights(scale, zero, options, opset):
    """In the versions before 19 as well, which ONNX' own evaluation does not know."""
    if opset == 10 and scale.size > 1:
        pytest.skip("one scale for all before version 13")
    axis = options.get("axis", 1)

    def along(part):
        return part.reshape([-1 if i == axis % 2 else 1 for i in range(2)]) if part.size > 1 else part.reshape(())

    expected = (Q.astype("f4") - (0 if zero is None else along(zero).astype("f4"))) * along(scale)
    assert_folded("DequantizeLinear", [Q, scale, zero], opset=opset, expected=[expected], **options)


def test_dequantized_blocks():
    x = np.arange(12, dtype="u1").reshape(2, 6)
    scale = np.array([[1, 2, 4], [8, 16, 32]], "f4")
    expected = (x.astype("f4") - 3) * np.repeat(scale, 2, 1)
    zero = np.full((2, 3), 3, "u1")
    assert_folded("DequantizeLinear", [x, scale, zero], opset=21, axis=1, block_size=2, expected=[expected])


def test_shapes_that_are_known_in_part():
    """A size that is not known passes through what sizes are computed with, and the others come out as numbers."""
    x = helper.make_tensor_value_info("x", 1, ["batch", 3, "time"])
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "two"], ["time"]),
            helper.make_node("Unsqueeze", ["time", "zero"], ["time_1"]),
            helper.make_node("Slice", ["shape", "one", "two_1"], ["three"]),
            helper.make_node("Mul", ["three", "two"], ["six"]),
            helper.make_node("Concat", ["time_1", "six", "one"], ["new"], axis=0),
            helper.make_node("Expand", ["fill", "new"], ["filled"]),
            helper.make_node("Shape", ["filled"], ["again"], start=1),
        ],
        "graph", [x], [helper.make_empty_tensor_value_info("again")],
        [numpy_helper.from_array(np.array(value), name) for name, value in (
            ("two", 2), ("zero", [0]), ("one", [1]), ("two_1", [2]), ("fill", 0.5))],
    )  # fmt: skip
    model = Model(onnx, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    constants = Constants(model, Tensors(onnx, None, 1 << 16))
    assert constants.array(Value(model.main, "six")).tolist() == [6]
    assert constants.array(Value(model.main, "new")) is None
    assert repr(constants.shape_items(Value(model.main, "new"))) == "[time, 6, 1]"
    assert constants.array(Value(model.main, "again")).tolist() == [6, 1]
    assert constants.array(Value(model.main, "filled")) is None


def gru_of(before, arrays, opset=17):
    node = helper.make_node("GRU", ["x", "W", "R"], ["y"], linear_before_reset=1)
    inputs = [helper.make_tensor_value_info("x", 1, [None, None, 2])]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    outputs = [helper.make_empty_tensor_value_info("y")]
    graph = helper.make_graph([*before, node], "graph", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_masked_and_normalised_weights(rng):
    """W = W * mask, R = g * v / |v|."""
    W, R = rng.standard_normal((1, 6, 2)).astype("f4"), rng.standard_normal((1, 6, 2)).astype("f4")
    mask, g = (rng.random((1, 6, 2)) > 0.5).astype("f4"), rng.random((1, 6, 1)).astype("f4")
    before = [
        helper.make_node("Mul", ["W0", "mask"], ["W"]),
        helper.make_node("ReduceL2", ["v"], ["norm"], axes=[2]),
        helper.make_node("Div", ["v", "norm"], ["direction"]),
        helper.make_node("Mul", ["g", "direction"], ["R"]),
    ]
    layer = cgru.from_onnx(gru_of(before, {"W0": W, "mask": mask, "v": R, "g": g}))
    arrays = to_onnx_arrays(layer)
    np.testing.assert_array_equal(arrays["W"], W * mask)
    np.testing.assert_allclose(arrays["R"], g * R / np.linalg.norm(R, axis=2, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("opset", [13, 18, 19, 21])
def test_a_quantised_gru(rng, opset):
    W, R = rng.integers(-128, 128, (1, 6, 2), "i1"), rng.integers(-128, 128, (1, 6, 2), "i1")
    scale = np.float32(1 / 64)
    before = [helper.make_node("DequantizeLinear", [f"{name}q", "scale"], [name]) for name in "WR"]
    layer = cgru.from_onnx(gru_of(before, {"Wq": W, "Rq": R, "scale": scale}, opset))
    arrays = to_onnx_arrays(layer)
    np.testing.assert_array_equal(arrays["W"], W.astype("f4") / 64)
    np.testing.assert_array_equal(arrays["R"], R.astype("f4") / 64)
