"""Losses, weights, masks and metrics against Keras: what fit and evaluate report, and the gradient of an update."""

import os
import warnings

import numpy as np
import pytest

import cgru

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras' own
N, T, D, K = 7, 4, 3, 5
MASK = np.arange(T) < np.array([4, 2, 3, 1, 4, 2, 2])[:, None]
TABLE = [0.5, 2, 1, 3, 0]
CASES = {  # loss: (Keras', cgru's, activation, units, metrics)
    "sparse": ("sparse_categorical_crossentropy",) * 2 + ("softmax", K, ["accuracy"]),
    "sparse logits": tuple(m.losses.SparseCategoricalCrossentropy(from_logits=True) for m in (keras, cgru))
    + ("linear", K, ["accuracy"]),
    "dense": ("categorical_crossentropy",) * 2 + ("softmax", K, ["accuracy"]),
    "dense smoothed": tuple(m.losses.CategoricalCrossentropy(label_smoothing=0.2) for m in (keras, cgru))
    + ("softmax", K, ["accuracy"]),
    "dense logits": tuple(m.losses.CategoricalCrossentropy(from_logits=True) for m in (keras, cgru))
    + ("linear", K, ["accuracy"]),
    "binary": ("binary_crossentropy",) * 2 + ("sigmoid", 1, ["accuracy"]),
    "binary smoothed": tuple(m.losses.BinaryCrossentropy(label_smoothing=0.1) for m in (keras, cgru))
    + ("sigmoid", 1, ["accuracy"]),
    "binary logits": tuple(m.losses.BinaryCrossentropy(from_logits=True) for m in (keras, cgru)) + ("linear", 1, []),
    "mse": ("mse",) * 2 + ("tanh", 2, ["mae"]),
    "mae": ("mean_absolute_error",) * 2 + ("tanh", 2, ["mse"]),
    "huber": tuple(m.losses.Huber(delta=0.5) for m in (keras, cgru)) + ("linear", 2, ["mse"]),
}


def twins(name, rng, steps):
    """Keras' model and ours: Dense alone, behind a mask if there are steps."""
    theirs, ours, activation, units, metrics = CASES[name]
    layers = [keras.layers.Masking(99.0)] if steps else []
    shape = (T, D) if steps else (D,)
    model = keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(units, activation)])
    model.compile(keras.optimizers.SGD(1.0), theirs, metrics=metrics, run_eagerly=True)
    twin = cgru.Sequential([cgru.Dense(units, activation, dtype="float64")])
    twin.compile("adam", ours, metrics=metrics)
    twin.build(D)
    weights = [rng.standard_normal(w.shape) for w in twin.get_weights()]
    model.set_weights(weights)
    twin.set_weights(model.get_weights())
    return model, twin


def labels_for(name, rng, shape, units):
    if name.startswith("sparse"):
        return np.resize(np.arange(K), shape)
    if name.startswith("dense"):
        return np.eye(K)[np.resize(np.arange(K), shape)]
    return rng.integers(0, 2, (*shape, 1)) if name.startswith("binary") else rng.standard_normal((*shape, units))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("steps", [False, True])
def test_weights_and_masks_count_as_in_keras(rng, name, steps):
    model, twin = twins(name, rng, steps)
    shape = (N, T) if steps else (N,)
    x, y = rng.standard_normal((*shape, D)).astype("float32"), labels_for(name, rng, shape, CASES[name][3])
    options = {"mask": MASK} if steps else {}
    if steps:
        x[~MASK] = 99.0
    for weight in (None, rng.random(N), *([rng.random((N, T))] if steps else [])):
        # Beside a mask Keras takes weights of rows as a column only.
        given = weight[:, None] if steps and weight is not None and weight.ndim == 1 else weight
        theirs = model.evaluate(x, y, sample_weight=given, verbose=0, return_dict=True, batch_size=N)
        ours = twin.evaluate(x, y, sample_weight=weight, batch_size=N, **options)
        for figure in ours:
            if figure == "loss" or weight is None:  # Keras' metrics are not weighted, either, but it masks them apart
                assert ours[figure] == pytest.approx(theirs[figure], rel=2e-6), figure
    before = model.get_weights()
    theirs = model.train_on_batch(x, y, sample_weight=weight, return_dict=True)["loss"]
    batch, outputs = cgru.models.examples.inputs(twin.layers, x, **options)
    made = twin._targets(y, batch, outputs, sample_weight=weight)
    assert np.divide(*twin._run(batch, made).seen(cgru.models.runs.Totals(twin))["loss"]) == pytest.approx(theirs, 2e-6)
    gradients = twin._gradients(batch, made)
    for key, old, new in zip(gradients, before, model.get_weights(), strict=True):
        np.testing.assert_allclose(gradients[key], old - new, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["sparse", "dense", "binary"])
def test_class_weights_count_as_in_keras(rng, name):
    model, twin = twins(name, rng, False)
    x, y = rng.standard_normal((N, D)).astype("float32"), labels_for(name, rng, (N,), CASES[name][3])
    table = dict(enumerate(TABLE[: 2 if name == "binary" else K - 1]))  # what it lacks weighs 1
    theirs = model.fit(x, y, batch_size=N, class_weight=table, verbose=0).history["loss"]
    ours = twin.fit(x, y, batch_size=N, class_weight=table, verbose=0).history["loss"]
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)


def test_auc_is_near_keras(rng):
    p, y = rng.random((500, 1)).astype("float32"), rng.integers(0, 2, 500)
    metric = keras.metrics.AUC(num_thresholds=2000)
    metric.update_state(y[:, None], p)
    assert cgru.metrics.get("auc")(p, y) == pytest.approx(float(metric.result()), abs=1e-3)
