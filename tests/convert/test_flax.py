"""Flax' two GRUCells: linen has a Dense layer for each gate and side and a b_hn, nnx two Dense layers and no b_hn."""

import types

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import from_flax_linen, from_flax_nnx, to_flax_linen, to_flax_nnx

N, T, D, H = checks.N, checks.T, checks.D, checks.H


def random_linen(rng, inputs=D, units=H, dtype="float64"):
    params = {f"i{gate}": {"kernel": (inputs, units), "bias": (units,)} for gate in "rzn"}
    params |= {"hr": {"kernel": (units, units)}, "hz": {"kernel": (units, units)}}
    params["hn"] = {"kernel": (units, units), "bias": (units,)}
    return {
        name: {part: rng.standard_normal(shape).astype(dtype) for part, shape in shapes.items()}
        for name, shapes in params.items()
    }


def random_nnx(rng, inputs=D, units=H, dtype="float64"):
    shapes = {
        "dense_i": {"kernel": (inputs, 3 * units), "bias": (3 * units,)},
        "dense_h": {"kernel": (units, 3 * units)},
    }
    return {
        name: {part: rng.standard_normal(shape).astype(dtype) for part, shape in parts.items()}
        for name, parts in shapes.items()
    }


def theirs_linen(p, x, h, f=checks.sigmoid, g=np.tanh):
    def dense(name, v):
        return v @ p[name]["kernel"] + p[name].get("bias", 0)

    ys = []
    for t in range(x.shape[1]):
        r = f(dense("ir", x[:, t]) + dense("hr", h))
        z = f(dense("iz", x[:, t]) + dense("hz", h))
        n = g(dense("in", x[:, t]) + r * dense("hn", h))
        h = (1 - z) * n + z * h
        ys.append(h)
    return np.stack(ys, axis=1)


def theirs_nnx(p, x, h, f=checks.sigmoid, g=np.tanh):
    ys = []
    for t in range(x.shape[1]):
        xi_r, xi_z, xi_n = np.split(x[:, t] @ p["dense_i"]["kernel"] + p["dense_i"]["bias"], 3, axis=1)
        hh_r, hh_z, hh_n = np.split(h @ p["dense_h"]["kernel"], 3, axis=1)
        r, z = f(xi_r + hh_r), f(xi_z + hh_z)
        h = (1 - z) * g(xi_n + r * hh_n) + z * h
        ys.append(h)
    return np.stack(ys, axis=1)


