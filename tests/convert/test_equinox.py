"""Equinox' GRUCell: rows r, z, n, one bias for the sums and b_hn, or no biases at all."""

import types

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_equinox, to_equinox

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def random_arrays(rng, inputs=D, units=H, dtype="float64", bias=True):
    shapes = {"weight_ih": (3 * units, inputs), "weight_hh": (3 * units, units)}
    shapes |= {"bias": (3 * units,), "bias_n": (units,)}
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return arrays if bias else arrays | {"bias": None, "bias_n": None}


def theirs(a, x, h):
    """One row at a time, as the cell takes them."""
    bias, bias_n = (0 if a[name] is None else a[name] for name in ("bias", "bias_n"))
    y = np.empty((*x.shape[:2], h.shape[1]))
    for i, state in enumerate(h):
        for t in range(x.shape[1]):
            ri, zi, ni = np.split(a["weight_ih"] @ x[i, t] + bias, 3)
            rh, zh, nh = np.split(a["weight_hh"] @ state, 3)
            new = np.tanh(ni + checks.sigmoid(ri + rh) * (nh + bias_n))
            state = new + checks.sigmoid(zi + zh) * (state - new)
            y[i, t] = state
    return y


@pytest.mark.parametrize("bias", [True, False])
def test_outputs(rng, bias):
    arrays = random_arrays(rng, bias=bias)
    layer = from_equinox(arrays)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    assert layer.use_bias == bias
    checks.assert_close(layer(x, h0)[0], theirs(arrays, x, h0), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_round_trips_to_the_bit(rng, bias, dtype):
    for arrays in (
        random_arrays(rng, D, H, dtype, bias),
        [random_arrays(rng, D, H, dtype, bias), random_arrays(rng, H, H, dtype, bias)],
        [random_arrays(rng, D, 5, dtype, bias), random_arrays(rng, 5, 3, dtype, bias)],
    ):
        back = to_equinox(from_equinox(arrays))
        checks.assert_same_names(back, arrays)
        checks.assert_same_arrays(back, arrays)


def test_a_module_by_its_attributes_and_both_directions(rng):
    pair = [random_arrays(rng), random_arrays(rng)]
    layer = from_equinox([types.SimpleNamespace(**arrays, input_size=D) for arrays in pair], directions=2)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((2, N, H))
    forward, backward = theirs(pair[0], x, h0[0]), theirs(pair[1], x[:, ::-1], h0[1])[:, ::-1]
    checks.assert_close(layer(x, h0)[0], np.concatenate([forward, backward], axis=2), 1e-13)
    checks.assert_same_arrays(to_equinox(layer), pair)


def test_biases_that_are_summed(rng):
    layer = checks.random_layer(rng, H, input_size=D, reset_after=True, dtype="float64", return_sequences=True)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    checks.assert_close(layer(x, h0), theirs(to_equinox(layer), x, h0), 1e-13)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bias_n": None}, TypeError, "bias_n: expected floating-point numbers, got NoneType"),
        ({"bias": np.ones(H)}, ValueError, r"bias: expected shape \(3H,\) = \(21,\), got \(7,\)"),
        ({"weight_ih": np.ones((H, D))}, ValueError, r"weight_ih: expected shape \(3H, D\)"),
        ({"weight_hr": np.ones(3)}, ValueError, "cell: expected .* and no others, got 'weight_hr'"),
    ],
)
def test_wrong_arrays_are_named(rng, change, error, message):
    with pytest.raises(error, match=rf"^{message}"):
        from_equinox(random_arrays(rng) | change)
    with pytest.raises(TypeError, match=r"^cell: expected a mapping"):
        from_equinox(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "cannot convert reset_after=False exactly: .*Haiku"),
        ({"reset_after": True, "activation": "relu"}, "cannot convert activation='relu' exactly"),
        ({"reset_after": True, "learn_initial_state": True}, "cannot convert a learned initial state exactly"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=rf"^equinox\.nn\.GRUCell: {message}"):
        to_equinox(checks.random_layer(rng, H, input_size=D, **options))
    with pytest.raises(TypeError, match=r"^layer: expected a cgru.GRU"):
        to_equinox(cgru.Dense(3))
