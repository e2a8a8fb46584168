"""Layers around the GRU, initializers, penalties and constraints against those of Keras 3."""

import os
import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru import constraints, initializers, regularizers

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras' own: of NumPy


def twin(ours, theirs, rng, x, **call):
    """Give both the same weights, and compare outputs and gradients."""
    import tensorflow as tf

    ours.build(x.shape[-1])
    theirs.build(x.shape)
    weights = [rng.standard_normal(array.shape) for array in ours.get_weights()]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        expected = theirs(variable, **call)
        d = rng.standard_normal(expected.shape)
        total = tf.reduce_sum(expected * d)
    dx, *gradients = tape.gradient(total, [variable, *theirs.trainable_variables])
    y, ours_tape = ours.forward(x, training=True, **call)
    checks.assert_close(y, np.asarray(expected), 1e-12, "y")
    found, grads = ours.backward(d, ours_tape)
    checks.assert_close(found, np.asarray(dx), 1e-11, "dx")
    for (name, gradient), other in zip(grads.items(), gradients, strict=True):
        checks.assert_close(gradient, np.asarray(other), 1e-11, name)


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "valid"},
        {"padding": "valid", "strides": 3, "use_bias": False},
        {"padding": "same", "activation": "tanh"},
        {"padding": "same", "strides": 2},
        {"padding": "same", "strides": 3, "kernel_size": 2},
        {"padding": "causal", "activation": "sigmoid"},
        {"padding": "causal", "dilation_rate": 2, "activation": "relu"},
        {"padding": "causal", "strides": 2},
        {"padding": "same", "dilation_rate": 3, "kernel_size": 2},
    ],
)
def test_convolutions(options, rng):
    options = {"kernel_size": 4, **options}
    x = rng.standard_normal((3, 11, 5))
    twin(cgru.Conv1D(6, dtype="float64", **options), keras.layers.Conv1D(6, dtype="float64", **options), rng, x)


@pytest.mark.parametrize("options", [{}, {"epsilon": 1e-5}, {"center": False}, {"scale": False}])
def test_layer_normalization(options, rng):
    ours, theirs = (module(dtype="float64", **options) for module in
                    (cgru.LayerNormalization, keras.layers.LayerNormalization))  # fmt: skip
    twin(ours, theirs, rng, 3 * rng.standard_normal((3, 7, 5)) + 1)


@pytest.mark.parametrize("name", ["GlobalMaxPooling1D", "GlobalAveragePooling1D"])
def test_pooling(name, rng):
    x = np.round(2 * rng.standard_normal((3, 7, 5)))  # with ties
    twin(
        getattr(cgru, name)(), getattr(keras.layers, name)(dtype="float64"), rng, x.astype("float32").astype("float64")
    )
    if name == "GlobalAveragePooling1D":
        mask = rng.random((3, 7)) < 0.6
        mask[:, 2] = True
        found = getattr(cgru, name)()(x, mask=mask)
        checks.assert_close(found, np.asarray(getattr(keras.layers, name)()(x, mask=mask)), 1e-6, "y")


def test_masking_and_ids_in_models(rng):
    x = rng.standard_normal((4, 8, 3)).astype(np.float32)
    x[0, 5:], x[2, :], x[3, 2:4] = -1, -1, -1
    theirs = keras.Sequential([keras.layers.Masking(-1.0), keras.layers.GRU(5, reset_after=False)])
    expected = np.asarray(theirs(x))
    gru = cgru.from_keras(theirs.layers[1].get_weights(), reset_after=False, return_state=False, return_sequences=False)
    checks.assert_close(cgru.Sequential([cgru.Masking(-1.0), gru])(x), expected, 1e-6, "masking")
    ids = rng.integers(0, 6, (4, 8))
    theirs = keras.Sequential([keras.layers.Embedding(6, 3, mask_zero=True), keras.layers.GRU(5, reset_after=True)])
    expected = np.asarray(theirs(ids))
    table = cgru.Embedding(6, 3, mask_zero=True)
    table.build()
    table.set_weights(theirs.layers[0].get_weights())
    gru = cgru.from_keras(theirs.layers[1].get_weights(), return_state=False, return_sequences=False)
    checks.assert_close(cgru.Sequential([table, gru])(ids), expected, 1e-6, "ids")


NAMES = ["glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal", "random_normal",
         "random_uniform", "truncated_normal", "orthogonal", "variance_scaling"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(120, 90), (3, 40, 60)])
