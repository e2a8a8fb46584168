"""TensorFlow's GRUBlockCell operator, and Sonnet's GRU where it is installed."""

import os
import warnings

import checks
import numpy as np
import pytest

from cgru.convert import from_sonnet, from_tf1, to_sonnet, to_tf1

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says when it is imported is not ours
    tf = pytest.importorskip("tensorflow")

N, T, D, H = checks.N, checks.T, checks.D, checks.H
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


def block_cell(variables, x, h):
    """Outputs (N, T, H) of the operator, step by step; float32 only."""
    ys = []
    for t in range(x.shape[1]):
        h = tf.raw_ops.GRUBlockCell(x=x[:, t], h_prev=h, **variables).h
        ys.append(h)
    return np.stack(ys, axis=1)


def test_gru_block_cell(rng):
    ours = checks.random_layer(rng, H, input_size=D, return_sequences=True)
    x, h0 = rng.standard_normal((N, T, D)).astype("float32"), rng.standard_normal((N, H)).astype("float32")
    variables = to_tf1(ours, names="GRUBlockCell")
    expected = block_cell(variables, x, h0)
    checks.assert_close(ours(x, h0), expected, 2e-6)
    back = from_tf1({f"rnn/{name}:0": tf.Variable(array) for name, array in variables.items()})
    checks.assert_same_arrays(back.parameters, ours.parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sonnet(rng, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sonnet = pytest.importorskip("sonnet")
    core = sonnet.GRU(H, dtype=getattr(tf, dtype))
    x, h0 = rng.standard_normal((T, N, D)).astype(dtype), rng.standard_normal((N, H)).astype(dtype)
    sonnet.dynamic_unroll(core, tf.constant(x), tf.constant(h0))  # makes the variables
    core.b.assign(rng.standard_normal(3 * H).astype(dtype))
    expected, final = sonnet.dynamic_unroll(core, tf.constant(x), tf.constant(h0))
    layer = from_sonnet(core, time_major=True)
    assert layer.dtype == dtype
    y, h = layer(x, h0)
    checks.assert_close(y, expected, TOLERANCE[dtype])
    checks.assert_close(h, final, TOLERANCE[dtype])

    ours = checks.random_layer(rng, H, input_size=D, dtype=dtype, time_major=True, return_sequences=True)
    for name, variable in (("w_i", core.input_to_hidden), ("w_h", core.hidden_to_hidden), ("b", core.b)):
        variable.assign(to_sonnet(ours)[name])
    expected, _ = sonnet.dynamic_unroll(core, tf.constant(x), tf.constant(h0))
    checks.assert_close(ours(x, h0), expected, TOLERANCE[dtype])
    checks.assert_same_arrays(to_sonnet(from_sonnet(core)), to_sonnet(ours))
