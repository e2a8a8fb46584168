"""CNTK's GRU: the candidate's recurrent matrix stands apart."""

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_cntk, to_cntk

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def random_parameters(rng, inputs=D, units=H, dtype="float64"):
    shapes = {"b": (3 * units,), "W": (inputs, 3 * units), "H": (units, 2 * units), "H1": (units, units)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def theirs(p, x, h, g=np.tanh):
    ys = []
    for t in range(x.shape[1]):
        zx, rx, cx = np.split(p["b"] + x[:, t] @ p["W"], 3, axis=1)
        zh, rh = np.split(h @ p["H"], 2, axis=1)
        z, r = checks.sigmoid(zx + zh), checks.sigmoid(rx + rh)
        h = (1 - z) * g(cx + (h * r) @ p["H1"]) + z * h
        ys.append(h)
    return np.stack(ys, axis=1)


@pytest.mark.parametrize(("activation", "g"), [("tanh", np.tanh), ("relu", lambda a: np.maximum(a, 0))])
def test_outputs(rng, activation, g):
    parameters = random_parameters(rng)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    checks.assert_close(from_cntk(parameters, activation=activation)(x, h0)[0], theirs(parameters, x, h0, g), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trips_to_the_bit(rng, dtype):
    for parameters in (
        random_parameters(rng, dtype=dtype),
        [random_parameters(rng, D, H, dtype), random_parameters(rng, H, H, dtype)],
        [random_parameters(rng, D, 5, dtype), random_parameters(rng, 5, 3, dtype)],
    ):
        checks.assert_same_arrays(to_cntk(from_cntk(parameters)), parameters)
    pair = [random_parameters(rng, dtype=dtype), random_parameters(rng, dtype=dtype)]
    layer = from_cntk(pair, directions=2)
    assert layer.bidirectional
    checks.assert_same_arrays(to_cntk(layer), pair)
    assert not to_cntk(cgru.GRU(H, use_bias=False, input_size=D))["b"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"H1": None}, "parameters: expected an array 'H1', got b, W, H"),
        ({"H": np.ones((H, 3 * H))}, r"H: expected shape \(H, 2H\) = \(7, 14\), got \(7, 21\)"),
        ({"stabilizer_param": np.ones(1)}, "parameters: expected .* and no others, got 'stabilizer_param'"),
    ],
)
def test_wrong_parameters_are_named(rng, change, message):
    parameters = {name: array for name, array in (random_parameters(rng) | change).items() if array is not None}
    with pytest.raises(ValueError, match=rf"^{message}"):
        from_cntk(parameters)
    with pytest.raises(ValueError, match=r"^weights: expected at least one cell, got an empty list"):
        from_cntk([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_after": True}, "cannot convert reset_after=True exactly: .*OptimizedRNNStack"),
        ({"recurrent_activation": "hard_sigmoid"}, "cannot convert recurrent_activation='hard_sigmoid' exactly"),
        ({"learn_initial_state": True}, "cannot convert a learned initial state exactly"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=f"^CNTK's GRU: {message}"):
        to_cntk(checks.random_layer(rng, H, input_size=D, **options))
