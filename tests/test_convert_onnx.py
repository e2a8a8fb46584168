"""The GRU operator of ONNX, against its equations in NumPy; test_parity_onnxruntime.py has the real thing."""

import subprocess
import sys
import warnings

import checks
import numpy as np
import pytest
import scipy.special

import cgru
from cgru.convert import to_onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says when it is imported is not ours
    onnx = pytest.importorskip("onnx")

helper, numpy_helper = onnx.helper, onnx.numpy_helper
N, T, D, H = checks.N, checks.T, checks.D, checks.H
DIRECTIONS = ("forward", "reverse", "bidirectional")


def arrays(rng, directions=1, inputs=D, units=H, bias=True, dtype="float64"):
    """Random W, R and B."""
    found = {
        "W": rng.standard_normal((directions, 3 * units, inputs)) / 2,
        "R": rng.standard_normal((directions, 3 * units, units)) / 3,
    }
    if bias:
        found["B"] = rng.standard_normal((directions, 6 * units))
    return {name: array.astype(dtype) for name, array in found.items()}


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


def run(weights, x, h0, reset_after, direction="forward", f=scipy.special.expit, g=np.tanh):
    """(N, T, directions * H) of the operator's equations; x (N, T, D), h0 (directions, N, H)."""
    ys = []
    for d in range(len(h0)):
        W, R = (
            {gate: part.T for gate, part in zip("zrn", np.split(weights[key][d], 3), strict=True)} for key in "WR"
        )
        six = np.split(weights["B"][d] if "B" in weights else np.zeros(6 * H), 6)
        b, c = (dict(zip("zrn", part, strict=True)) for part in (six[:3], six[3:]))
        flip = slice(None, None, -1 if direction == "reverse" or d else 1)
        y = checks.foreign_gru(x[:, flip], h0[d], W, R, b, c, reset_after=reset_after, z_weighs="old", f=f, g=g)
        ys.append(y[:, flip])
    return np.concatenate(ys, axis=2)


def weights_of(layer):
    """Arrays of the layer, as they were in W, R and B of one node, from what to_onnx writes."""
    model = to_onnx(layer)
    node = next(node for node in model.graph.node if node.op_type == "GRU")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: stored[key] for name, key in zip("WRB", node.input[1:4], strict=True) if key}


