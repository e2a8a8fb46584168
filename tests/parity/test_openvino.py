"""OpenVINO's GRUSequence on the CPU, float32 only: our layer's arguments into the operation, and models back."""

import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_openvino, to_openvino

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    openvino = pytest.importorskip("openvino")
    from openvino import opset5 as ops

N, T, D, H = checks.N, 11, checks.D, checks.H
LENGTHS = np.array([4, 11, 1])
DIRECTIONS = {"forward": {}, "reverse": {"reverse": True}, "bidirectional": {"bidirectional": True}}


def sequence_of(arguments, x, half=False, directions=None):
    """(GRUSequence on the node x with our arguments, its parameters for states and lengths)."""
    arguments = dict(arguments)
    S = directions or len(arguments["W"])
    h0 = ops.parameter([N, S, arguments["hidden_size"]], np.float32)
    lengths = ops.parameter([N], np.int32)
    if half:
        for name in "WRB":
            arguments[name] = ops.convert(ops.constant(arguments[name].astype(np.float16)), "f32")
    return ops.gru_sequence(x, h0, lengths, **arguments), [h0, lengths]


def model_of(layer, half=False):
    """A model of GRUSequences in a row; inputs x, then states and lengths for each.

    Shapes are fixed: with dynamic ones the CPU plugin (2026.4) runs over the whole time axis, whatever the lengths.
    """
    arguments = to_openvino(layer)
    parts = arguments if isinstance(arguments, list) else [arguments]
    x = ops.parameter([N, T, parts[0]["W"].shape[2]], np.float32)
    inputs, y = [x], x
    outputs = []
    for i, part in enumerate(parts):
        node, more = sequence_of(part, y, half)
        node.set_friendly_name(f"gru{i}")
        inputs += more
        outputs.append(node.output(1))
        merged = ops.transpose(node.output(0), np.array([0, 2, 1, 3]))  # (N, S, T, H) to (N, T, S, H)
        y = ops.reshape(merged, np.array([0, 0, -1]), True)
    return openvino.Model([y.output(0), *outputs], inputs)


def run(model, *arrays):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    results = compiled([np.ascontiguousarray(array) for array in arrays])
    return [results[i] for i in range(len(compiled.outputs))]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("reset_after", [False, True], ids=["linear_before_reset=False", "linear_before_reset=True"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_outputs(rng, activation, reset_after, direction, lengths):
    layer = checks.random_layer(
        rng, H, activation=activation, reset_after=reset_after, return_sequences=True, return_state=True,
        input_size=D, **DIRECTIONS[direction],
    )  # fmt: skip
    x = rng.standard_normal((N, T, D)).astype("float32")
    h0 = rng.uniform(-1, 1, layer._state_shape(N)).astype("float32")
    states = h0.reshape(-1, N, H).swapaxes(0, 1)
    Y, Ho = run(model_of(layer), x, states, (np.full(N, T) if lengths is None else lengths).astype("int32"))
    y, h = layer(x, h0, lengths=lengths)
    checks.assert_close(y, Y, 2e-6, "Y")
    checks.assert_close(h, Ho.swapaxes(0, 1).reshape(h.shape), 2e-6, "Ho")


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_a_model_back(rng, half):
    """Two in a row, found in the model; weights kept in half precision are read as they are."""
    layers = cgru.Sequential(
        [
            checks.random_layer(rng, 5, input_size=D, bidirectional=True, return_sequences=True, reset_after=True),
            checks.random_layer(rng, 3, input_size=10, reverse=True, return_sequences=True),
        ]
    )
    model = model_of(layers, half)
    with pytest.raises(ValueError, match=r"^name: expected one of \['gru0', 'gru1'\], got None"):
        from_openvino(model)
    with pytest.raises(ValueError, match=r"^name: expected one of .*, got 'gru7'"):
        from_openvino(model, "gru7")
    back = from_openvino(model, ["gru0", "gru1"])
    assert isinstance(back, cgru.Sequential)
    expected = to_openvino(layers)
    if half:
        for part in expected:
            part |= {name: part[name].astype("float16").astype("float32") for name in "WRB"}
    checks.assert_same_names(to_openvino(back), expected)
    checks.assert_same_arrays(checks.sorted_arrays(to_openvino(back)), checks.sorted_arrays(expected))

    x, full = rng.standard_normal((N, T, D)).astype("float32"), np.full(N, T, "int32")
    zeros = np.zeros((N, 2, 5), "float32"), np.zeros((N, 1, 3), "float32")
    Y = run(model, x, zeros[0], full, zeros[1], full)[0]
    checks.assert_close(back.predict(x), Y, 2e-6)


def test_a_node_and_a_model_without_one(rng):
    layer = checks.random_layer(rng, H, input_size=D)
    node, _ = sequence_of(to_openvino(layer), ops.parameter([N, T, D], np.float32))
    checks.assert_same_arrays(from_openvino(node).parameters, layer.parameters)
    x = ops.parameter([-1, D], np.float32)
    with pytest.raises(ValueError, match=r"^source: expected a GRUSequence, got Parameter, Relu, Result"):
        from_openvino(openvino.Model([ops.relu(x)], [x]))
    arguments = to_openvino(layer) | {"W": ops.relu(ops.constant(to_openvino(layer)["W"]))}
    node, _ = sequence_of(arguments, ops.parameter([N, T, D], np.float32), directions=1)
    with pytest.raises(ValueError, match=r"^W: expected a Constant, got what a Relu computes"):
        from_openvino(node)
