"""Flax' GRUCells, linen and nnx, run by their own RNN wrappers: parameters in, outputs compared, parameters back."""

import warnings

import checks
import numpy as np
import pytest

from cgru.convert import from_flax_linen, from_flax_nnx, to_flax_linen, to_flax_nnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    jax = pytest.importorskip("jax")
    linen = pytest.importorskip("flax.linen")
    nnx = pytest.importorskip("flax.nnx")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
N, T, D, H = checks.N, checks.T, checks.D, checks.H
LENGTHS = np.array([2, 5, 3])
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


@pytest.fixture(autouse=True)
def x64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def problem(rng, dtype):
    return rng.standard_normal((N, T, D)).astype(dtype), rng.standard_normal((N, H)).astype(dtype)


def randomised(rng, tree, dtype):
    """All arrays of a tree, biases too, replaced by random ones."""
    return jax.tree.map(lambda a: jax.numpy.asarray(rng.standard_normal(a.shape).astype(dtype) / 2), tree)


def compare(layer, x, h0, expected, final, **lengths):
    y, h = layer(x, h0, **lengths)
    valid = checks.valid_steps(N, T, **lengths)[:, :, None]
    tolerance = TOLERANCE[x.dtype.name]
    checks.assert_close(y, np.where(valid, expected, 0), tolerance, "y")
    checks.assert_close(h, final, tolerance, "h")


FUNCTIONS = {"sigmoid": linen.sigmoid, "tanh": linen.tanh, "relu": linen.relu, "hard_sigmoid": linen.hard_sigmoid}
DIRECTIONS = {"reverse": {"reverse": True, "keep_order": True}, "go_backwards": {"reverse": True}, "forward": {}}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(  # backwards with lengths, Flax puts the padding last and we where the input has it: first
    ("direction", "lengths"),
    [("forward", None), ("forward", LENGTHS), ("reverse", None), ("reverse", LENGTHS), ("go_backwards", None)],
)
@pytest.mark.parametrize(("f", "g"), [("sigmoid", "tanh"), ("hard_sigmoid", "relu")])
def test_linen(rng, dtype, direction, lengths, f, g):
    cell = linen.GRUCell(features=H, gate_fn=FUNCTIONS[f], activation_fn=FUNCTIONS[g], param_dtype=dtype, dtype=dtype)
    rnn = linen.RNN(cell, return_carry=True, **DIRECTIONS[direction])
    x, h0 = problem(rng, dtype)
    variables = randomised(rng, rnn.init(jax.random.key(0), x), dtype)
    (final, expected) = rnn.apply(variables, x, seq_lengths=lengths, initial_carry=h0)

    options = {} if direction == "forward" else {direction: True}
    layer = from_flax_linen(variables, activation=g, recurrent_activation=f, **options)
    compare(layer, x, h0, expected, final, **({} if lengths is None else {"lengths": lengths}))
    back = to_flax_linen(layer)
    given = jax.tree.leaves(variables["params"]["cell"])
    checks.assert_same_arrays(jax.tree.leaves(back), [np.asarray(array) for array in given])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linen_takes_ours(rng, dtype):
    """Parameters of a layer whose biases are summed on the way."""
    layer = checks.random_layer(
        rng, H, input_size=D, reset_after=True, dtype=dtype, return_sequences=True, return_state=True
    )
    x, h0 = problem(rng, dtype)
    rnn = linen.RNN(linen.GRUCell(features=H, param_dtype=dtype), return_carry=True)
    final, expected = rnn.apply({"params": {"cell": to_flax_linen(layer)}}, x, initial_carry=h0)
    compare(layer, x, h0, expected, final)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linen_bidirectional_and_stacked(rng, dtype):
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x, h0):
            for i in range(2):
                forward, backward = (linen.RNN(linen.GRUCell(features=H, param_dtype=dtype)) for _ in range(2))
                x = linen.Bidirectional(forward, backward)(x, initial_carry=(h0[2 * i], h0[2 * i + 1]))
            return x

    x, h0 = rng.standard_normal((N, T, D)).astype(dtype), rng.standard_normal((4, N, H)).astype(dtype)
    model = Model()
    variables = randomised(rng, model.init(jax.random.key(0), x, h0), dtype)
    expected = model.apply(variables, x, h0)
    names = [f"params/{name}" for name in variables["params"]]
    assert len(names) == 4  # forward_rnn and backward_rnn of each layer, in the order in which they were made
    layer = from_flax_linen(variables, [f"{name}/cell" if "RNN" in name else name for name in names], directions=2)
    checks.assert_close(layer(x, h0)[0], expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reverse", [False, True])
def test_nnx(rng, dtype, reverse):
    cell = nnx.GRUCell(D, H, param_dtype=dtype, rngs=nnx.Rngs(0))
    state = randomised(rng, nnx.state(cell, nnx.Param), dtype)
    nnx.update(cell, state)
    x, h0 = problem(rng, dtype)
    rnn = nnx.RNN(cell, return_carry=True, reverse=reverse, keep_order=True)
    final, expected = rnn(jax.numpy.asarray(x), initial_carry=jax.numpy.asarray(h0))
    for source in (cell, nnx.to_pure_dict(state), state):
        layer = from_flax_nnx(source, reverse=reverse)
        assert layer.dtype == dtype
        compare(layer, x, h0, expected, final)

    other = nnx.GRUCell(D, H, param_dtype=dtype, rngs=nnx.Rngs(1))
    nnx.update(other, to_flax_nnx(layer))
    for ours, theirs in zip(jax.tree.leaves(nnx.state(other, nnx.Param)), jax.tree.leaves(state), strict=True):
        checks.assert_same_arrays([np.asarray(ours)], [np.asarray(theirs)])