# -- one node


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reset_after", [True, False])
def test_outputs_are_those_of_the_formula(rng, reset_after, direction, bias):
    directions = 2 if direction == "bidirectional" else 1
    weights = arrays(rng, directions, bias=bias)
    model = gru_model(weights, direction=direction, linear_before_reset=int(reset_after), hidden_size=H)
    layer = cgru.from_onnx(model)
    assert layer.time_major and layer.return_sequences and layer.return_state and layer.dtype == "float64"
    assert (layer.bidirectional, layer.reverse) == (direction == "bidirectional", direction == "reverse")
    x, h0 = rng.standard_normal((N, T, D)), rng.uniform(-1, 1, (directions, N, H))
    y, _ = layer(x.swapaxes(0, 1), initial_state=h0.reshape(layer._state_shape(N)))
    checks.assert_close(y.swapaxes(0, 1), run(weights, x, h0, reset_after, direction), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_round_trip_to_the_bit(rng, bias, direction, dtype):
    weights = arrays(rng, 2 if direction == "bidirectional" else 1, bias=bias, dtype=dtype)
    layer = cgru.from_onnx(gru_model(weights, direction=direction, linear_before_reset=1))
    assert layer.dtype == dtype
    checks.assert_same_arrays(weights_of(layer), weights)
    before = cgru.from_onnx(gru_model(weights, direction=direction))  # here biases are summed, and stay so
    again = cgru.from_onnx(to_onnx(before))
    checks.assert_same_arrays(again.get_weights(), before.get_weights())
    if bias:
        total = weights["B"].reshape(-1, 2, 3 * H).sum(axis=1)
        np.testing.assert_array_equal(weights_of(before)["B"][:, : 3 * H], total)


@pytest.mark.parametrize(
    ("activations", "ours"),
    [
        (None, ("sigmoid", "tanh")),
        ({"activations": ["HardSigmoid", "Relu"]}, ("hard_sigmoid_keras2", "relu")),
        ({"activations": ["HardSigmoid", "Tanh"], "activation_alpha": [1 / 6]}, ("hard_sigmoid", "tanh")),
        ({"activations": ["Sigmoid", "HardSigmoid"], "activation_alpha": [0.2], "activation_beta": [0.5]},
         ("sigmoid", "hard_sigmoid_keras2")),
        ({"activations": ["HardSigmoid", "HardSigmoid"], "activation_alpha": [0.2, 1 / 6]},
         ("hard_sigmoid_keras2", "hard_sigmoid")),
        ({"activations": ["Sigmoid", "Affine"]}, ("sigmoid", "linear")),
    ],
)  # fmt: skip
def test_activations(rng, activations, ours):
    weights = arrays(rng)
    layer = cgru.from_onnx(gru_model(weights, **activations or {}))
    assert (layer.recurrent_activation, layer.activation) == ours
    f, g = (cgru.reference.ACTIVATIONS[name][0] for name in ours)
    x = rng.standard_normal((N, T, D)) / 9
    y, _ = layer(x.swapaxes(0, 1))
    checks.assert_close(y.swapaxes(0, 1), run(weights, x, np.zeros((1, N, H)), False, f=f, g=g), 1e-13)
    again = cgru.from_onnx(to_onnx(layer))
    assert (again.recurrent_activation, again.activation) == ours


def test_both_directions_with_parameters_of_activations(rng):
    layer = cgru.GRU(H, recurrent_activation="hard_sigmoid", bidirectional=True, input_size=D)
    assert cgru.from_onnx(to_onnx(layer)).recurrent_activation == "hard_sigmoid"


def test_half_precision_widens(rng):
    weights = arrays(rng, dtype="float16")
    layer = cgru.from_onnx(gru_model(weights, linear_before_reset=1))
    assert layer.dtype == "float32"
    checks.assert_same_arrays(weights_of(layer), {name: array.astype("float32") for name, array in weights.items()})


# -- layouts


def transpose(source, target, perm):
    return helper.make_node("Transpose", [source], [target], perm=perm)


def test_the_layer_takes_what_the_model_takes(rng):
    weights = arrays(rng)
    flipped = [transpose("x", "x_t", [1, 0, 2]), helper.make_node("Identity", ["x_t"], ["x_i"])]
    inputs = ("x_i", "W", "R", "B")
    assert cgru.from_onnx(gru_model(weights)).time_major
    assert not cgru.from_onnx(gru_model(weights, layout=1)).time_major
    assert not cgru.from_onnx(gru_model(weights, before=flipped, inputs=inputs)).time_major
    assert cgru.from_onnx(gru_model(weights, before=flipped, inputs=inputs, layout=1)).time_major
    computed = [helper.make_node("Relu", ["x"], ["x_i"])]
    assert cgru.from_onnx(gru_model(weights, before=computed, inputs=inputs)).time_major
    assert not cgru.from_onnx(gru_model(weights), time_major=False).time_major


# -- weights that are no plain initializers


def test_weights_of_constants(rng):
    """Constant nodes, raw or typed, and what is computed from constants alone."""
    weights = arrays(rng)
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
    checks.assert_same_arrays(weights_of(layer), weights)


def test_bytes_and_paths(rng, tmp_path):
    weights = arrays(rng)
    model = gru_model(weights, linear_before_reset=1)
    onnx.save(model, tmp_path / "model.onnx")
    for source in (model.SerializeToString(), tmp_path / "model.onnx", str(tmp_path / "model.onnx")):
        checks.assert_same_arrays(weights_of(cgru.from_onnx(source)), weights)
    (tmp_path / "junk.onnx").write_bytes(b"\xff junk")
    for source in (b"\xff junk", tmp_path / "junk.onnx"):
        with pytest.raises(ValueError, match=r"^model: expected an ONNX model, got .* that cannot be parsed"):
            cgru.from_onnx(source)
    with pytest.raises(TypeError, match=r"^model: expected an onnx.ModelProto, a path or bytes, got GraphProto"):
        cgru.from_onnx(model.graph)
    with pytest.raises(FileNotFoundError):
        cgru.from_onnx(tmp_path / "none.onnx")


def test_external_data(rng, tmp_path):
    weights = arrays(rng)
    path = tmp_path / "model.onnx"
    onnx.save(gru_model(weights, linear_before_reset=1), path, save_as_external_data=True, size_threshold=0)
    checks.assert_same_arrays(weights_of(cgru.from_onnx(path)), weights)
    with pytest.raises(ValueError, match=r"^W: expected its data in the model, got external data; give the model's p"):
        cgru.from_onnx(path.read_bytes())


# -- initial states and lengths


INPUTS = ("x", "W", "R", "B", "lens", "h0")


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("rows", [1, N])
def test_a_constant_initial_state_is_learned(rng, rows, layout):
    weights = arrays(rng, 2)
    h0 = rng.uniform(-1, 1, (2, 1, H))
    stored = np.repeat(h0, rows, axis=1)
    stored = stored.swapaxes(0, 1) if layout else stored
    model = gru_model(weights | {"h0": stored}, inputs=INPUTS, direction="bidirectional", layout=layout)
    layer = cgru.from_onnx(model, time_major=False)
    assert layer.learn_initial_state
    x = rng.standard_normal((N, T, D))
    checks.assert_close(layer(x)[0], run(weights, x, np.repeat(h0, N, axis=1), False), 1e-13)
    again = cgru.from_onnx(to_onnx(layer))  # Expand, for as many rows as x has
    checks.assert_same_arrays(again.get_weights(), layer.get_weights())


def test_initial_states_that_are_zero(rng):
    weights = arrays(rng)
    assert not cgru.from_onnx(gru_model(weights | {"h0": np.zeros((1, N, H))}, inputs=INPUTS)).learn_initial_state
    shape = helper.make_node("Shape", ["x"], ["shape"])
    zeros = helper.make_node("ConstantOfShape", ["shape"], ["zeros"])
    part = helper.make_node("Slice", ["zeros", "start", "end"], ["h0"])
    integers = {"start": np.array([0]), "end": np.array([1])}
    model = gru_model(weights | integers, before=[shape, zeros, part], inputs=INPUTS)
    assert not cgru.from_onnx(model).learn_initial_state


def test_initial_states_of_the_caller(rng):
    """An input of the model, or computed: as x is."""
    weights = arrays(rng)
    assert not cgru.from_onnx(gru_model(weights, extra=("h0",), inputs=INPUTS)).learn_initial_state
    computed = helper.make_node("Tanh", ["state"], ["h0"])
    assert not cgru.from_onnx(
        gru_model(weights, extra=("state",), before=[computed], inputs=INPUTS)
    ).learn_initial_state
    rows = rng.uniform(-1, 1, (1, N, H))
    with pytest.raises(ValueError, match=r"^gru.initial_h: cannot convert a constant with a row for each sequence"):
        cgru.from_onnx(gru_model(weights | {"h0": rows}, inputs=INPUTS))
    with pytest.raises(ValueError, match=r"^gru.initial_h: expected shape \(S, N, H\) = \(1, 3, 7\), got \(1, 3, 8\)"):
        cgru.from_onnx(gru_model(weights | {"h0": np.ones((1, N, 8))}, inputs=INPUTS))


def test_lengths(rng):
    weights = arrays(rng)
    assert isinstance(cgru.from_onnx(gru_model(weights, extra=("lens",), inputs=INPUTS)), cgru.GRU)
    with pytest.raises(ValueError, match=r"^gru: cannot convert a constant sequence_lens exactly: .*lengths="):
        cgru.from_onnx(gru_model(weights | {"lens": np.array([1, 2, 3], "int32")}, inputs=INPUTS))


# -- several nodes


@pytest.mark.parametrize("directions", [1, 2])
def test_nodes_in_a_row_become_a_sequential(rng, directions):
    """What to_onnx writes for layers: Squeeze, or Transpose and Reshape, between the nodes."""
    layer = checks.random_layer(
        rng, H, num_layers=3, bidirectional=directions == 2, reset_after=True, return_sequences=True, dtype="float64",
        input_size=D,
    )  # fmt: skip
    model = cgru.from_onnx(to_onnx(layer))
    assert isinstance(model, cgru.Sequential) and len(model.layers) == 3
    checks.assert_same_arrays(model.get_weights(), layer.get_weights())
    x = rng.standard_normal((N, T, D))
    np.testing.assert_array_equal(model.predict(x), layer(x))
    one = cgru.from_onnx(to_onnx(layer), "gru_1")
    assert one.input_size == directions * H and one.bidirectional == (directions == 2)


def test_unequal_nodes_in_both_layouts(rng):
    """A row over transpositions that cancel, with layout 1 on top."""
    first, second = arrays(rng), arrays(rng, inputs=H, units=5)
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
    layer = cgru.GRU(H, num_layers=2, input_size=D)
    model = to_onnx(layer, initial_state=True)
    with pytest.raises(ValueError, match=r"^gru_0: cannot convert initial_h in a row of nodes exactly: .*node="):
        cgru.from_onnx(model)
    assert cgru.from_onnx(model, "gru_1").input_size == H


# -- refusals


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"clip": 5.0}, "gru: cannot convert clip exactly"),
        ({"direction": "backward"}, "gru: expected direction forward, reverse or bidirectional, got 'backward'"),
        ({"flavour": 1}, "gru: expected attributes of GRU, got 'flavour'"),
        ({"hidden_size": H + 1}, "gru: expected hidden_size 7, as R has it, got 8"),
        ({"activations": ["Sigmoid", "Elu"]}, "gru: cannot convert the activation Elu exactly"),
        ({"activations": ["HardSigmoid", "Tanh"], "activation_alpha": [0.25]},
         r"gru: cannot convert the activation HardSigmoid\(alpha=0.25, beta=0.5\)"),
        ({"activations": ["Tanh", "Tanh"]}, "gru: cannot convert recurrent_activation='tanh'"),
        ({"activations": ["Sigmoid"]}, r"gru: expected 2 activations, got \['Sigmoid'\]"),
        ({"direction": "bidirectional"}, r"gru.R: expected shape \(2, 3H, H\) = \(2, 21, 7\), got \(1, 21, 7\)"),
    ],
)  # fmt: skip
def test_attributes_that_cannot_be(rng, attributes, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        cgru.from_onnx(gru_model(arrays(rng), **attributes))


def test_directions_with_different_activations(rng):
    model = gru_model(
        arrays(rng, 2), direction="bidirectional", activations=["Sigmoid", "Tanh", "HardSigmoid", "Tanh"]
    )
    with pytest.raises(ValueError, match=r"^gru: cannot convert the activations .* both directions have the same"):
        cgru.from_onnx(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": np.ones((1, 3 * H + 1, D))}, r"gru.W: expected shape \(1, 3H, D\) = \(1, 21, 2\), got \(1, 22, 2\)"),
        ({"R": np.ones((1, 3 * H, 8))}, r"gru.R: expected shape \(1, 3H, H\) = \(1, 21, 7\), got \(1, 21, 8\)"),
        ({"B": np.ones((1, 3 * H))}, r"gru.B: expected shape \(1, 6H\) = \(1, 42\), got \(1, 21\)"),
        ({"R": None}, "gru: expected an input R, got none"),
    ],
)
def test_wrong_weights_are_named(rng, change, message):
    weights = {name: array for name, array in (arrays(rng) | change).items() if array is not None}
    with pytest.raises(ValueError, match=rf"^{message}"):
        cgru.from_onnx(gru_model(weights))


