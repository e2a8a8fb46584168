"""Layer protocol, Embedding, Dense and Dropout, against formulas and finite differences."""

import copy
import json
import pickle
import re
import threading

import checks
import children
import numpy as np
import pytest
import scipy.special

import cgru
from cgru import initializers
from cgru.layers import Layer
from cgru.sequences import Batch

N, T, F, K = 3, 5, 2, 7
VALIDITY = {
    "all": (None, None),
    "lengths": (np.array([2, 5, 0]), None),
    "mask": (None, np.array([[0, 1, 1, 0, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)),
}
ACTIVATIONS = {
    "linear": lambda a: a,
    "relu": lambda a: np.maximum(a, 0),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(axis=-1, keepdims=True),
    "tanh": np.tanh,
}


def batch_of(data, validity="all"):
    return Batch(data, *VALIDITY[validity])


def set_parameters(layer, arrays):
    with layer.update() as parameters:
        for name in parameters:
            parameters[name] = arrays[name]


def built(layer, size=F):
    layer.build(size)
    return layer


# -- Layer


def test_build_is_idempotent_and_keeps_the_size():
    layer = cgru.Dense(K, seed=1)
    assert not layer.built and layer.input_size is None
    layer.build(F)
    before = layer.get_weights()
    layer.build(F)
    assert layer.built and layer.input_size == F
    checks.assert_same_arrays(layer.get_weights(), before)
    with pytest.raises(ValueError, match="Dense was built for 2 input features, got 3"):
        layer.build(3)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_build_refuses(size, error):
    with pytest.raises(error, match="input_size: expected"):
        cgru.Dense(K).build(size)


def test_build_from_many_threads_makes_one_set_of_parameters():
    class Slow(cgru.Dense):
        created = 0

        def _create(self, input_size, rng):
            type(self).created += 1
            barrier.wait(timeout=children.PATIENCE)  # until all threads are there: one at work, the others at the lock
            return super()._create(input_size, rng)

    barrier = threading.Barrier(2)
    layer = Slow(K)
    threads = [threading.Thread(target=layer.build, args=(F,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    barrier.wait(timeout=children.PATIENCE)
    for thread in threads:
        thread.join()
    assert Slow.created == 1


def test_parameters_are_read_only_views():
    layer = built(cgru.Dense(K))
    views = layer.parameters
    assert list(views) == ["kernel", "bias"]
    with pytest.raises(ValueError, match="read-only"):
        views["kernel"][0, 0] = 1
    with layer.update() as parameters:
        parameters["kernel"][0, 0] = 42
    assert layer.parameters["kernel"][0, 0] == 42 and views["kernel"][0, 0] != 42


def test_unbuilt_layer_says_so():
    for access in (
        lambda layer: layer.parameters,
        lambda layer: layer.get_weights(),
        lambda layer: layer.set_weights([]),
        lambda layer: layer.update().__enter__(),
    ):
        with pytest.raises(RuntimeError, match=r"Dense has no parameters yet: call build\(input_size\)"):
            access(cgru.Dense(K))


def test_get_weights_are_copies_and_set_weights_copies():
    layer = built(cgru.Dense(K))
    layer.get_weights()[0][:] = 9
    assert not (layer.parameters["kernel"] == 9).any()
    kernel, bias = np.full((F, K), 2.0), np.arange(K)
    layer.set_weights([kernel, bias])
    kernel[:] = 3
    assert (layer.parameters["kernel"] == 2).all()
    assert layer.parameters["kernel"].dtype == np.float32
    checks.assert_same_arrays(layer.parameters["bias"], np.arange(K, dtype=np.float32))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (lambda k, b: [k], ValueError, "weights: expected 2 arrays (kernel, bias), got 1"),
        (lambda k, b: [k, b, b], ValueError, "weights: expected 2 arrays (kernel, bias), got 3"),
        (lambda k, b: k, TypeError, "weights: expected a list of arrays, got ndarray"),
        (lambda k, b: [k.T, b], ValueError, "kernel: expected shape (2, 7), got (7, 2)"),
        (lambda k, b: [k, b[:-1]], ValueError, "bias: expected shape (7,), got (6,)"),
        (lambda k, b: [k, ["x"] * K], TypeError, "bias: expected real numbers, got dtype <U1"),
        (lambda k, b: [k, b + 1j], TypeError, "bias: expected real numbers, got dtype complex128"),
        (
            lambda k, b: [[[1], [1, 2]], b],
            ValueError,
            "kernel: expected an array of shape (2, 7), got nested lists of unequal lengths",
        ),
    ],
)
def test_set_weights_refuses_and_changes_nothing(weights, error, message):
    layer = built(cgru.Dense(K, seed=3))
    before = layer.get_weights()
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        layer.set_weights(weights(np.ones((F, K)), np.ones(K)))
    checks.assert_same_arrays(layer.get_weights(), before)


class Watched(cgru.Dense):
    changes = 0

    def _changed(self):
        self.changes += 1


def test_every_way_of_writing_calls_changed():
    layer = built(Watched(K))
    with layer.update() as parameters:
        parameters["bias"] += 1
        assert layer.changes == 0
    assert layer.changes == 1
    with pytest.raises(ZeroDivisionError), layer.update():
        raise ZeroDivisionError
    assert layer.changes == 2
    layer.set_weights(layer.get_weights())
    assert layer.changes == 3
    layer._publish({name: array * 2 for name, array in layer.parameters.items()})
    assert layer.changes == 4


def test_assignment_in_update_writes_into_the_array():
    layer = built(cgru.Dense(K))
    with layer.update() as parameters:
        array = parameters["bias"]
        parameters["bias"] = np.arange(K)
        assert parameters["bias"] is array
        with pytest.raises(KeyError):
            parameters["bais"] = 0
        with pytest.raises(ValueError):
            parameters["bias"] = np.zeros(K + 1)
    checks.assert_same_arrays(layer.parameters["bias"], np.arange(K, dtype=np.float32))


@pytest.mark.parametrize(
    ("layer", "size"), [(lambda: cgru.Dense(K, "tanh", seed=5), F), (lambda: cgru.Embedding(4, F, seed=5), 1)]
)
def test_config_pickle_and_deepcopy(layer, size):
    layer = built(layer(), size)
    config = json.loads(json.dumps(layer.get_config()))
    again = built(type(layer).from_config(config), size)
    assert again.get_config() == layer.get_config()
    for other in (again, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        checks.assert_same_arrays(other.get_weights(), layer.get_weights())
        with other.update() as parameters:
            next(iter(parameters.values()))[...] = 7
        assert not (layer.get_weights()[0] == 7).any()


def test_from_config_refuses():
    with pytest.raises(TypeError, match="config: expected a dict of Dense's arguments, got list"):
        cgru.Dense.from_config([4])
    with pytest.raises(TypeError, match="kernel_quantizer"):
        cgru.Dense.from_config({"units": 4, "kernel_quantizer": "l2"})


def test_base_class_leaves_the_work_to_subclasses():
    layer = Layer()
    for call in (
        lambda: layer.build(3),
        lambda: layer.forward_batch(None),
        lambda: layer.backward_batch(None, None, None),
        lambda: layer.output_size(3),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_seed_fixes_the_parameters():
    first, second, third = (built(cgru.Dense(K, seed=seed)).get_weights()[0] for seed in (1, 1, 2))
    checks.assert_same_arrays(first, second)
    assert not np.array_equal(first, third)
    double = built(cgru.Dense(K, seed=1, dtype="float64")).get_weights()[0]
    checks.assert_same_arrays(double.astype(np.float32), first)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: cgru.Dense(0), ValueError, "units: expected at least 1, got 0"),
        (lambda: cgru.Dense(2.5), TypeError, "units: expected an integer, got 2.5"),
        (lambda: cgru.Dense(True), TypeError, "units: expected an integer, got True"),
        (
            lambda: cgru.Dense(2, activation="softplus"),
            ValueError,
            "activation: expected one of ['linear', 'relu', 'sigmoid', 'softmax', 'tanh'], got 'softplus'",
        ),
        (lambda: cgru.Dense(2, activation=np.tanh), ValueError, "activation: expected one of"),
        (lambda: cgru.Dense(2, use_bias=1), TypeError, "use_bias: expected True or False, got 1"),
        (
            lambda: cgru.Dense(2, kernel_initializer="he"),
            ValueError,
            "or an Initializer or a function of (shape, dtype, rng), got 'he'",
        ),
        (lambda: cgru.Dense(2, bias_initializer=0), ValueError, "bias_initializer: expected one of"),
        (lambda: cgru.Dense(2, dtype="float16"), ValueError, "dtype: expected 'float32' or 'float64', got 'float16'"),
        (lambda: cgru.Dense(2, dtype=None), ValueError, "dtype: expected 'float32' or 'float64', got None"),
        (lambda: cgru.Dense(2, dtype="nonsense"), ValueError, "dtype: expected 'float32' or 'float64', got 'nonsense'"),
        (lambda: cgru.Dense(2, seed=-1), ValueError, "seed: expected at least 0, got -1"),
        (lambda: cgru.Dense(2, seed="one"), TypeError, "seed: expected an integer, got 'one'"),
        (
            lambda: cgru.Dense(2, kernel_regularizer="l3"),
            ValueError,
            "kernel_regularizer: expected one of ['l1', 'l1_l2', 'l2'] or a Regularizer or None, got 'l3'",
        ),
        (
            lambda: cgru.Dense(2, bias_constraint="norm"),
            ValueError,
            "bias_constraint: expected one of ['max_norm', 'min_max_norm', 'non_neg', 'unit_norm'] or a Constraint",
        ),
        (lambda: cgru.Embedding(0, 2), ValueError, "input_dim: expected at least 1, got 0"),
        (lambda: cgru.Embedding(2, 0), ValueError, "output_dim: expected at least 1, got 0"),
        (lambda: cgru.Embedding(2, 2, embeddings_initializer="norm"), ValueError, "embeddings_initializer: expected"),
        (lambda: cgru.Embedding(2, 2, mask_zero=1), TypeError, "mask_zero: expected True or False, got 1"),
        (lambda: cgru.Dropout(1), ValueError, "rate: expected a number of at least 0 and less than 1, got 1"),
        (lambda: cgru.Dropout(-0.1), ValueError, "rate: expected a number of at least 0 and less than 1, got -0.1"),
        (lambda: cgru.Dropout(float("nan")), ValueError, "rate: expected a number of at least 0 and less"),
        (lambda: cgru.Dropout("half"), TypeError, "rate: expected a number, got 'half'"),
        (lambda: cgru.Dropout(False), TypeError, "rate: expected a number, got False"),
    ],
)
def test_wrong_constructor_arguments(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


# -- initializers


def test_orthogonal_over_the_whole_matrix(rng):
    for rows, columns in ((7, 21), (21, 7), (5, 5), (1, 3)):
        matrix = initializers.get("orthogonal")((rows, columns), np.float64, rng)
        assert matrix.shape == (rows, columns) and matrix.flags.c_contiguous
        gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
        checks.assert_close(gram, np.eye(min(rows, columns)), 1e-14)
    # Uniform over the group: without the correction of the signs each diagonal of r would be negative.
    signs = [np.sign(initializers.orthogonal((1, 1), np.float64, rng))[0, 0] for _ in range(64)]
    assert set(signs) == {-1.0, 1.0}


def test_glorot_uniform_and_uniform_fill_their_range(rng):
    limit = np.sqrt(6 / (40 + 60))
    draws = initializers.get("glorot_uniform")((40, 60), np.float32, rng)
    assert draws.dtype == np.float32 and limit * 0.99 < np.abs(draws).max() <= limit
    assert abs(draws.mean()) < limit / 20 and draws.min() < -limit * 0.99
    draws = initializers.get("uniform")((40, 60), np.float32, rng)
    assert 0.0495 < np.abs(draws).max() <= 0.05
    assert not initializers.get("zeros")((2, 3), np.float32, rng).any()


def test_unknown_initializer():
    with pytest.raises(ValueError, match=r"initializer: expected one of \['constant', 'glorot_normal', .* got 'twos'"):
        initializers.get("twos")
    with pytest.raises(ValueError, match="initializer: expected one of"):
        initializers.get(["zeros"])


# -- Dense


@pytest.mark.parametrize("validity", VALIDITY)
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_forward_and_gradients(rng, activation, use_bias, validity):
    layer = built(cgru.Dense(K, activation, use_bias=use_bias, dtype="float64"))
    a = np.zeros(1)
    while np.abs(a).min() < 0.02:  # away from the kink of relu
        arrays = {"x": rng.standard_normal((N, T, F)), "kernel": rng.standard_normal((F, K))}
        if use_bias:
            arrays["bias"] = rng.standard_normal(K)
        a = arrays["x"] @ arrays["kernel"] + arrays.get("bias", 0)
    d_out = rng.standard_normal((N, T, K))
    valid = batch_of(arrays["x"], validity).valid
    everywhere = np.ones((N, T), bool) if valid is None else valid

    def forward(arrays):
        set_parameters(layer, arrays)
        return layer.forward_batch(batch_of(arrays["x"], validity))

    expected = np.where(everywhere[:, :, None], ACTIVATIONS[activation](a), 0)
    out, _, _, tape = forward(arrays)
    checks.assert_close(out.data, expected, 1e-14)
    assert (out.data[~everywhere] == 0).all()
    assert out.lengths is VALIDITY[validity][0] and out.mask is VALIDITY[validity][1]

    dx, _, grads = layer.backward_batch(d_out, None, tape)
    checks.assert_gradients(lambda a: (forward(a)[0].data * d_out).sum(), arrays, {"x": dx, **grads})
    assert (dx[~everywhere] == 0).all()
    set_parameters(layer, arrays)
    checks.assert_same_arrays(layer.backward_batch(d_out, None, tape), (dx, grads))  # the tape was only read
    without_dx = layer.backward_batch(d_out, None, tape, need_dx=False)
    assert without_dx[0] is None
    checks.assert_same_arrays(without_dx[2], grads)


@pytest.mark.parametrize("validity", ["lengths", "mask"])
def test_dense_reads_no_padding(rng, validity):
    layer = built(cgru.Dense(K, "softmax"))
    x, d_out = rng.standard_normal((N, T, F)), rng.standard_normal((N, T, K))
    valid = batch_of(x, validity).valid
    clean = layer.forward_batch(batch_of(x, validity))
    for junk in (np.nan, np.inf, 1e300):  # 1e300 is not a float32
        spoiled = np.where(valid[:, :, None], x, junk)
        out, _, _, tape = layer.forward_batch(batch_of(spoiled, validity))
        checks.assert_same_arrays(out.data, clean[0].data)
        d_spoiled = np.where(valid[:, :, None], d_out, junk)
        expected = layer.backward_batch(d_out, None, clean[3])
        checks.assert_same_arrays(layer.backward_batch(d_spoiled, None, tape), expected)


def test_dense_on_vectors_and_on_no_rows(rng):
    layer = built(cgru.Dense(K, "softmax"))
    x = rng.standard_normal((N, F)).astype(np.float32)
    kernel, bias = layer.get_weights()
    out, _, _, tape = layer.forward_batch(Batch(x))
    checks.assert_close(out.data, ACTIVATIONS["softmax"](x @ kernel + bias), 1e-6)
    assert layer.backward_batch(out.data, None, tape)[0].shape == (N, F)
    for shape in ((0, F), (0, T, F), (N, 0, F)):
        out, _, _, tape = layer.forward_batch(Batch(np.zeros(shape)))
        assert out.data.shape == (*shape[:-1], K)
        dx, _, grads = layer.backward_batch(out.data, None, tape)
        assert dx.shape == shape and not grads["kernel"].any() and not grads["bias"].any()


def test_dense_converts_and_leaves_inputs_alone(rng):
    layer = built(cgru.Dense(K, "softmax"))
    x = rng.integers(-3, 4, (N, T, F))
    expected = layer.forward_batch(Batch(x.astype(np.float32)))[0].data
    for variant in (x, x.astype(np.float16), np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.astype(">f8")):
        before = variant.copy()
        variant.flags.writeable = False
        checks.assert_same_arrays(layer.forward_batch(Batch(variant))[0].data, expected)
        checks.assert_same_arrays(variant, before)
    d_out = rng.standard_normal((N, T, K))
    d_out.flags.writeable = False
    tape = layer.forward_batch(Batch(x))[3]
    expected = layer.backward_batch(d_out, None, tape)
    checks.assert_same_arrays(layer.backward_batch(np.asfortranarray(d_out), None, tape), expected)


def test_activations_at_the_ends():
    identity = [np.eye(3), np.zeros(3)]
    x = np.array([[1000.0, -1000.0, 0.0], [np.inf, 0.0, 0.0], [np.nan, 0.0, 0.0], [0.0, 0.0, 0.0]])
    results = {}
    for activation in ("softmax", "sigmoid"):
        layer = built(cgru.Dense(3, activation, dtype="float64"), 3)
        layer.set_weights(identity)
        results[activation] = layer.forward_batch(Batch(x[[0, 3]]))[0].data
    checks.assert_close(results["softmax"], [[1, 0, 0], [1 / 3] * 3], 1e-15)
    checks.assert_close(results["sigmoid"], [[1, 0, 0.5], [0.5] * 3], 1e-15)
    layer = built(cgru.Dense(3, "softmax", dtype="float64"), 3)
    layer.set_weights(identity)
    rows = layer.forward_batch(Batch(x))[0].data
    assert np.isnan(rows[1:3]).all()
    checks.assert_close(rows[[0, 3]], results["softmax"], 1e-15)  # a NaN stays in its row


def test_dense_softmax_and_expit_in_float32(rng):
    layer = built(cgru.Dense(K, "sigmoid"))
    x = rng.standard_normal((50, F)).astype(np.float32) * 10
    kernel, bias = (w.astype(np.float64) for w in layer.get_weights())
    checks.assert_close(layer.forward_batch(Batch(x))[0].data, scipy.special.expit(x @ kernel + bias), 1e-6)


@pytest.mark.parametrize("validity", VALIDITY)
def test_dense_without_its_activation(rng, validity):
    layer = built(cgru.Dense(K, "softmax", dtype="float64"))
    linear = cgru.Dense(K, dtype="float64")
    linear.build_from(F, layer.get_weights())
    x, d = rng.standard_normal((N, T, F)), rng.standard_normal((N, T, K))
    batch = batch_of(x, validity)
    expected, _, _, tape = linear.forward_batch(batch, training=True)
    rows = (lambda v: v.reshape(-1, v.shape[-1])) if batch.valid is None else (lambda v: v[batch.valid])
    logits = np.empty_like(rows(expected.data))
    bias, tape_at_logits = layer.forward_logits(batch, logits)
    checks.assert_same_arrays(logits + bias, rows(expected.data))
    dx, _, grads = linear.backward_batch(d, None, tape)
    checks.assert_same_arrays(layer.backward_logits(rows(d), tape_at_logits), (dx, grads))


def test_dense_refuses_wrong_data():
    layer = built(cgru.Dense(K))
    with pytest.raises(ValueError, match=re.escape("Dense: expected data of shape (N, F) or (N, T, F), got (3,)")):
        layer.forward_batch(Batch(np.zeros(3)))
    with pytest.raises(ValueError, match="Dense was built for 2 input features, got 3"):
        layer.forward_batch(Batch(np.zeros((1, 3))))
    tape = layer.forward_batch(Batch(np.zeros((N, F))))[3]
    with pytest.raises(ValueError, match=re.escape("d_out: expected the shape of the outputs, (3, 7), got (3, 6)")):
        layer.backward_batch(np.zeros((N, K - 1)), None, tape)


# -- Embedding


@pytest.mark.parametrize("validity", VALIDITY)
def test_embedding_forward_and_gradients(rng, validity):
    vocabulary = 4  # with 15 steps some ids come several times
    layer = built(cgru.Embedding(vocabulary, F, dtype="float64"))
    ids = rng.integers(0, vocabulary - 1, (N, T))  # the last one never comes
    valid = batch_of(ids, validity).valid
    if valid is not None:
        ids[~valid] = -1
    arrays = {"embeddings": rng.standard_normal((vocabulary, F))}
    d_out = rng.standard_normal((N, T, F))

    def forward(arrays):
        set_parameters(layer, arrays)
        return layer.forward_batch(batch_of(ids, validity))

    out, _, _, tape = forward(arrays)
    expected = arrays["embeddings"][np.maximum(ids, 0)]
    checks.assert_same_arrays(out.data, expected if valid is None else np.where(valid[:, :, None], expected, 0))
    spoiled = d_out if valid is None else np.where(valid[:, :, None], d_out, np.nan)
    dx, _, grads = layer.backward_batch(spoiled, None, tape)
    assert dx is None and not grads["embeddings"][-1].any()
    checks.assert_gradients(lambda a: (forward(a)[0].data * d_out).sum(), arrays, grads)
    checks.assert_same_arrays(layer.backward_batch(spoiled, None, tape), (dx, grads))


def test_embedding_of_single_ids_and_of_none():
    layer = built(cgru.Embedding(4, F))
    table = layer.get_weights()[0]
    for dtype in (np.int8, np.uint16, np.int64):
        out, _, _, tape = layer.forward_batch(Batch(np.array([3, 0, 3], dtype)))
        checks.assert_same_arrays(out.data, table[[3, 0, 3]])
    checks.assert_same_arrays(
        layer.backward_batch(np.array([[1, 2], [4, 8], [16, 32]]), None, tape)[2]["embeddings"],
        np.array([[4, 8], [0, 0], [0, 0], [17, 34]], np.float32),
    )
    out, _, _, tape = layer.forward_batch(Batch(np.zeros((N, 0), int)))
    assert out.data.shape == (N, 0, F)
    assert not layer.backward_batch(out.data, None, tape)[2]["embeddings"].any()


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([[0, 4]], ValueError, "ids: expected ids of at least 0 and less than input_dim = 4, got 4 in row 0, step 1"),
        ([[0, -1]], ValueError, "ids: expected ids of at least 0 and less than input_dim = 4, got -1 in row 0, step 1"),
        ([[0.0, 1.0]], TypeError, "ids: expected integer ids, got dtype float64"),
        ([[[0]]], ValueError, "Embedding: expected ids of shape (N,) or (N, T), got (1, 1, 1)"),
    ],
)
def test_embedding_refuses(ids, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        cgru.Embedding(4, F).forward_batch(Batch(np.array(ids)))


def test_embedding_refuses_a_gradient_of_another_shape():
    layer = cgru.Embedding(4, F)
    tape = layer.forward_batch(Batch(np.array([1, 2])))[3]
    with pytest.raises(ValueError, match=re.escape("d_out: expected the shape of the outputs, (2, 2), got (2, 3)")):
        layer.backward_batch(np.zeros((2, 3)), None, tape)


# -- Dropout


def test_dropout_in_training_and_out(rng):
    layer = cgru.Dropout(0.3, seed=1)
    x = rng.uniform(1, 2, (200, 100)).astype(np.float32)
    checks.assert_same_arrays(layer.forward_batch(Batch(x))[0].data, x)
    out, _, _, tape = layer.forward_batch(Batch(x), training=True)
    kept = out.data != 0
    assert abs(kept.mean() - 0.7) < 0.02 and out.data.dtype == np.float32
    checks.assert_close(out.data[kept], (x / 0.7)[kept], 1e-6)
    d_out = rng.standard_normal(x.shape).astype(np.float32)
    dx, _, grads = layer.backward_batch(d_out, None, tape)
    checks.assert_close(dx, np.where(kept, d_out / 0.7, 0), 1e-6)
    assert grads == {}
    assert layer.backward_batch(d_out, None, tape, need_dx=False) == (None, None, {})
    again = layer.forward_batch(Batch(x), training=True)[0].data
    assert not np.array_equal(again, out.data)  # another mask
    other = cgru.Dropout(0.3, seed=1)
    checks.assert_same_arrays(other.forward_batch(Batch(x), training=True)[0].data, out.data)
    checks.assert_same_arrays(other.forward_batch(Batch(x), training=True)[0].data, again)


@pytest.mark.parametrize("validity", ["lengths", "mask"])
@pytest.mark.parametrize("training", [False, True])
def test_dropout_reads_no_padding(rng, validity, training):
    layer = cgru.Dropout(0.5, seed=2)
    x = rng.uniform(1, 2, (N, T, F))
    valid = batch_of(x, validity).valid
    spoiled = np.where(valid[:, :, None], x, np.nan)
    out, _, _, tape = layer.forward_batch(batch_of(spoiled, validity), training=training)
    assert (out.data[~valid] == 0).all() and np.isfinite(out.data).all() and (out.data[valid] != 0).any()
    dx, _, _ = layer.backward_batch(spoiled, None, tape)
    checks.assert_same_arrays(dx, out.data)
    assert out.lengths is VALIDITY[validity][0] and out.mask is VALIDITY[validity][1]


def test_dropout_without_a_rate_and_its_refusals():
    x = np.ones((N, F))
    checks.assert_same_arrays(cgru.Dropout(0).forward_batch(Batch(x), training=True)[0].data, x)
    with pytest.raises(TypeError, match="Dropout: expected floating-point data, got dtype int64"):
        cgru.Dropout(0.5).forward_batch(Batch(np.ones((N, F), np.int64)))
    with pytest.raises(ValueError, match=re.escape("d_out: expected the shape of the outputs, (3, 2), got (3, 3)")):
        cgru.Dropout(0.5).backward_batch(np.ones((3, 3)), None, cgru.Dropout(0.5).forward_batch(Batch(x))[3])
    assert cgru.Dropout(0.5).built and cgru.Dropout(0.5).get_weights() == []
    config = {"rate": 0.5, "seed": 3, "trainable": True}
    assert cgru.Dropout.from_config(config).get_config() == cgru.Dropout(0.5, seed=3).get_config() == config


def test_copies_of_a_dropout_continue_with_the_same_masks():
    layer, x = cgru.Dropout(0.5), Batch(np.ones((N, T, F)))
    layer.forward_batch(x, training=True)
    other = pickle.loads(pickle.dumps(layer))
    checks.assert_same_arrays(
        layer.forward_batch(x, training=True)[0].data, other.forward_batch(x, training=True)[0].data
    )


def test_every_way_to_write_in_an_update_writes():
    layer = cgru.Dense(3)
    layer.build(2)
    with layer.update() as p:
        p.update({"bias": np.ones(3)})
        p["kernel"] = 2
        assert list(p) == ["kernel", "bias"]
        with pytest.raises(ValueError, match=r"^bias must fit shape \(3,\), got \(4,\)$"):
            p["bias"] = np.zeros(4)
        with pytest.raises(TypeError, match="bias cannot be deleted"):
            del p["bias"]
    assert (layer.parameters["bias"] == 1).all() and (layer.parameters["kernel"] == 2).all()
