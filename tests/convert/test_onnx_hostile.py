"""Models of ONNX that somebody damaged, or made to do harm: the right layer, or a ValueError or OSError, soon and in
little memory."""

import os
import random
import time
import tracemalloc
import warnings

import numpy as np
import pytest

import cgru

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says when it is imported is not ours
    onnx = pytest.importorskip("onnx")

helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
H, D = 2, 3


def arrays(rng):
    return {"W": rng.standard_normal((1, 3 * H, D)).astype("f4"), "R": rng.standard_normal((1, 3 * H, H)).astype("f4")}


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def model(given, before=(), inputs=("x", "W", "R"), after=(), opset=17, **attributes):
    """A model of a GRU; `given` are initializers, arrays or tensors."""
    tensors = [numpy_helper.from_array(a, n) if isinstance(a, np.ndarray) else a for n, a in given.items()]
    gru = node("GRU", list(inputs), ["y", "y_h"], name="gru", linear_before_reset=1, **attributes)
    graph = helper.make_graph(
        [*before, gru, *after], "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "N", D])],
        [helper.make_empty_tensor_value_info("y")], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


class bounded:
    """At most some seconds of processor time, and memory in proportion to the model's size."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.began = time.thread_time()
        tracemalloc.start()

    def __exit__(self, *error):
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert time.thread_time() - self.began < 30
        assert peak < 400 * self.size + (40 << 20), peak


def refused(source, message=".", name=None, error=(ValueError, OSError)):
    size = source.ByteSize() if hasattr(source, "ByteSize") else 1 << 20
    with bounded(size), pytest.raises(error, match=message) as caught:
        cgru.from_onnx(source, name)
    assert len(str(caught.value)) < 3000


def test_the_good_model_is_good(rng):
    assert cgru.from_onnx(model(arrays(rng))).units == H


# -- circles


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Identity", ["W"], ["W"])],
        [node("Identity", ["a"], ["W"]), node("Identity", ["W"], ["a"])],
        [node("Identity", ["b"], ["W"]), node("Concat", ["W", "W"], ["b"], axis=0)],
        [node("Transpose", ["b"], ["W"]), node("Reshape", ["c", "W"], ["b"]), node("Identity", ["b"], ["c"])],
        [node("Expand", ["a", "s"], ["W"]), node("Shape", ["W"], ["s"]), node("Identity", ["W"], ["a"])],
    ],
    ids=lambda nodes: "-".join(one.op_type for one in nodes),
)
def test_weights_that_depend_on_themselves(rng, nodes):
    given = arrays(rng)
    del given["W"]
    refused(model(given, nodes), "depend on themselves|one node or input for each array")


@pytest.mark.parametrize("slot", ["x", "lens", "h0"])
def test_other_inputs_that_depend_on_themselves(rng, slot):
    name = "z" if slot == "x" else slot
    circle = [node("Identity", ["a"], [name]), node("Identity", [name], ["a"])]
    inputs = {"x": ("z", "W", "R"), "lens": ("x", "W", "R", "", "lens"), "h0": ("x", "W", "R", "", "", "h0")}[slot]
    source = model(arrays(rng), circle, inputs)
    with bounded(source.ByteSize()):
        try:
            assert cgru.from_onnx(source).units == H
        except ValueError as error:
            assert "depend on themselves" in str(error)


def test_a_gru_that_feeds_itself(rng):
    refused(model(arrays(rng), inputs=("y", "W", "y_h")), "gru.R: expected a constant, got 'y_h'")
    source = model(arrays(rng), [node("Squeeze", ["y", "one"], ["z"])], inputs=("z", "W", "R"))
    source.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    with bounded(source.ByteSize()):
        assert cgru.from_onnx(source).units == H


# -- much from little


@pytest.mark.parametrize("n", [16, 40, 200, 2000])
def test_a_chain_that_doubles(rng, n):
    given = arrays(rng)
    chain = [node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(n)]
    given["c0"] = given.pop("W")
    refused(model(given, [*chain, node("Identity", [f"c{n}"], ["W"])]), "gru.W|a model of this size can have")


def test_a_chain_that_doubles_and_halves(rng):
    """Each of two uses of an array is the same array: nothing is computed twice."""
    given = arrays(rng)
    given |= {"c0": given.pop("W"), "half": np.array(0.5, "f4")}
    chain = []
    for i in range(300):
        chain += [node("Add", [f"c{i}", f"c{i}"], [f"d{i}"]), node("Mul", [f"d{i}", "half"], [f"c{i + 1}"])]
    layer = cgru.from_onnx(model(given, [*chain, node("Identity", ["c300"], ["W"])]))
    np.testing.assert_array_equal(cgru.convert.to_onnx_arrays(layer)["W"], given["c0"])


HUGE = np.array([10**6, 10**6])
LARGE = [
    ([node("ConstantOfShape", ["s"], ["W"])], {"s": HUGE}),
    ([node("Expand", ["one", "s"], ["W"])], {"one": np.ones(1, "f4"), "s": HUGE}),
    ([node("Tile", ["one", "s"], ["W"])], {"one": np.ones((1, 1), "f4"), "s": HUGE}),
    ([node("Expand", ["one", "s"], ["e"]), node("Neg", ["e"], ["W"])], {"one": np.ones(1, "f4"), "s": HUGE}),
    ([node("ConstantOfShape", ["s"], ["e"]), node("Slice", ["e", "z", "o"], ["W"])],
     {"s": np.array([10**12]), "z": np.array([0]), "o": np.array([1])}),
    ([node("Gather", ["a", "i"], ["W"])], {"a": np.ones((2, 1000), "f4"), "i": np.zeros(50_000, "i8")}),
    ([node("Add", ["a", "b"], ["W"])], {"a": np.ones((10_000, 1), "f4"), "b": np.ones((1, 10_000), "f4")}),
    ([node("Reshape", ["a", "s"], ["W"])], {"a": np.ones(6, "f4"), "s": HUGE}),
    ([node("ConstantOfShape", ["s"], ["W"])], {"s": np.array([-1])}),
    ([node("ConstantOfShape", ["s"], ["W"])], {"s": np.array([2**62, 2**62, 2**62])}),
    ([node("ConstantOfShape", ["s"], ["W"])], {"s": np.full(100_000, 10**9)}),
    ([node("Expand", ["one", "s"], ["W"])], {"one": np.ones(1, "f4"), "s": np.full(1000, 2)}),
    ([node("Unsqueeze", ["one", "s"], ["W"])], {"one": np.ones(1, "f4"), "s": np.arange(10_000)}),
    ([node("Range", ["z", "n", "o"], ["W"])], {"z": np.array(0), "n": np.array(10**12), "o": np.array(1)}),
    ([node("Pad", ["a", "p"], ["W"])], {"a": np.ones((1, 1), "f4"), "p": np.full(4, 10**6)}),
    ([node("Resize", ["a", "", "f"], ["W"])], {"a": np.ones((1, 1), "f4"), "f": np.full(2, 1e6, "f4")}),
    ([node("OneHot", ["i", "n", "v"], ["W"])], {"i": np.zeros(10, "i8"), "n": np.array(10**12), "v": np.ones(2, "f4")}),
    ([node("DequantizeLinear", ["q", "s"], ["W"], block_size=10**9, axis=1)],
     {"q": np.ones((1, 4), "i1"), "s": np.ones((1, 4), "f4")}),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "given"), LARGE, ids=["-".join(one.op_type for one in nodes) for nodes, _ in LARGE])
@pytest.mark.parametrize("slot", ["W", "h0", "B"])
def test_much_from_little(rng, nodes, given, slot):
    nodes = [onnx.NodeProto.FromString(one.SerializeToString()) for one in nodes]
    nodes[-1].output[0] = slot
    own = arrays(rng)
    own.pop(slot, None)
    inputs = ("x", "W", "R", *(name if slot == name else "" for name in ("B", "lens", "h0")))
    source = model(own | given, nodes, inputs)
    with bounded(source.ByteSize()):
        try:
            assert cgru.from_onnx(source).units == H  # a state may be computed, or zero whatever its shape
            assert slot == "h0"
        except ValueError as error:
            assert len(str(error)) < 3000


def test_much_that_has_nothing_to_do_with_the_node(rng):
    after = [node("ConstantOfShape", ["s"], ["z"]), node("Add", ["y", "z"], ["out"])]
    assert cgru.from_onnx(model(arrays(rng) | {"s": np.array([10**12])}, after=after)).units == H


@pytest.mark.parametrize("op", ["Identity", "Transpose", "Neg", "Squeeze"])
@pytest.mark.parametrize("length", [5000])
def test_long_chains(rng, op, length):
    given = arrays(rng)
    given["c0"] = given.pop("W")[0] if op == "Squeeze" else given.pop("W")
    options = {"perm": [1, 0, 2]} if op == "Transpose" else {}
    chain = [node(op, [f"c{i}"], [f"c{i + 1}"], **options) for i in range(length)]
    last = node("Unsqueeze" if op == "Squeeze" else "Identity", [f"c{length}", "zero"][: 1 + (op == "Squeeze")], ["W"])
    source = model(given | {"zero": np.array([0])}, [*chain, last])
    with bounded(source.ByteSize()):
        layer = cgru.from_onnx(source)
    np.testing.assert_array_equal(cgru.convert.to_onnx_arrays(layer)["W"].reshape(-1), given["c0"].reshape(-1))


@pytest.mark.parametrize("length", [5000])
def test_long_chains_around_the_node(rng, length):
    before = [node("Identity", [f"x{i}" if i else "x"], [f"x{i + 1}"]) for i in range(length)]
    before += [node("Identity", [f"h{i}"], [f"h{i + 1}"]) for i in range(length)]
    after = [node("Identity", [f"y{i}" if i else "y"], [f"y{i + 1}"]) for i in range(length)]
    source = model(
        arrays(rng) | {"h0": np.zeros((1, 1, H), "f4")}, before, (f"x{length}", "W", "R", "", "", f"h{length}"), after
    )
    with bounded(source.ByteSize()):
        assert not cgru.from_onnx(source).learn_initial_state


# -- tensors


def tensor(name, dims, data_type=TensorProto.FLOAT, **fields):
    made = TensorProto(name=name, data_type=data_type, dims=dims)
    for field, value in fields.items():
        getattr(made, field).extend(value) if isinstance(value, list) else setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    "W",
    [
        tensor("W", [10**6, 10**6]),
        tensor("W", [2**62, 2**62, 2**62], raw_data=b"1234"),
        tensor("W", [1, 6, 3], raw_data=b"1234"),
        tensor("W", [1, 6, 3], raw_data=bytes(400)),
        tensor("W", [1, 6, 3], float_data=[1.0] * 17),
        tensor("W", [1, 6, -3], raw_data=bytes(72)),
        tensor("W", [-1, 6, -3], raw_data=bytes(72)),
        tensor("W", [1, 6, 3], data_type=0, raw_data=bytes(72)),
        tensor("W", [1, 6, 3], data_type=999, raw_data=bytes(72)),
        tensor("W", [1, 6, 3], data_type=TensorProto.INT8, raw_data=bytes(17)),
        tensor("W", [1] * 70, raw_data=bytes(4)),
        tensor("W", [0, 6, 3], raw_data=bytes(4)),
        tensor("W", [1, 6, 3]),
    ],
    ids=lambda value: f"{list(value.dims)[:4]}-{value.data_type}-{len(value.raw_data)}",
)
def test_tensors_that_do_not_fit_their_shape(rng, W):
    refused(model(arrays(rng) | {"W": W}))
    constant = node("Constant", [], ["W"], value=W)
    given = arrays(rng)
    del given["W"]
    refused(model(given, [constant]))


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.INT64, TensorProto.BOOL, TensorProto.COMPLEX64])
def test_tensors_of_other_types(rng, kind):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    array = np.zeros((1, 6, 3), dtype) if kind != TensorProto.STRING else np.full((1, 6, 3), "a", object)
    refused(model(arrays(rng) | {"W": array}), "gru.W: expected floating-point numbers", error=TypeError)


# -- external data


def external(name, dims, **entries):
    made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        made.external_data.add(key=key, value=str(value))
    return made


def saved(path, W, given):
    path.write_bytes(model(given | {"W": W}).SerializeToString())
    return path


def test_external_data_are_read_as_they_say(rng, tmp_path):
    given = arrays(rng)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data").write_bytes(b"12345678" + given["W"].tobytes() + b"more")
    for entries in ({"offset": 8, "length": 72}, {"offset": "8", "length": "72", "checksum": "x"}):
        path = saved(tmp_path / "model.onnx", external("W", [1, 6, 3], location="sub/data", **entries), given)
        layer = cgru.from_onnx(path)
        np.testing.assert_array_equal(cgru.convert.to_onnx_arrays(layer)["W"], given["W"])
    (tmp_path / "data").write_bytes(given["W"].tobytes())
    path = saved(tmp_path / "model.onnx", external("W", [1, 6, 3], location="data"), given)
    np.testing.assert_array_equal(cgru.convert.to_onnx_arrays(cgru.from_onnx(path))["W"], given["W"])


def test_data_of_others_are_not_needed(rng, tmp_path):
    given = arrays(rng) | {"other": external("other", [10, 10], location="nowhere")}
    path = saved(tmp_path / "model.onnx", given["W"], given)
    assert cgru.from_onnx(path, "gru").units == H


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "nowhere"}, {"location": "sub"}, {"location": ""}, {}, {"location": "."}, {"location": ".."},
        {"location": "../secret"}, {"location": "{folder}/../secret"}, {"location": "{folder}/data"},
        {"location": "sub/../../secret"}, {"location": "link"}, {"location": "out/secret"}, {"location": "fifo"},
        {"location": "/dev/zero"}, {"location": "/etc/passwd"}, {"location": "a\0b"}, {"location": "x" * 5000},
        {"location": "data", "offset": -1}, {"location": "data", "offset": "x"},
        {"location": "data", "length": 10**12},
        {"location": "data", "offset": 10**12}, {"location": "data", "length": 8}, {"location": "data", "offset": 70},
        {"location": "data", "length": "9" * 5000}, {"location": "data", "length": "1e3"},
        {"location": "data", "offset": "²"}, {"location": "data", "length": 73},
    ],
    ids=str,
)  # fmt: skip
def test_external_data_that_are_not_there(rng, tmp_path, monkeypatch, entries):
    given, folder = arrays(rng), tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(72))
    (folder / "data").write_bytes(bytes(74))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "fifo")
    entries = {key: value.format(folder=folder) if isinstance(value, str) else value for key, value in entries.items()}
    refused(saved(folder / "model.onnx", external("W", [1, 6, 3], **entries), given))
    monkeypatch.chdir(folder)
    with pytest.raises((ValueError, OSError)):  # the same folder, by another name
        cgru.from_onnx("model.onnx")


def test_huge_external_tensors(rng, tmp_path):
    """A file of a terabyte that takes no room on the disk."""
    with open(tmp_path / "data", "wb") as file:
        file.truncate(1 << 30)
    W = external("W", [1 << 20, 1 << 20], location="data")
    refused(saved(tmp_path / "model.onnx", W, arrays(rng)), "expected the data of")


# -- graphs


def test_attributes_of_wrong_types(rng):
    wrong = {
        "hidden_size": ["x", 2.5, [2], "2"], "direction": [3, "sideways", ["forward"], 1.5],
        "clip": ["x", [1.0], float("nan")],
        "layout": [2, -1, "x", 1.5, 10**15], "activations": ["Sigmoid", [1, 2], ["Sigmoid"], ["a"] * 1000],
        "activation_alpha": ["x", 1.0, ["a"]], "linear_before_reset": ["x", [1], 1.5],
        "output_sequence": ["x"], "unknown": [1],
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            source = model(arrays(rng))
            gru = source.graph.node[0]
            for i, attribute in enumerate(gru.attribute):
                if attribute.name == name:
                    del gru.attribute[i]
                    break
            gru.attribute.append(helper.make_attribute(name, value))
            refused(source)


@pytest.mark.parametrize(
    "inputs",
    [[], [""], ["x"], ["x", "W"], ["", "W", "R"], ["x", "", "R"], ["x", "R", "W"], ["nowhere", "W", "R"],
     ["x", "nowhere", "R"], ["x", "W", "R", "nowhere"]],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("outputs", [[], [""], ["", "h"], ["y"]], ids=str)
def test_inputs_and_outputs_that_are_missing(rng, inputs, outputs):
    source = model(arrays(rng))
    gru = source.graph.node[0]
    del gru.input[:], gru.output[:]
    gru.input.extend(inputs)
    gru.output.extend(outputs)
    with bounded(source.ByteSize()):
        try:
            assert cgru.from_onnx(source).units == H
        except ValueError:
            pass


@pytest.mark.filterwarnings("ignore::cgru.convert.PartialConversionWarning")
def test_arguments_that_do_not_fit(rng):
    """Operators on constants, with inputs and attributes of all kinds in place of theirs."""
    chance = random.Random(0)
    ops = ["Concat", "Gather", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze", "Tile", "Transpose", "Expand",
           "Cast", "ConstantOfShape", "DequantizeLinear", "QuantizeLinear", "Mul", "ReduceSum", "ReduceL2", "Clip",
           "Constant", "Shape", "CastLike", "Pow", "Div", "Max"]  # fmt: skip
    values = {
        "f": np.ones((1, 6, 3), "f4"), "i": np.array([0, 1]), "n": np.array([-5, 10**9]), "s": np.array("text"),
        "e": np.zeros(0), "o": np.array(7), "b": np.array([True]), "z": np.array([0], "i4"),
        "nan": np.array([np.nan, np.inf], "f4"),
    }  # fmt: skip
    attributes = [
        {}, {"axis": 10**9}, {"axis": -7}, {"axis": "x"}, {"perm": [0, 0]}, {"perm": ["a"]}, {"perm": [10**9, -1, 3]},
        {"axes": [99]}, {"axes": 1.5}, {"to": 99}, {"to": "x"}, {"to": 8}, {"value": 3}, {"start": "x"},
        {"split": [-1, 7]}, {"keepdims": "x"}, {"starts": [1], "ends": [2, 3]}, {"block_size": -3},
    ]  # fmt: skip
    for _ in range(1000):
        op = chance.choice(ops)
        given = arrays(rng)
        del given["W"]
        inputs = [chance.choice([*values, "", "x", "nowhere"]) for _ in range(chance.randint(0, 5))]
        made = node(op, inputs, ["W", "other"][: chance.randint(1, 2)], **chance.choice(attributes))
        source = model(given | values, [made], opset=chance.choice([1, 6, 10, 11, 13, 17, 18, 21]))
        try:
            cgru.from_onnx(source)
        except (ValueError, TypeError) as error:  # a TypeError of weights that are no floating-point numbers
            assert isinstance(error, ValueError) or "expected floating-point numbers" in str(error), (op, inputs)


@pytest.mark.filterwarnings("ignore::cgru.convert.PartialConversionWarning")
def test_damaged_files(rng, tmp_path):
    given = arrays(rng)
    before = [node("Concat", ["a", "b"], ["W"], axis=1), node("Shape", ["x"], ["s"]), node("Identity", ["x"], ["z"])]
    given |= {"a": given["W"][:, :3], "b": given.pop("W")[:, 3:]}
    original = model(given, before, inputs=("z", "W", "R")).SerializeToString()
    path, chance = tmp_path / "model.onnx", random.Random(0)
    for _ in range(1500):
        data = bytearray(original)
        for _ in range(chance.choice([1, 1, 2, 4])):
            position, size = chance.randrange(len(data)), chance.choice([1, 1, 2, 4])
            data[position : position + size] = chance.choice([bytes(size), b"\xff" * size, chance.randbytes(size)])
        path.write_bytes(bytes(data[: len(data) // 2]) if chance.random() < 0.1 else bytes(data))
        try:
            cgru.from_onnx(path)
        except (ValueError, OSError, TypeError) as error:
            wanted = "expected floating-point numbers" if isinstance(error, TypeError) else str(path)
            assert wanted in str(error) and len(str(error)) < 3000
