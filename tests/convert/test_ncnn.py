"""ncnn's GRU by its arrays; the library itself is in tests/parity/test_ncnn.py."""

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_ncnn, to_ncnn

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def random_weights(rng, direction=0, inputs=D, units=H, dtype="float64"):
    S = 2 if direction == 2 else 1
    shapes = {
        "weight_xc_data": (S, 3 * units, inputs),
        "bias_c_data": (S, 4, units),
        "weight_hc_data": (S, 3 * units, units),
    }
    arrays = {name: rng.standard_normal(shape).astype(dtype) / 2 for name, shape in shapes.items()}
    parameters = {"num_output": units, "weight_data_size": S * 3 * units * inputs, "direction": direction}
    return arrays | parameters


def one(w, d, x, h, backwards):
    """One direction, gate by gate as the layer's loop has it."""
    units = h.shape[1]
    xc, hc, bias = w["weight_xc_data"][d], w["weight_hc_data"][d], w["bias_c_data"][d]
    y = np.empty((*x.shape[:2], units))
    for t in reversed(range(x.shape[1])) if backwards else range(x.shape[1]):
        R = checks.sigmoid(bias[0] + x[:, t] @ xc[:units].T + h @ hc[:units].T)
        U = checks.sigmoid(bias[1] + x[:, t] @ xc[units : 2 * units].T + h @ hc[units : 2 * units].T)
        new = np.tanh(bias[2] + R * (bias[3] + h @ hc[2 * units :].T) + x[:, t] @ xc[2 * units :].T)
        h = (1 - U) * new + U * h
        y[:, t] = h
    return y


def theirs(w, x, h0):
    backwards = {0: [False], 1: [True], 2: [False, True]}[w["direction"]]
    return np.concatenate([one(w, d, x, h0[d], b) for d, b in enumerate(backwards)], axis=2)


@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_outputs_and_round_trip(rng, direction, dtype):
    weights = random_weights(rng, direction, dtype=dtype)
    layer = from_ncnn(weights)
    S = 2 if direction == 2 else 1
    assert layer.reverse == (direction == 1) and layer.bidirectional == (S == 2) and layer.reset_after
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((S, N, H))
    y, _ = layer(x, h0.reshape(layer._state_shape(N)))
    checks.assert_close(y, theirs(weights, x, h0), 1e-13 if dtype == "float64" else 2e-6)
    checks.assert_round_trip(weights, layer, to_ncnn(layer))


def test_several_in_a_row(rng):
    equal = [random_weights(rng, 2, inputs=inputs) for inputs in (D, 2 * H)]
    layer = from_ncnn(equal)
    assert layer.num_layers == 2
    checks.assert_round_trip(equal, layer, to_ncnn(layer))
    unequal = [random_weights(rng, 0, D, 5), random_weights(rng, 1, 5, 3)]
    layers = from_ncnn(unequal)
    assert isinstance(layers, cgru.Sequential)
    checks.assert_same_arrays(checks.sorted_arrays(to_ncnn(layers)), checks.sorted_arrays(unequal))


@pytest.mark.parametrize("option", [{"reverse": True}, {"reset_after": False}, {"directions": 2}])
def test_options_that_contradict_the_weights(rng, option):
    with pytest.raises(ValueError, match=rf"^{next(iter(option))}: expected .*, as the weights say, got"):
        from_ncnn(random_weights(rng), **option)


def test_biases_that_are_summed(rng):
    layer = checks.random_layer(rng, H, input_size=D, reset_after=True, dtype="float64", return_sequences=True)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    checks.assert_close(layer(x, h0), theirs(to_ncnn(layer), x, h0[None]), 1e-13)
    assert not to_ncnn(cgru.GRU(H, use_bias=False, reset_after=True, input_size=D))["bias_c_data"].any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"direction": 3}, ValueError, "direction: expected 0, 1 or 2, got 3"),
        ({"direction": 2}, ValueError, r"weight_hc_data: expected shape \(S, 3H, H\)"),
        ({"bias_c_data": np.ones((1, 3, H))}, ValueError, r"bias_c_data: expected shape \(S, 4, H\) = \(1, 4, 7\)"),
        ({"weight_xc_data": np.ones((1, 3 * H, D), "int8")}, TypeError, "weight_xc_data: expected floating-point"),
        ({"scales": np.ones(3)}, ValueError, "weights: expected .* and no others, got 'scales'"),
    ],
)
def test_wrong_weights_are_named(rng, change, error, message):
    with pytest.raises(error, match=rf"^{message}"):
        from_ncnn(random_weights(rng) | change)
    with pytest.raises(TypeError, match=r"^weights: expected a mapping"):
        from_ncnn("gru.param")
    with pytest.raises(ValueError, match=r"^weights: expected at least one layer"):
        from_ncnn([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "cannot convert reset_after=False exactly: .*ONNX"),
        ({"reset_after": True, "activation": "relu"}, "cannot convert activation='relu' exactly"),
        ({"reset_after": True, "go_backwards": True}, "cannot convert go_backwards=True exactly"),
        ({"reset_after": True, "bidirectional": True, "merge_mode": "sum"}, "cannot convert merge_mode='sum' exactly"),
        ({"reset_after": True, "learn_initial_state": True}, "cannot convert a learned initial state exactly"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=f"^ncnn's GRU: {message}"):
        to_ncnn(checks.random_layer(rng, H, input_size=D, **options))
