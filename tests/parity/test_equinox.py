"""equinox.nn.GRUCell under a scan: the module in, outputs compared, arrays back into a module."""

import warnings

import checks
import numpy as np
import pytest

from cgru.convert import from_equinox, to_equinox

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    jax = pytest.importorskip("jax")
    equinox = pytest.importorskip("equinox")

N, T, D, H = checks.N, checks.T, checks.D, checks.H
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


@pytest.fixture(autouse=True)
def x64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def scanned(cell, x, h0):
    """Outputs (N, T, H) of the cell, which takes one row and one step at a time."""

    def row(steps, h):
        def step(h, v):
            h = cell(v, h)
            return h, h

        return jax.lax.scan(step, h, steps)[1]

    return jax.vmap(row)(x, h0)


def with_arrays(cell, arrays):
    return equinox.tree_at(lambda c: [getattr(c, name) for name in arrays], cell, list(arrays.values()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_both_ways(rng, use_bias, dtype):
    x, h0 = rng.standard_normal((N, T, D)).astype(dtype), rng.standard_normal((N, H)).astype(dtype)
    cell = equinox.nn.GRUCell(D, H, use_bias=use_bias, dtype=dtype, key=jax.random.key(0))
    layer = from_equinox(cell)
    assert layer.dtype == dtype and layer.use_bias == use_bias
    checks.assert_close(layer(x, h0)[0], scanned(cell, x, h0), TOLERANCE[dtype])
    arrays = {name: array for name, array in to_equinox(layer).items() if array is not None}
    checks.assert_same_arrays(arrays, [np.asarray(getattr(cell, name)) for name in arrays])

    ours = checks.random_layer(
        rng, H, input_size=D, reset_after=True, use_bias=use_bias, dtype=dtype, return_sequences=True
    )
    arrays = {name: array for name, array in to_equinox(ours).items() if array is not None}
    checks.assert_close(ours(x, h0), scanned(with_arrays(cell, arrays), x, h0), TOLERANCE[dtype])


def test_a_stack(rng):
    cells = [equinox.nn.GRUCell(inputs, H, dtype="float64", key=jax.random.key(i)) for i, inputs in enumerate((D, H))]
    x, h0 = rng.standard_normal((N, T, D)), rng.standard_normal((2, N, H))
    layer = from_equinox(cells)
    assert layer.num_layers == 2
    checks.assert_close(layer(x, h0)[0], scanned(cells[1], scanned(cells[0], x, h0[0]), h0[1]), 1e-13)
