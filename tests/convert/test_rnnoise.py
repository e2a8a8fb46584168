"""RNNoise 0.1: 8-bit integers, 256 for 1; columns z, r, h."""

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_rnnoise, to_rnnoise

N, T, D, H = checks.N, checks.T, checks.D, checks.H
FUNCTIONS = {"tanh": np.tanh, "sigmoid": checks.sigmoid, "relu": lambda a: np.maximum(a, 0)}


def random_weights(rng, inputs=D, units=H):
    shapes = {"bias": (3 * units,), "input_weights": (inputs, 3 * units), "recurrent_weights": (units, 3 * units)}
    weights = {name: rng.integers(-128, 128, shape).astype("int8") for name, shape in shapes.items()}
    for array in weights.values():
        array.flat[:2] = -128, 127  # in z, whose sign changes
    return weights


def theirs(w, x, h, g):
    """compute_gru with an exact sigmoid and tanh: sums over integers, scaled at the end."""
    units, ys = h.shape[1], []
    W, U, b = (w[name].astype(float) for name in ("input_weights", "recurrent_weights", "bias"))
    for t in range(x.shape[1]):
        z = checks.sigmoid((b[:units] + x[:, t] @ W[:, :units] + h @ U[:, :units]) / 256)
        rows = slice(units, 2 * units)
        r = checks.sigmoid((b[rows] + x[:, t] @ W[:, rows] + h @ U[:, rows]) / 256)
        new = g((b[2 * units :] + x[:, t] @ W[:, 2 * units :] + (h * r) @ U[:, 2 * units :]) / 256)
        h = z * h + (1 - z) * new
        ys.append(h)
    return np.stack(ys, axis=1)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_outputs(rng, activation):
    weights = random_weights(rng)
    layer = from_rnnoise(weights, activation=activation, dtype="float64")
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    checks.assert_close(layer(x, h0)[0], theirs(weights, x, h0, FUNCTIONS[activation]), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trips_to_the_bit(rng, dtype):
    for weights in (
        random_weights(rng),
        [random_weights(rng, D, H), random_weights(rng, H, H)],
        [random_weights(rng, D, 5), random_weights(rng, 5, 3)],
    ):
        layer = from_rnnoise(weights, activation="relu", dtype=dtype)
        assert isinstance(layer, cgru.Sequential) or layer.dtype == dtype
        checks.assert_same_arrays(to_rnnoise(layer), weights)


def test_matrices_as_they_are_in_c(rng):
    weights = random_weights(rng)
    flat = {name: array.reshape(-1).tolist() for name, array in weights.items()}
    checks.assert_same_arrays(to_rnnoise(from_rnnoise(flat, activation="tanh")), weights)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bias": None}, ValueError, "weights: expected an array 'bias'"),
        ({"bias": np.ones(3 * H)}, TypeError, "bias: expected 8-bit integers, got dtype float64"),
        ({"bias": np.full(3 * H, 128)}, ValueError, "bias: expected integers from -128 to 127, got 128 to 128"),
        ({"input_weights": np.ones(3 * H + 1, int)}, ValueError, r"input_weights: expected shape \(D, 3H\)"),
        ({"recurrent_weights": np.ones((D, 3 * H), int)}, ValueError, r"recurrent_weights: expected shape \(H, 3H\)"),
        ({"subias": np.ones(3, int)}, ValueError, "weights: expected .* and no others, got 'subias'"),
    ],
)
def test_wrong_weights_are_named(rng, change, error, message):
    weights = {name: array for name, array in (random_weights(rng) | change).items() if array is not None}
    with pytest.raises(error, match=rf"^{message}"):
        from_rnnoise(weights, activation="tanh")


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"^activation: expected one of .*'linear'"):
        from_rnnoise({}, activation="linear")
    with pytest.raises(ValueError, match=r"^weights: expected at least one cell, got an empty list"):
        from_rnnoise([], activation="tanh")
    with pytest.raises(TypeError, match=r"^weights: expected a mapping"):
        from_rnnoise(3, activation="tanh")


@pytest.mark.parametrize("value", [0.5, 0.001, -0.502, np.nan, np.inf, 1e30])
def test_weights_that_are_no_integers_over_256(value):
    """0.5 is 128/256 in r and h; in z, where the sign changes, it is -128/256 and fits."""
    layer = cgru.GRU(H, input_size=D, kernel_initializer="zeros", recurrent_initializer="zeros")
    with layer.update() as parameters:
        parameters["kernel"][1, 0] = value
    with pytest.raises(ValueError, match=r"^RNNoise 0.1: cannot convert the value .* of input_weights exactly: "):
        to_rnnoise(layer)
    with layer.update() as parameters:
        values = np.nan_to_num(parameters["kernel"][1], posinf=1)
        parameters["kernel"][1] = np.clip(np.round(256 * values), -127, 127) / 256
    to_rnnoise(layer)
    with layer.update() as parameters:
        parameters["kernel"][1, H] = 0.5
    assert to_rnnoise(layer)["input_weights"][1, 0] == -128


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_after": True}, "cannot convert reset_after=True exactly"),
        ({"activation": "linear"}, "cannot convert activation='linear' exactly"),
        ({"recurrent_activation": "hard_sigmoid"}, "cannot convert recurrent_activation='hard_sigmoid' exactly"),
        ({"learn_initial_state": True}, "cannot convert a learned initial state exactly"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=f"^RNNoise 0.1: {message}"):
        to_rnnoise(checks.random_layer(rng, H, input_size=D, **options))