def test_distributions(name, shape, rng):
    """Moments, the bounds, and the distance of the two empirical distributions."""
    if name == "orthogonal":
        ours, theirs = initializers.get(name)(shape, "float64", rng), np.asarray(keras.initializers.get(name)(shape))
        flat, other = ours.reshape(-1, shape[-1]), theirs.reshape(-1, shape[-1])
        checks.assert_close(flat.T @ flat, other.T @ other, 1e-5, "columns")
    ours = np.sort(initializers.get(name)(shape, "float64", rng).reshape(-1))
    theirs = np.sort(np.asarray(keras.initializers.get(name)(shape), "float64").reshape(-1))
    assert abs(ours.std() / theirs.std() - 1) < 0.04
    assert abs((ours**4).mean() / (theirs**4).mean() - 1) < 0.12
    both = np.concatenate([ours, theirs])
    distance = np.abs(np.searchsorted(ours, both) - np.searchsorted(theirs, both)).max() / len(ours)
    assert distance < 2.3 * np.sqrt(2 / len(ours))  # Kolmogorov-Smirnov: once in 20,000
    if "normal" not in name and name not in ("variance_scaling", "orthogonal"):
        assert abs(ours[-1] / theirs[-1] - 1) < 0.01


def test_initializers_that_draw_nothing():
    for name in ("zeros", "ones", "identity"):
        expected = np.asarray(keras.initializers.get(name)((3, 5)))
        np.testing.assert_array_equal(initializers.get(name)((3, 5)), expected)
    expected = np.asarray(keras.initializers.Constant(0.3)((3, 5)))
    np.testing.assert_array_equal(initializers.Constant(0.3)((3, 5)), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_penalties(dtype, rng):
    w = rng.standard_normal((7, 5)).astype(dtype)
    for ours, theirs in (
        ("l1", "l1"), ("l2", "l2"), (regularizers.L1(0.3), keras.regularizers.L1(0.3)),
        (regularizers.L1L2(0.1, 0.2), keras.regularizers.L1L2(0.1, 0.2)),
        (regularizers.L1L2(), keras.regularizers.L1L2()),
    ):  # fmt: skip
        value = float(keras.regularizers.get(theirs)(w))
        np.testing.assert_allclose(regularizers.get(ours).value(w), value, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constraints(dtype, rng):
    w = (2 * rng.standard_normal((7, 5))).astype(dtype)
    pairs = [(name, name) for name in ("max_norm", "non_neg", "unit_norm", "min_max_norm")]
    for name, options in (("MaxNorm", {"max_value": 1.5, "axis": 1}), ("MinMaxNorm", {"min_value": 0.5, "rate": 0.3}),
                          ("UnitNorm", {"axis": [0, 1]})):  # fmt: skip
        pairs.append((getattr(constraints, name)(**options), getattr(keras.constraints, name)(**options)))
    for ours, theirs in pairs:
        expected = np.asarray(keras.constraints.get(theirs)(w))
        np.testing.assert_allclose(constraints.get(ours)(w), expected, rtol=3e-7 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("reset_after", [False, True])
def test_training_with_penalties_and_constraints(reset_after, rng):
    """The loss that fit reports, and the weights after some updates."""
    gru = {
        "kernel_regularizer": "l2",
        "recurrent_regularizer": "l1",
        "bias_regularizer": "l2",
        "activity_regularizer": "l2",
        "recurrent_constraint": "max_norm",
        "kernel_constraint": "unit_norm",
    }
    dense = {"kernel_regularizer": "l1_l2", "activity_regularizer": "l1", "bias_constraint": "non_neg"}
    conv = {"kernel_regularizer": "l1", "activity_regularizer": "l2", "activation": "relu", "padding": "causal"}
    x, y = rng.standard_normal((24, 6, 3)).astype(np.float32), rng.integers(0, 4, 24)
    theirs = keras.Sequential(
        [
            keras.Input((6, 3)),
            keras.layers.Conv1D(5, 3, **conv),
            keras.layers.GRU(4, reset_after=reset_after, return_sequences=True, **gru),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(
                4, activation="softmax", **dense | {"kernel_regularizer": keras.regularizers.L1L2(0.01, 0.01)}
            ),
        ]
    )
    first = cgru.from_keras(theirs.layers[1].get_weights(), reset_after=reset_after, return_state=False, **gru)
    ours = cgru.Sequential(
        [cgru.Conv1D(5, 3, **conv), first, cgru.GlobalAveragePooling1D(), cgru.Dense(4, activation="softmax", **dense)]
    ).build(3)
    ours.layers[0].set_weights(theirs.layers[0].get_weights())
    ours.layers[3].set_weights(theirs.layers[3].get_weights())
    theirs.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    ours.compile(cgru.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    np.testing.assert_allclose(ours.evaluate(x, y)["loss"], theirs.evaluate(x, y, verbose=0), rtol=2e-6)
    options = {"epochs": 3, "batch_size": 8, "shuffle": False, "verbose": 0}
    found, expected = (model.fit(x, y, **options).history["loss"] for model in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=5e-6)
    checks.assert_close(ours(x), np.asarray(theirs(x)), 1e-5, "outputs")


def test_whole_models_there_and_back(rng, tmp_path):
    theirs = keras.Sequential(
        [
            keras.Input((None, 3)),
            keras.layers.Conv1D(5, 3, padding="causal", dilation_rate=2, activation="relu"),
            keras.layers.LayerNormalization(epsilon=1e-4),
            keras.layers.Bidirectional(keras.layers.GRU(4, return_sequences=True)),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(2),
        ]
    )
    theirs.set_weights([rng.standard_normal(array.shape) for array in theirs.get_weights()])
    x = rng.standard_normal((4, 9, 3)).astype(np.float32)
    theirs.save(tmp_path / "model.keras")
    for source in (theirs, tmp_path / "model.keras"):
        ours = cgru.from_keras(source)
        checks.assert_close(ours(x), np.asarray(theirs(x)), 1e-5, "y")
    again = cgru.convert.to_keras_model(ours)
    checks.assert_close(ours(x), np.asarray(again(x)), 1e-5, "back")


def test_options_go_along(rng):
    ours = cgru.Sequential(
        [
            cgru.Masking(2.0),
            cgru.GRU(
                3,
                num_layers=2,
                reset_after=True,
                return_sequences=True,
                kernel_regularizer="l2",
                activity_regularizer="l1",
            ),
            cgru.GlobalAveragePooling1D(),
            cgru.Dense(2, kernel_constraint=constraints.MaxNorm(0.5), kernel_regularizer=regularizers.L1L2(0.1, 0.2)),
        ],
        seed=0,
    ).build(4)
    x, y = rng.standard_normal((8, 5, 4)).astype(np.float32), rng.standard_normal((8, 2)).astype(np.float32)
    theirs = cgru.convert.to_keras_model(ours)
    ours.compile(cgru.optimizers.SGD(0.1), "mse")
    theirs.compile(keras.optimizers.SGD(0.1), "mse")
    options = {"epochs": 3, "batch_size": 4, "shuffle": False, "verbose": 0}
    found, expected = (model.fit(x, y, **options).history["loss"] for model in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    x[:, 3:] = 2
    checks.assert_close(ours(x), np.asarray(theirs(x)), 1e-5, "masked")


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([cgru.AttentionPooling()], "got AttentionPooling"),
        ([cgru.Masking(), cgru.Conv1D(2, 2)], "Conv1D behind a mask"),
        ([cgru.GRU(2, kernel_constraint="non_neg")], "the signs of z differ"),
        ([cgru.GRU(2, bidirectional=True, activity_regularizer="l2")], "it is of each direction"),
        ([cgru.Dense(2, bias_constraint=np.abs)], "it has no such object"),
    ],
)
def test_what_keras_does_not_have_is_refused(layers, words):
    model = cgru.Sequential(layers)
    model(np.ones((2, 5, 3)))
    with pytest.raises((TypeError, ValueError), match=words):
        cgru.convert.to_keras_model(model)


def test_what_there_is_not_here_is_refused():
    layers = keras.layers
    for model, words in (
        ([layers.Masking(), layers.Conv1D(2, 2), layers.GRU(3)], "Conv1D behind the mask of"),
        ([layers.Conv1D(4, 2, groups=2), layers.GRU(3)], "groups=2"),
        ([layers.LayerNormalization(axis=1), layers.GRU(3)], "axis="),
        ([layers.GRU(3, return_sequences=True), layers.GlobalMaxPooling1D(keepdims=True)], "keepdims"),
    ):
        with pytest.raises(ValueError, match=words):
            cgru.from_keras(keras.Sequential([keras.Input((6, 4)), *model]))