KINDS = {
    "linen": (random_linen, theirs_linen, from_flax_linen, to_flax_linen),
    "nnx": (random_nnx, theirs_nnx, from_flax_nnx, to_flax_nnx),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def hard_sigmoid(a):
    return np.clip(a / 6 + 0.5, 0, 1)


@pytest.mark.parametrize(
    ("activation", "recurrent_activation", "functions"),
    [("tanh", "sigmoid", {}), ("relu", "hard_sigmoid", {"f": hard_sigmoid, "g": lambda a: np.maximum(a, 0)})],
)
def test_outputs(rng, kind, activation, recurrent_activation, functions):
    draw, theirs, from_, _ = kind
    params = draw(rng)
    layer = from_(params, activation=activation, recurrent_activation=recurrent_activation)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    y, h = layer(x, h0)
    checks.assert_close(y, theirs(params, x, h0, **functions), 1e-13)
    checks.assert_close(h, y[:, -1], 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trips_to_the_bit(rng, kind, dtype):
    draw, _, from_, to_ = kind
    for params in (
        draw(rng, dtype=dtype),
        [draw(rng, D, H, dtype), draw(rng, H, H, dtype)],
        [draw(rng, D, 5, dtype), draw(rng, 5, 3, dtype)],
    ):
        layer = from_(params, time_major=True)
        assert isinstance(layer, cgru.Sequential) or (layer.time_major and layer.dtype == dtype and layer.reset_after)
        back = to_(layer)
        checks.assert_same_names(back, params)
        checks.assert_same_arrays(checks.sorted_arrays(back), checks.sorted_arrays(params))


def test_both_directions(rng, kind):
    draw, theirs, from_, to_ = kind
    pair = [draw(rng), draw(rng)]
    layer = from_(pair, directions=2)
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((2, N, H))
    forward, backward = theirs(pair[0], x, h0[0]), theirs(pair[1], x[:, ::-1], h0[1])[:, ::-1]
    checks.assert_close(layer(x, h0)[0], np.concatenate([forward, backward], axis=2), 1e-13)
    checks.assert_same_arrays(checks.sorted_arrays(to_(layer)), checks.sorted_arrays(pair))


def test_one_of_several_cells(rng, kind):
    draw, _, from_, to_ = kind
    cells = [draw(rng, D, H), draw(rng, H, H)]
    variables = {"params": {"encoder": {"cell": cells[0]}, "decoder": {"cell": cells[1]}, "head": {"bias": np.ones(3)}}}
    with pytest.raises(ValueError, match=r"^prefix: expected one of \['params/encoder/cell', 'params/decoder/cell'\]"):
        from_(variables)
    one = from_(variables, "params/decoder/cell")
    checks.assert_same_arrays(checks.sorted_arrays(to_(one)), checks.sorted_arrays(cells[1]))
    stack = from_(variables, ["params/encoder/cell", "params/decoder/cell"])
    assert stack.num_layers == 2
    checks.assert_same_arrays(checks.sorted_arrays(to_(stack)), checks.sorted_arrays(cells))
    with pytest.raises(TypeError, match=r"^prefix: expected a str for each mapping, got \['a'\]"):
        from_([variables], ["a"])


def test_an_nnx_cell_by_its_attributes(rng):
    state = random_nnx(rng)
    cell = types.SimpleNamespace(**{name: types.SimpleNamespace(**parts) for name, parts in state.items()})
    checks.assert_same_arrays(checks.sorted_arrays(to_flax_nnx(from_flax_nnx(cell))), checks.sorted_arrays(state))


def test_biases_that_are_summed(rng, kind):
    """r and z of a layer that was trained with two biases; b_hn is zero here, for nnx' sake."""
    _, theirs, _, to_ = kind
    layer = checks.random_layer(rng, H, input_size=D, reset_after=True, dtype="float64", return_sequences=True)
    with layer.update() as parameters:
        parameters["bias"][1, 2 * H :] = 0
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((N, H))
    checks.assert_close(layer(x, h0), theirs(to_(layer), x, h0), 1e-13)
    plain = cgru.GRU(H, reset_after=True, use_bias=False, input_size=D, dtype="float64", return_sequences=True)
    checks.assert_close(plain(x, h0), theirs(to_(plain), x, h0), 1e-13)


def test_nnx_has_no_place_for_b_hn(rng):
    layer = checks.random_layer(rng, H, input_size=D, reset_after=True)
    message = "^flax.nnx.GRUCell: cannot convert the recurrent bias of the candidate exactly: .*to_flax_linen"
    with pytest.raises(ValueError, match=message):
        to_flax_nnx(layer)
    assert to_flax_linen(layer)["hn"]["bias"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "cannot convert reset_after=False exactly: .*Haiku has the reset before"),
        ({"reset_after": True, "recurrent_activation": "tanh"}, "cannot convert recurrent_activation='tanh' exactly"),
        ({"reset_after": True, "learn_initial_state": True}, "cannot convert a learned initial state exactly"),
    ],
)
def test_what_they_cannot_hold(rng, kind, options, message):
    with pytest.raises(ValueError, match=rf"^flax\.\w+\.GRUCell: {message}"):
        kind[3](checks.random_layer(rng, H, input_size=D, **options))


def test_what_cannot_be_read(rng, kind):
    draw, _, from_, _ = kind
    with pytest.raises(ValueError, match=r"^flax\.\w+\.GRUCell: cannot convert recurrent_activation='relu' exactly"):
        from_(draw(rng), recurrent_activation="relu")
    with pytest.raises(TypeError, match="multiple values for keyword argument 'reset_after'"):
        from_(draw(rng), reset_after=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hn": {"kernel": np.ones((H, H))}}, "params: expected an array 'hn/bias'"),
        ({"hn": {"bias": np.ones(H)}}, "params: expected an array 'hn/kernel'"),
        ({"iz": {"kernel": np.ones((D, H + 1)), "bias": np.ones(H)}}, r"iz/kernel: expected shape \(D, H\) = \(2, 7\)"),
        ({"hr": {"kernel": np.ones((H, H)), "bias": np.ones(H)}}, "params: expected .* and no others, got 'hr/bias'"),
    ],
)
def test_wrong_linen_params_are_named(rng, change, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        from_flax_linen(random_linen(rng) | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dense_i": {"kernel": np.ones((D, 3 * H))}}, "cell: expected an array 'dense_i/bias'"),
        ({"dense_h": {"kernel": np.ones((H, 2 * H))}}, r"dense_h/kernel: expected shape \(H, 3H\)"),
        ({"dense_h": {"kernel": np.ones((H, 3 * H)), "bias": np.ones(3 * H)}}, "cell: expected .* got 'dense_h/bias'"),
    ],
)
def test_wrong_nnx_states_are_named(rng, change, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        from_flax_nnx(random_nnx(rng) | change)
