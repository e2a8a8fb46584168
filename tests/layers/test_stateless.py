"""Dense, Embedding and Dropout as one calls them: forward and backward of arrays."""

import re

import checks
import numpy as np
import pytest

import cgru
from cgru.layers import Layer

N, T, D, K = 3, 5, 4, 7
ACTIVATIONS = ("linear", "relu", "sigmoid", "softmax", "tanh")
VALIDITY = {"all": {}, "lengths": {"lengths": checks.LENGTHS}, "mask": {"mask": checks.MASK}}


def valid_of(options):
    return checks.valid_steps(N, T, **options)


def layer_with(layer, arrays):
    layer.build(D)
    layer.set_weights([arrays[name] for name in layer.parameters])
    return layer


@pytest.mark.parametrize("valid", VALIDITY)
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_dense(rng, activation, use_bias, valid):
    options, counted = VALIDITY[valid], valid_of(VALIDITY[valid])
    layer = cgru.Dense(K, activation, use_bias=use_bias, dtype="float64")
    arrays = {"x": rng.standard_normal((N, T, D)), "kernel": rng.standard_normal((D, K)) / 4}
    if use_bias:
        arrays["bias"] = rng.choice([-1, 1], K) * rng.uniform(2, 3, K)
    # away from the kink of relu
    while activation == "relu" and abs(arrays["x"] @ arrays["kernel"] + arrays.get("bias", 0)).min() < 0.01:
        arrays["kernel"] = rng.standard_normal((D, K)) / 4
    dy = rng.standard_normal((N, T, K))

    def value(a):
        return float((layer_with(layer, a)(a["x"], **options) * dy).sum())

    y, tape = layer_with(layer, arrays).forward(checks.spoiled(arrays["x"], counted), training=True, **options)
    checks.assert_same_arrays(y, layer(arrays["x"], **options))
    assert (y[~counted] == 0).all()
    dx, grads = layer.backward(checks.spoiled(dy, counted), tape)
    assert (dx[~counted] == 0).all()
    checks.assert_gradients(value, arrays, {"x": dx, **grads})


def test_gradients_of_dense_on_vectors(rng):
    layer = cgru.Dense(K, "tanh", dtype="float64")
    arrays = {"x": rng.standard_normal((N, D)), "kernel": rng.standard_normal((D, K)), "bias": rng.standard_normal(K)}
    dy = rng.standard_normal((N, K))
    y, tape = layer_with(layer, arrays).forward(arrays["x"], training=True)
    np.testing.assert_allclose(y, np.tanh(arrays["x"] @ arrays["kernel"] + arrays["bias"]), rtol=1e-13)
    dx, grads = layer.backward(dy, tape)
    checks.assert_gradients(
        lambda a: float((layer_with(layer, a)(a["x"]) * dy).sum()), arrays, {"x": dx, **grads}
    )
    again = layer.backward(dy, tape, need_dx=False)
    assert again[0] is None
    checks.assert_same_arrays(again[1], grads)


@pytest.mark.parametrize("valid", VALIDITY)
def test_gradients_of_embedding(rng, valid):
    options, counted = VALIDITY[valid], valid_of(VALIDITY[valid])
    layer, ids = cgru.Embedding(6, 4, dtype="float64", seed=0), rng.integers(0, 6, (N, T))
    dy = rng.standard_normal((N, T, 4))
    y, tape = layer.forward(np.where(counted, ids, 99), training=True, **options)
    np.testing.assert_array_equal(y[counted], layer.parameters["embeddings"][ids[counted]])
    assert (y[~counted] == 0).all()
    dx, grads = layer.backward(checks.spoiled(dy, counted), tape)
    assert dx is None

    def value(a):
        return float((layer_with(layer, a)(ids, **options) * dy).sum())

    checks.assert_gradients(value, {"embeddings": layer.get_weights()[0]}, grads)
    checks.assert_same_arrays(layer(ids[:, 0]), layer.parameters["embeddings"][ids[:, 0]])


@pytest.mark.parametrize("valid", VALIDITY)
def test_gradients_of_dropout(rng, valid):
    options, counted = VALIDITY[valid], valid_of(VALIDITY[valid])
    layer, x, dy = cgru.Dropout(0.4), rng.standard_normal((N, T, D)), rng.standard_normal((N, T, D))
    y, tape = layer.forward(checks.spoiled(x, counted), training=True, seed=5, **options)
    dx, grads = layer.backward(checks.spoiled(dy, counted), tape)
    kept = y[counted] != 0
    assert grads == {} and 0.3 < kept.mean() < 0.9
    np.testing.assert_allclose(y[counted][kept], x[counted][kept] / 0.6, rtol=1e-14)
    checks.assert_gradients(
        lambda a: float((layer.forward(a["x"], training=True, seed=5, **options)[0] * dy).sum()), {"x": x}, {"x": dx}
    )
    assert not np.array_equal(layer.forward(x, training=True, seed=6, **options)[0], y)
    np.testing.assert_array_equal(layer(x, **options), np.where(counted[:, :, None], x, 0))


def test_results_are_not_the_arguments(rng):
    x = rng.standard_normal((N, D)).astype(np.float32)
    for layer in (cgru.Dropout(0.5), cgru.Dropout(0.0), cgru.Dense(D)):
        y, tape = layer.forward(x, training=True)
        dx, _ = layer.backward(x, tape)
        assert not np.shares_memory(layer(x), x) and not np.shares_memory(y, x) and not np.shares_memory(dx, x)


