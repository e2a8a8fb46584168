"""Models of ONNX around the GRU operator, in and out; tests/parity/test_onnxruntime.py runs them."""

import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import to_onnx, to_onnx_arrays

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says when it is imported is not ours
    onnx = pytest.importorskip("onnx")

helper, numpy_helper = onnx.helper, onnx.numpy_helper
N, T, D, H = checks.N, checks.T, checks.D, checks.H


def gru_model(weights, extra=(), inputs=("x", "W", "R", "B"), before=(), after=(), name="gru", opset=14, **attributes):
    """A model of a GRU node: `weights` are initializers, `extra` names of graph inputs, `before` and `after` nodes."""
    inputs = [key if key in ("x", *weights, *extra) or any(key in n.output for n in before) else "" for key in inputs]
    node = helper.make_node("GRU", inputs, ["y", "y_h"], name=name, **attributes)
    floats = [helper.make_tensor_value_info(key, onnx.TensorProto.DOUBLE, None) for key in ("x", *extra)]
    graph = helper.make_graph(
        [*before, node, *after], "graph", floats, [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_both_directions_with_parameters_of_activations():
    layer = cgru.GRU(H, recurrent_activation="hard_sigmoid", bidirectional=True, input_size=D)
    assert cgru.from_onnx(to_onnx(layer)).recurrent_activation == "hard_sigmoid"


# -- layouts


def transpose(source, target, perm):
    return helper.make_node("Transpose", [source], [target], perm=perm)


def test_the_layer_takes_what_the_model_takes(rng):
    weights = checks.onnx_arrays(rng)
    flipped = [transpose("x", "x_t", [1, 0, 2]), helper.make_node("Identity", ["x_t"], ["x_i"])]
    inputs = ("x_i", "W", "R", "B")
    assert cgru.from_onnx(gru_model(weights)).time_major
    assert not cgru.from_onnx(gru_model(weights, layout=1)).time_major
    assert not cgru.from_onnx(gru_model(weights, before=flipped, inputs=inputs)).time_major
    assert cgru.from_onnx(gru_model(weights, before=flipped, inputs=inputs, layout=1)).time_major
    computed = [helper.make_node("Relu", ["x"], ["x_i"])]
    with pytest.warns(cgru.convert.PartialConversionWarning, match=r"left out: Relu\."):
        assert cgru.from_onnx(gru_model(weights, before=computed, inputs=inputs)).time_major
    assert not cgru.from_onnx(gru_model(weights), time_major=False).time_major


# -- weights that are no plain initializers


def test_weights_of_constants(rng):
    """Constant nodes, raw or typed, and what is computed from constants alone."""
    weights = checks.onnx_arrays(rng)
    W = numpy_helper.from_array(weights["W"][0])
    R = helper.make_tensor("R", onnx.TensorProto.DOUBLE, weights["R"].shape, weights["R"].ravel())
    assert W.raw_data and R.double_data
    axis = numpy_helper.from_array(np.array([0]))
    before = [
        helper.make_node("Constant", [], ["W_0"], value=W),
        helper.make_node("Constant", [], ["axis"], value=axis),
        helper.make_node("Unsqueeze", ["W_0", "axis"], ["W_1"]),
        helper.make_node("Identity", ["W_1"], ["W"]),
        helper.make_node("Constant", [], ["R"], value=R),
        helper.make_node("Split", ["B_both"], ["B_0", "B_1"], axis=1),
        helper.make_node("Concat", ["B_0", "B_1"], ["B"], axis=1),
    ]
    layer = cgru.from_onnx(gru_model({"B_both": weights["B"]}, before=before, linear_before_reset=1))
    checks.assert_same_arrays(to_onnx_arrays(layer), weights)


def test_bytes_and_paths(rng, tmp_path):
    weights = checks.onnx_arrays(rng)
    model = gru_model(weights, linear_before_reset=1)
    onnx.save(model, tmp_path / "model.onnx")
    for source in (model.SerializeToString(), tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
        checks.assert_same_arrays(to_onnx_arrays(cgru.from_onnx(source)), weights)
    (tmp_path / "junk.onnx").write_bytes(b"\xff junk")
    for source in (b"\xff junk", tmp_path / "junk.onnx"):
        with pytest.raises(ValueError, match=r"^model: expected an ONNX model, got .* that cannot be parsed"):
            cgru.from_onnx(source)
    with pytest.raises(TypeError, match=r"^model: expected an onnx.ModelProto, a path or bytes, got GraphProto"):
        cgru.from_onnx(model.graph)
    with pytest.raises(FileNotFoundError):
        cgru.from_onnx(tmp_path / "none.onnx")


def test_external_data(rng, tmp_path):
    weights = checks.onnx_arrays(rng)
    path = tmp_path / "model.onnx"
    onnx.save(gru_model(weights, linear_before_reset=1), path, save_as_external_data=True, size_threshold=0)
    checks.assert_same_arrays(to_onnx_arrays(cgru.from_onnx(path)), weights)
    with pytest.raises(ValueError, match=r"^W: expected its data in the model, got external data; give the model's p"):
        cgru.from_onnx(path.read_bytes())


# -- initial states and lengths


INPUTS = ("x", "W", "R", "B", "lens", "h0")


def test_initial_states_that_are_zero(rng):
    weights = checks.onnx_arrays(rng)
    assert not cgru.from_onnx(gru_model(weights | {"h0": np.zeros((1, N, H))}, inputs=INPUTS)).learn_initial_state
    shape = helper.make_node("Shape", ["x"], ["shape"])
    zeros = helper.make_node("ConstantOfShape", ["shape"], ["zeros"])
    part = helper.make_node("Slice", ["zeros", "start", "end"], ["h0"])
    integers = {"start": np.array([0]), "end": np.array([1])}
    model = gru_model(weights | integers, before=[shape, zeros, part], inputs=INPUTS)
    assert not cgru.from_onnx(model).learn_initial_state


def test_initial_states_of_the_caller(rng):
    """An input of the model, or computed: as x is."""
    weights = checks.onnx_arrays(rng)
    assert not cgru.from_onnx(gru_model(weights, extra=("h0",), inputs=INPUTS)).learn_initial_state
    computed = helper.make_node("Tanh", ["state"], ["h0"])
    assert not cgru.from_onnx(
        gru_model(weights, extra=("state",), before=[computed], inputs=INPUTS)
    ).learn_initial_state
    rows = rng.uniform(-1, 1, (1, N, H))
    with pytest.raises(ValueError, match=r"^gru.initial_h: cannot convert a constant with a row for each sequence"):
        cgru.from_onnx(gru_model(weights | {"h0": rows}, inputs=INPUTS))


def test_a_constant_initial_state(rng):
    """As it is, and expanded to as many rows as x has."""
    weights, h0 = checks.onnx_arrays(rng), rng.uniform(-1, 1, (1, 1, H))
    model = gru_model(weights | {"h0": h0}, inputs=INPUTS, linear_before_reset=1)
    layer = cgru.from_onnx(model)
    checks.assert_same_arrays(to_onnx_arrays(layer), [*weights.values(), h0])
    checks.assert_same_arrays(cgru.from_onnx(to_onnx(layer)).get_weights(), layer.get_weights())


def test_lengths(rng):
    weights = checks.onnx_arrays(rng)
    assert isinstance(cgru.from_onnx(gru_model(weights, extra=("lens",), inputs=INPUTS)), cgru.GRU)
    with pytest.raises(ValueError, match=r"^gru: cannot convert a constant sequence_lens exactly: .*lengths="):
        cgru.from_onnx(gru_model(weights | {"lens": np.array([1, 2, 3], "int32")}, inputs=INPUTS))


# -- several nodes


@pytest.mark.parametrize("directions", [1, 2])
def test_nodes_in_a_row_become_one_stack(rng, directions):
    """What to_onnx writes for layers: Squeeze, or Transpose and Reshape, between the nodes."""
    layer = checks.random_layer(
        rng, H, num_layers=3, bidirectional=directions == 2, reset_after=True, return_sequences=True, dtype="float64",
        input_size=D,
    )  # fmt: skip
    model = cgru.from_onnx(to_onnx(layer))
    assert isinstance(model, cgru.GRU) and model.num_layers == 3
    checks.assert_same_arrays(model.get_weights(), layer.get_weights())
    x = rng.standard_normal((N, T, D))
    np.testing.assert_array_equal(model(x)[0], layer(x))
    one = cgru.from_onnx(to_onnx(layer), "gru_1")
    assert one.input_size == directions * H and one.bidirectional == (directions == 2)


def test_unequal_nodes_in_both_layouts(rng):
    """A row over transpositions that cancel, with layout 1 on top."""
    first, second = checks.onnx_arrays(rng), checks.onnx_arrays(rng, inputs=H, units=5)
    second = {f"{name}_2": array for name, array in second.items()}
    after = [
        helper.make_node("Squeeze", ["y", "one"], ["y_s"]),
        transpose("y_s", "y_b", [1, 0, 2]),
        helper.make_node("GRU", ["y_b", "W_2", "R_2", "B_2"], ["z"], name="second", layout=1, direction="reverse"),
    ]
    model = gru_model(first | second | {"one": np.array([1])}, after=after)
    layer = cgru.from_onnx(model)
    assert [part.units for part in layer.layers] == [H, 5] and layer.layers[1].reverse
    model.graph.node.remove(after[1])
    model.graph.node[-1].input[0] = "y_s"  # now T and N are exchanged
    with pytest.raises(ValueError, match=r"^node: expected one of \['gru', 'second'\], which do not stand in a row"):
        cgru.from_onnx(model)
    assert cgru.from_onnx(model, "second").units == 5 and cgru.from_onnx(model, "y_h").units == H
    with pytest.raises(ValueError, match=r"^node: expected one of \['gru', 'second'\], got 'third'"):
        cgru.from_onnx(model, "third")


def test_a_row_that_is_given_its_states(rng):
    layer = cgru.GRU(H, num_layers=2, input_size=D, return_state=True)
    model = to_onnx(layer, initial_state=True)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((2, N, H))
    stack = cgru.from_onnx(model)
    np.testing.assert_array_equal(stack(x, initial_state=h0)[1], layer(x, h0)[1])
    assert cgru.from_onnx(model, "gru_1").input_size == H
    # One of the two alone: a stack takes all of its states or none.
    model.graph.node[[node.name for node in model.graph.node].index("gru_0")].input[5] = ""
    with pytest.raises(ValueError, match=r"^gru_1: cannot convert initial_h in a row of nodes exactly: .*node="):
        cgru.from_onnx(model)


# -- refusals


def test_attributes_belong_to_arrays(rng):
    with pytest.raises(TypeError, match=r"^clip: expected no attributes beside a model"):
        cgru.from_onnx(gru_model(checks.onnx_arrays(rng)), clip=3.0)
    with pytest.raises(ValueError, match=r"^gru: expected attributes of GRU, got 'flavour'"):
        cgru.from_onnx(gru_model(checks.onnx_arrays(rng), flavour="sour"))


def test_weights_at_run_time_and_no_gru(rng):
    weights = checks.onnx_arrays(rng)
    R = weights.pop("R")
    with pytest.raises(ValueError, match=r"^gru.R: expected a constant, got 'R', which the model computes"):
        cgru.from_onnx(gru_model(weights, extra=("R",)))
    with pytest.raises(TypeError, match=r"^gru.R: expected floating-point numbers, got dtype int64"):
        cgru.from_onnx(gru_model(weights | {"R": R.astype("int64")}))
    model = gru_model(weights | {"R": R}, before=[helper.make_node("Relu", ["x"], ["x_r"])])
    del model.graph.node[1]
    with pytest.raises(ValueError, match=r"^model: expected a GRU node, got these operators: Relu"):
        cgru.from_onnx(model)


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"recurrent_activation": "tanh"}, {}, "ONNX: cannot convert recurrent_activation='tanh' exactly"),
        ({"stateful": True}, {}, "ONNX: cannot convert stateful=True exactly: .*initial_state=True"),
        ({"go_backwards": True}, {"lengths": True}, "ONNX: cannot convert go_backwards=True with lengths exactly"),
        ({"zero_output_for_mask": False, "return_sequences": True}, {"lengths": True},
         "ONNX: cannot convert zero_output_for_mask=False with"),
        ({}, {"dtype": "float16"}, "dtype: expected 'float32' or 'float64', got 'float16'"),
    ],
)  # fmt: skip
def test_what_it_cannot_hold(options, arguments, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        to_onnx(cgru.GRU(H, input_size=D, **options), **arguments)


def test_a_sequential_has_the_state_of_one_gru_and_needs_its_sequences():
    model = cgru.Sequential([cgru.GRU(5, return_sequences=True, input_size=3), cgru.GRU(4, input_size=5)])
    for layer, got in ((model, "a Sequential with 2 GRUs"), (cgru.Dense(2), "a Dense with 0 GRUs")):
        layer.build(3)
        with pytest.raises(ValueError, match=rf"^initial_state: expected False for all but .*, got True for {got}"):
            to_onnx(layer, initial_state=True)
    model = cgru.Sequential([cgru.GRU(5, input_size=3), cgru.GRU(4, input_size=5)])
    with pytest.raises(ValueError, match=r"^layer: expected return_sequences=True in all layers but the last"):
        to_onnx(model)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "merge_mode": "mul"}], ids=str)
def test_models_pass_the_checker(options):
    layer = cgru.GRU(H, learn_initial_state=True, time_major=True, input_size=D, **options)
    for arguments in ({}, {"lengths": True, "initial_state": True}):
        onnx.checker.check_model(to_onnx(layer, **arguments), full_check=True)
