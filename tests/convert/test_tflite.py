"""TensorFlow Lite's unidirectional_sequence_gru, against the numbers of its own test and its equations."""

import json
from pathlib import Path

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_tflite, to_tflite

N, T, D, H = checks.N, checks.T, checks.D, checks.H
CASES = json.loads((Path(__file__).parents[1] / "data" / "conformance.json").read_text(encoding="utf-8"))["cases"]
PUBLISHED = [case for case in CASES if case["convention"] == "tflite_unidirectional_sequence_gru"]


def random_tensors(rng, inputs=D, units=H, dtype="float64"):
    shapes = {
        "gate_weight": (2 * units, inputs + units),
        "gate_bias": (2 * units,),
        "candidate_weight": (units, inputs + units),
        "candidate_bias": (units,),
    }
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def theirs(v, x, h):
    ys = []
    for t in range(x.shape[1]):
        gates = checks.sigmoid(np.concatenate([x[:, t], h], 1) @ v["gate_weight"].T + v["gate_bias"])
        r, u = np.split(gates, 2, axis=1)
        c = np.tanh(np.concatenate([x[:, t], r * h], 1) @ v["candidate_weight"].T + v["candidate_bias"])
        h = (1 - u) * c + u * h
        ys.append(h)
    return np.stack(ys, axis=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_published_numbers(dtype):
    (case,) = PUBLISHED
    tensors = {name: np.array(tensor["values"], dtype) for name, tensor in case["weights"].items()}
    layer = from_tflite(tensors, time_major=True)
    y, h = layer(np.array(case["input"]["values"]), np.array(case["initial_state"]["values"]))
    np.testing.assert_allclose(y, case["expected"]["values"], rtol=0, atol=case["atol"])
    np.testing.assert_allclose(h, y[-1], rtol=0, atol=0)
    checks.assert_round_trip(tensors, layer, to_tflite(layer))


def test_outputs(rng):
    tensors = random_tensors(rng)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    checks.assert_close(from_tflite(tensors)(x, h0)[0], theirs(tensors, x, h0), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trips_to_the_bit(rng, dtype):
    for tensors in (
        random_tensors(rng, dtype=dtype),
        [random_tensors(rng, D, H, dtype), random_tensors(rng, H, H, dtype)],
        [random_tensors(rng, D, 5, dtype), random_tensors(rng, 5, 3, dtype)],
    ):
        layer = from_tflite(tensors)
        checks.assert_same_arrays(to_tflite(layer), tensors)
    layer = checks.random_layer(rng, H, input_size=D, dtype=dtype)
    again = from_tflite(to_tflite(layer))
    checks.assert_same_arrays(again.parameters, layer.parameters)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gate_bias": None}, ValueError, "tensors: expected an array 'gate_bias'"),
        ({"gate_weight": np.ones((2 * H, H))}, ValueError, r"gate_weight: expected shape \(2H, D\+H\)"),
        ({"gate_weight": np.ones((2 * H, D + H), "int8")}, TypeError, "gate_weight: expected floating-point numbers"),
        ({"projection": np.ones(3)}, ValueError, "tensors: expected .* and no others, got 'projection'"),
    ],
)
def test_wrong_tensors_are_named(rng, change, error, message):
    tensors = {name: array for name, array in (random_tensors(rng) | change).items() if array is not None}
    with pytest.raises(error, match=rf"^{message}"):
        from_tflite(tensors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_after": True}, "cannot convert reset_after=True exactly: .*ONNX has both"),
        ({"activation": "relu"}, "cannot convert activation='relu' exactly"),
        ({"recurrent_activation": "hard_sigmoid"}, "cannot convert recurrent_activation='hard_sigmoid' exactly"),
        ({"learn_initial_state": True}, "cannot convert a learned initial state exactly: .*input_state"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=f"^TensorFlow Lite's unidirectional_sequence_gru: {message}"):
        to_tflite(checks.random_layer(rng, H, input_size=D, **options))


def test_a_learned_initial_state_of_zero_and_no_biases_are_no_hindrance():
    layer = cgru.GRU(H, learn_initial_state=True, use_bias=False, input_size=D)
    assert not to_tflite(layer)["gate_bias"].any()