def test_lists_lists_of_arrays_and_other_types(rng):
    layer = cgru.Dense(2, seed=0)
    rows = [rng.standard_normal((3, D)), rng.standard_normal((1, D))]
    y = layer(rows)
    assert y.shape == (2, 3, 2) and y.dtype == np.float32 and (y[1, 1:] == 0).all()
    np.testing.assert_allclose(y[0], layer(rows[0]), rtol=1e-6)
    assert layer([[1, 2, 3, 4]]).shape == (1, 2)
    y, tape = layer.forward(rows, training=True)
    dx, _ = layer.backward(y.tolist(), tape)
    assert dx.shape == (2, 3, D) and (dx[1, 1:] == 0).all()
    table = cgru.Embedding(5, 2, seed=0)
    assert table([[1, 2], [3]]).shape == (2, 2, 2) and table([np.array([1, 2]), np.array([3])]).shape == (2, 2, 2)
    assert cgru.Dropout(0.5)([[1.0, 2.0]]).dtype == np.float64
    assert layer(np.zeros((0, D))).shape == (0, 2)


@pytest.mark.parametrize(
    ("layer", "x", "options", "error", "message"),
    [
        (cgru.Dense(2), np.zeros((2, 3, 4)), {"lengths": [1, 9]}, ValueError, "lengths: expected values from 0 to T"),
        (cgru.Dense(2), np.zeros((2, 3)), {"lengths": [1, 1]}, ValueError, "lengths, mask: expected sequences beside"),
        (cgru.Dense(2), np.zeros((2, 3)), {"mask": np.ones((2, 3))}, ValueError, "got x of shape (2, 3)"),
        (cgru.Dropout(0.1), np.zeros((2, 3)), {"lengths": [1, 1]}, ValueError, "lengths, mask: expected sequences"),
        (cgru.Dense(2), np.zeros(3), {}, ValueError, "x: expected shape (N, F) or (N, T, F), got (3,)"),
        (cgru.Dense(2), [np.zeros(3), np.zeros(2)], {}, ValueError, "x: expected a list of arrays (T_i, F)"),
        (cgru.Dense(2), "text", {}, TypeError, "x: expected real numbers, got dtype <U4"),
        (cgru.Dense(2), np.zeros((2, 3), complex), {}, TypeError, "x: expected real numbers, got dtype complex128"),
        (cgru.Embedding(5, 2), np.zeros((2, 3)), {}, TypeError, "x: expected integer ids, got dtype float64"),
        (cgru.Embedding(5, 2), [[1, 5]], {}, ValueError, "x: expected ids of at least 0 and less than input_dim = 5"),
        (cgru.Embedding(5, 2), np.zeros((2, 3, 4), int), {}, ValueError, "x: expected shape (N, T) or (N,), of ids"),
        (cgru.Embedding(5, 2), np.zeros(3, int), {"lengths": [1, 1, 1]}, ValueError, "lengths, mask: expected seq"),
        (cgru.Dropout(0.1), np.zeros((2, 3), int), {}, TypeError, "Dropout: expected floating-point data, got dtype"),
    ],
)
def test_calls_refuse(layer, x, options, error, message):
    for call in (layer, layer.forward):
        with pytest.raises(error, match=re.escape(message)):
            call(x, **options)


def test_a_built_layer_refuses_other_features():
    layer = cgru.Dense(2)
    layer.build(5)
    with pytest.raises(ValueError, match=re.escape("x: expected shape (N, 5) or (N, T, 5), got (2, 3)")):
        layer(np.zeros((2, 3)))


def test_backward_refuses():
    layer, other, x = cgru.Dense(2, seed=0), cgru.Dense(2, seed=0), np.ones((3, 4))
    y, tape = layer.forward(x, training=True)
    assert layer.forward(x)[1] is None
    for arguments, error, message in (
        ((y[:1], tape), ValueError, "dy: expected the shape of y, (3, 2), got (1, 2)"),
        (("y", tape), TypeError, "dy: expected real numbers, got dtype <U1"),
        ((y, None), TypeError, "tape: expected what forward(..., training=True) returned, got NoneType"),
        ((y, other.forward(x, training=True)[1]), ValueError, "tape: expected one of this layer's forward passes"),
        ((y, tape, 1), TypeError, "need_dx: expected True or False, got 1"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            layer.backward(*arguments)
    with pytest.raises(TypeError, match="training: expected True or False, got 'yes'"):
        layer.forward(x, training="yes")
    with pytest.raises(TypeError, match=re.escape("seed: expected an integer, got 1.5")):
        layer.forward(x, training=True, seed=1.5)


def test_a_layer_of_ones_own_has_the_faces_too(rng):
    class Scale(cgru.layers.Stateless):
        def parameter_shapes(self, input_size):
            yield "scale", (input_size,)

        def _initial(self, name):
            return lambda shape, dtype, generator: np.ones(shape, dtype)

        def output_size(self, input_size):
            return input_size

        def forward_batch(self, batch, state=None, key=None, training=False):
            self.build(batch.data.shape[-1])
            return batch.with_data(batch.data * self.parameters["scale"]), None, 0.0, batch.data

        def backward_batch(self, d_out, d_state, tape, need_dx=True):
            grads = {"scale": (d_out * tape).reshape(-1, d_out.shape[-1]).sum(axis=0)}
            return d_out * self.parameters["scale"], None, grads

    layer, x = Scale(dtype="float64"), rng.standard_normal((N, T, D))
    assert isinstance(layer, Layer)
    y, tape = layer.forward(x, training=True)
    dx, grads = layer.backward(x, tape)
    checks.assert_same_arrays((y, dx), (x, x))
    checks.assert_close(grads["scale"], (x * x).sum(axis=(0, 1)), 1e-13)
