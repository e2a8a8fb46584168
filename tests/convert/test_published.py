"""The published form: [h, x] under one matrix a gate."""

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_published, to_published

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def random_weights(rng, inputs=D, units=H, bias=True, h0=True, dtype="float64"):
    weights = {name: rng.standard_normal((units, units + inputs)) / 3 for name in ("W_r", "W_z", "W")}
    if bias:
        weights |= {name: rng.standard_normal(units) for name in ("b_r", "b_z", "b")}
    if h0:
        weights["h_0"] = rng.uniform(-1, 1, units)
    return {name: array.astype(dtype) for name, array in weights.items()}


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_those_of_the_formula(rng, bias):
    """Step by step as the post writes it: products with [h, x], h first."""
    weights = random_weights(rng, bias=bias, h0=False)
    x, h = rng.standard_normal((N, T, D)), rng.uniform(-1, 1, (N, H))
    y, _ = from_published(weights)(x, initial_state=h)
    b = {name: weights.get(name, np.zeros(H)) for name in ("b_r", "b_z", "b")}
    for t in range(T):
        both = np.concatenate([h, x[:, t]], axis=1)
        z = 1 / (1 + np.exp(-(both @ weights["W_z"].T + b["b_z"])))
        r = 1 / (1 + np.exp(-(both @ weights["W_r"].T + b["b_r"])))
        n = np.tanh(np.concatenate([r * h, x[:, t]], axis=1) @ weights["W"].T + b["b"])
        h = (1 - z) * h + z * n
        checks.assert_close(y[:, t], h, 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"h0": False}], ids=str)
def test_round_trip_to_the_bit(rng, options, dtype):
    weights = random_weights(rng, dtype=dtype, **options)
    layer = from_published(weights, activation="relu", recurrent_activation="tanh", reverse=True)
    assert layer.dtype == dtype and layer.reverse and not layer.reset_after
    assert (layer.activation, layer.recurrent_activation) == ("relu", "tanh")
    assert layer.learn_initial_state == ("h_0" in weights)
    back = to_published(layer)
    assert back.keys() == weights.keys()
    checks.assert_same_arrays([back[name] for name in weights], weights)


def test_stacks(rng):
    equal = [random_weights(rng, D, H), random_weights(rng, H, H)]
    unequal = [random_weights(rng, D, 5), random_weights(rng, 5, 3)]
    assert from_published(equal).num_layers == 2 and isinstance(from_published(unequal), cgru.Sequential)
    for stack in (equal, unequal):
        checks.assert_same_arrays(to_published(from_published(stack)), stack)


def test_half_precision_widens(rng):
    weights = {name: array.astype("float16") for name, array in random_weights(rng).items()}
    layer = from_published(weights)
    assert layer.dtype == "float32"
    np.testing.assert_array_equal(layer.parameters["kernel"][:, :H], weights["W_r"][:, H:].T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_z": None}, "weights: expected an array 'W_z'"),
        ({"b_z": None}, "weights: expected an array 'b_z'"),
        ({"W": np.ones((H, H))}, r"W: expected shape \(H, K\) = \(7, 9\), got \(7, 7\)"),
        ({"W_r": np.ones((H, H))}, r"W_r: expected shape \(H, H \+ D\), more columns than rows, got \(7, 7\)"),
        ({"b": np.ones(H + 1)}, r"b: expected shape \(H,\) = \(7,\), got \(8,\)"),
        ({"V": np.ones(3)}, "weights: expected W, .* and no others, got 'V'"),
    ],
)
def test_wrong_weights_are_named(rng, change, message):
    weights = random_weights(rng) | change
    weights = {name: array for name, array in weights.items() if array is not None}
    with pytest.raises(ValueError, match=rf"^{message}"):
        from_published(weights)


def test_what_it_cannot_hold():
    with pytest.raises(ValueError, match=r"^the published form: cannot convert reset_after=True exactly: .* PyTorch"):
        to_published(cgru.GRU(H, reset_after=True, input_size=D))
    with pytest.raises(ValueError, match=r"^the published form: cannot convert bidirectional=True exactly"):
        to_published(cgru.GRU(H, bidirectional=True, input_size=D))
