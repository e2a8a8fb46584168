"""Haiku's and Sonnet 2's GRU: columns z, r, a, and z weighs the new state, so that everything is exact to the bit."""

import types

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_haiku, from_sonnet, to_haiku, to_sonnet

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def random_params(rng, inputs=D, units=H, dtype="float64"):
    shapes = {"w_i": (inputs, 3 * units), "w_h": (units, 3 * units), "b": (3 * units,)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def theirs(p, x, h):
    units, ys = h.shape[1], []
    for t in range(x.shape[1]):
        gates_x = x[:, t] @ p["w_i"]
        zr = checks.sigmoid(gates_x[:, : 2 * units] + h @ p["w_h"][:, : 2 * units] + p["b"][: 2 * units])
        z, r = zr[:, :units], zr[:, units:]
        a = np.tanh(gates_x[:, 2 * units :] + (r * h) @ p["w_h"][:, 2 * units :] + p["b"][2 * units :])
        h = (1 - z) * h + z * a
        ys.append(h)
    return np.stack(ys, axis=1)


def test_outputs(rng):
    params = random_params(rng)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    y, h = from_haiku({"gru": params})(x, h0)
    checks.assert_close(y, theirs(params, x, h0), 1e-13)
    checks.assert_close(h, y[:, -1], 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trips_to_the_bit(rng, dtype):
    params = random_params(rng, dtype=dtype)
    layer = from_haiku(params, go_backwards=True)
    assert layer.go_backwards and layer.dtype == dtype
    checks.assert_round_trip(params, layer, to_haiku(layer))
    np.testing.assert_array_equal(layer.parameters["kernel"][:, H : 2 * H], params["w_i"][:, :H])
    layer = checks.random_layer(rng, H, num_layers=2, bidirectional=True, input_size=D, dtype=dtype)
    again = from_haiku(to_haiku(layer), directions=2)
    assert again.num_layers == 2 and again.bidirectional
    checks.assert_same_arrays(again.parameters, layer.parameters)


def test_one_of_several_modules(rng):
    cells = {"net/~/gru": random_params(rng, D, 5), "net/~/gru_1": random_params(rng, 5, H)}
    params = cells | {"net/~/linear": {"w": np.ones((3, 3)), "b": np.ones(3)}}
    with pytest.raises(ValueError, match=r"^prefix: expected one of \['net/~/gru', 'net/~/gru_1'\], got None"):
        from_haiku(params)
    checks.assert_same_arrays(to_haiku(from_haiku(params, "net/~/gru_1")), cells["net/~/gru_1"])
    stack = from_haiku(params, ["net/~/gru", "net/~/gru_1"])
    assert isinstance(stack, cgru.Sequential)
    checks.assert_same_arrays(to_haiku(stack), list(cells.values()))


def test_sonnet_modules_and_variables(rng):
    params = random_params(rng)
    module = types.SimpleNamespace(input_to_hidden=params["w_i"], hidden_to_hidden=params["w_h"], b=params["b"])
    for source in (module, params):
        layer = from_sonnet(source, time_major=True)
        assert layer.time_major
        checks.assert_round_trip(params, layer, to_sonnet(layer))
    both = from_sonnet([module, module], directions=2)
    checks.assert_same_arrays(to_sonnet(both), [params, params])
    with pytest.raises(TypeError, match=r"^gru: expected a mapping of names to arrays, got object"):
        from_sonnet(object())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w_i": None}, "params: expected an array 'w_i', got w_h, b"),
        ({"b": None}, "params: expected an array 'b'"),
        ({"w_h": np.ones((H, 4 * H))}, r"w_h: expected shape \(H, 3H\)"),
        ({"w_i": np.ones((D, 3))}, r"w_i: expected shape \(D, 3H\) = \(2, 21\), got \(2, 3\)"),
        ({"w_z": np.ones(3)}, "params: expected .* and no others, got 'w_z'"),
    ],
)
def test_wrong_params_are_named(rng, change, message):
    params = {name: array for name, array in (random_params(rng) | change).items() if array is not None}
    with pytest.raises(ValueError, match=rf"^{message}"):
        from_haiku(params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_after": True}, "cannot convert reset_after=True exactly: .*Flax and Equinox"),
        ({"activation": "relu"}, "cannot convert activation='relu' exactly"),
        ({"recurrent_activation": "tanh"}, "cannot convert recurrent_activation='tanh' exactly"),
        ({"learn_initial_state": True}, "cannot convert a learned initial state exactly"),
    ],
)
def test_what_it_cannot_hold(rng, options, message):
    with pytest.raises(ValueError, match=f"^the GRU of Haiku and Sonnet: {message}"):
        to_haiku(checks.random_layer(rng, H, input_size=D, **options))
