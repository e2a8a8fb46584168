"""haiku.GRU under dynamic_unroll: parameters in, outputs compared, parameters back, all to the bit but the outputs."""

import warnings

import checks
import numpy as np
import pytest

from cgru.convert import from_haiku, to_haiku

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    jax = pytest.importorskip("jax")
    haiku = pytest.importorskip("haiku")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
N, T, D, H = checks.N, checks.T, checks.D, checks.H
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


@pytest.fixture(autouse=True)
def x64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def network(x, h0):
    """Two cores of unequal size, time-major."""
    x, first = haiku.dynamic_unroll(haiku.GRU(5), x, h0[0])
    x, second = haiku.dynamic_unroll(haiku.GRU(H), x, h0[1])
    return x, (first, second)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_ways(rng, dtype):
    x = rng.standard_normal((T, N, D)).astype(dtype)
    h0 = rng.standard_normal((N, 5)).astype(dtype), rng.standard_normal((N, H)).astype(dtype)
    model = haiku.without_apply_rng(haiku.transform(network))
    params = model.init(jax.random.key(0), x, h0)
    params = jax.tree.map(lambda a: jax.numpy.asarray(rng.standard_normal(a.shape).astype(dtype) / 2), params)
    expected, finals = model.apply(params, x, h0)

    layers = from_haiku(params, ["gru", "gru_1"])  # a Sequential, whose layers have the rows first
    y = x.swapaxes(0, 1)
    for layer, state, final in zip(layers.layers, h0, finals, strict=True):
        y, h = layer(y, state)
        checks.assert_close(h, final, TOLERANCE[dtype])
    checks.assert_close(y.swapaxes(0, 1), expected, TOLERANCE[dtype])
    for name, back in zip(("gru", "gru_1"), to_haiku(layers), strict=True):
        assert back.keys() == params[name].keys()
        checks.assert_same_arrays(back, [np.asarray(params[name][key]) for key in back])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_haiku_takes_ours(rng, dtype):
    ours = checks.random_layer(
        rng, H, input_size=D, dtype=dtype, time_major=True, return_sequences=True, return_state=True
    )
    x, h0 = rng.standard_normal((T, N, D)).astype(dtype), rng.standard_normal((N, H)).astype(dtype)
    model = haiku.without_apply_rng(haiku.transform(lambda x, h: haiku.dynamic_unroll(haiku.GRU(H), x, h)))
    expected, final = model.apply({"gru": to_haiku(ours)}, x, h0)
    y, h = ours(x, h0)
    checks.assert_close(y, expected, TOLERANCE[dtype])
    checks.assert_close(h, final, TOLERANCE[dtype])