def test_weights_at_run_time_and_no_gru(rng):
    weights = arrays(rng)
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
        ({"zero_output_for_mask": False}, {"lengths": True}, "ONNX: cannot convert zero_output_for_mask=False with"),
        ({}, {"dtype": "float16"}, "dtype: expected 'float32' or 'float64', got 'float16'"),
    ],
)
def test_what_it_cannot_hold(options, arguments, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        to_onnx(cgru.GRU(H, input_size=D, **options), **arguments)


def test_a_sequential_has_no_state_and_needs_its_sequences():
    model = cgru.Sequential([cgru.GRU(5, return_sequences=True, input_size=3), cgru.GRU(4, input_size=5)])
    with pytest.raises(ValueError, match=r"^initial_state: expected False for a Sequential"):
        to_onnx(model, initial_state=True)
    model = cgru.Sequential([cgru.GRU(5, input_size=3), cgru.GRU(4, input_size=5)])
    with pytest.raises(ValueError, match=r"^layer: expected return_sequences=True in all layers but the last"):
        to_onnx(model)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "merge_mode": "mul"}], ids=str)
def test_models_pass_the_checker(options):
    layer = cgru.GRU(H, learn_initial_state=True, time_major=True, input_size=D, **options)
    for arguments in ({}, {"lengths": True, "initial_state": True}):
        onnx.checker.check_model(to_onnx(layer, **arguments), full_check=True)


def test_without_onnx():
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "import cgru\n"
        "for call in (lambda: cgru.from_onnx(b''), lambda: cgru.convert.to_onnx(cgru.GRU(3, input_size=2))):\n"
        "    try:\n"
        "        call()\n"
        "    except ImportError as error:\n"
        "        print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    hint = 'needs onnx: pip install "cgru[onnx]"\n'
    assert (done.stdout, done.stderr) == (f"from_onnx {hint}to_onnx {hint}", "")
