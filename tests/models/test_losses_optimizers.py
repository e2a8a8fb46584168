"""Losses and metrics, against formulas and finite differences."""

import math
import re

import checks
import numpy as np
import pytest

from cgru import losses, metrics
from cgru.losses import SparseCategoricalCrossentropy

N, T, K = 3, 5, 7
VALID = np.arange(T) < np.array([2, 5, 0])[:, None]


def softmax(a):
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def problem(rng, steps, valid):
    """(logits, labels, valid); junk where it must not be read."""
    shape = (N, T) if steps else (N,)
    labels = rng.integers(0, K, shape)
    if valid is not None:
        labels[~valid] = -1
    return rng.standard_normal((*shape, K)), labels, valid


CASES = [(False, None), (True, None), (True, VALID)]
IDS = ["vectors", "steps", "valid"]


# -- sparse categorical cross-entropy


@pytest.mark.parametrize("kind", ["probabilities", "fused", "from_logits"])
@pytest.mark.parametrize(("steps", "valid"), CASES, ids=IDS)
def test_crossentropy_and_its_gradients(rng, steps, valid, kind):
    logits, labels, valid = problem(rng, steps, valid)
    loss = SparseCategoricalCrossentropy(from_logits=kind == "from_logits")
    outputs = logits if kind == "from_logits" else softmax(logits)

    counted = np.ones(labels.shape, bool) if valid is None else valid
    terms = [-math.log(softmax(logits)[i][labels[i]]) for i in zip(*np.nonzero(counted), strict=True)]
    checks.assert_close(loss(outputs, labels, valid), np.mean(terms), 1e-14)
    total, count = loss.total(outputs, labels, valid)
    checks.assert_close(total, np.sum(terms), 1e-14)
    assert count == len(terms)

    if kind == "fused":  # gradient at the logits, through softmax
        name, array, value = "logits", logits, lambda a: loss(softmax(a["logits"]), labels, valid)
    elif kind == "from_logits":
        name, array, value = "logits", logits, lambda a: loss(a["logits"], labels, valid)
    else:
        name, array, value = "p", outputs * 0.4 + 0.5, lambda a: loss(a["p"], labels, valid)  # need not sum to 1
    gradient = loss.gradient(array if kind != "fused" else outputs, labels, valid, at_logits=kind == "fused")
    checks.assert_gradients(value, {name: array}, {name: gradient})
    assert (gradient[~counted] == 0).all()

    if valid is not None:
        spoiled = np.where(valid[:, :, None], outputs, np.nan)
        assert loss(spoiled, labels, valid) == loss(outputs, labels, valid)
        clean = loss.gradient(outputs, labels, valid, at_logits=kind == "fused")
        checks.assert_same_arrays(loss.gradient(spoiled, labels, valid, at_logits=kind == "fused"), clean)


def test_crossentropy_leaves_its_arguments_alone_and_keeps_the_type(rng):
    outputs, labels = softmax(rng.standard_normal((N, K))).astype(np.float32), rng.integers(0, K, N).astype(np.int8)
    before = outputs.copy(), labels.copy()
    outputs.flags.writeable = labels.flags.writeable = False
    for loss in (SparseCategoricalCrossentropy(), SparseCategoricalCrossentropy(from_logits=True)):
        assert loss.gradient(outputs, labels).dtype == np.float32
        loss(outputs, labels)
    assert SparseCategoricalCrossentropy().gradient(outputs, labels, at_logits=True).dtype == np.float32
    checks.assert_same_arrays((outputs, labels), before)


def test_crossentropy_of_extreme_outputs():
    loss = SparseCategoricalCrossentropy()
    sure = np.array([[1.0, 0.0]], np.float32)
    assert loss(sure, np.array([0])) == 0
    assert 87 < loss(sure, np.array([1])) < 88  # -log of the smallest normal float32
    assert np.isfinite(loss.gradient(sure, np.array([1]))).all()
    checks.assert_same_arrays(loss.gradient(sure, np.array([1]), at_logits=True), np.array([[1, -1]], np.float32))
    assert math.isnan(loss(np.array([[np.nan, 1.0]]), np.array([0])))
    logits = SparseCategoricalCrossentropy(from_logits=True)
    assert logits(np.array([[1e4, -1e4]]), np.array([1])) == 2e4


def test_nothing_that_counts():
    loss, nothing = SparseCategoricalCrossentropy(), np.zeros((N, T), bool)
    outputs, labels = np.full((N, T, K), np.nan), np.full((N, T), -1)
    assert math.isnan(loss(outputs, labels, nothing))
    assert loss.total(outputs, labels, nothing) == (0, 0)
    assert not loss.gradient(outputs, labels, nothing, at_logits=True).any()
    assert math.isnan(metrics.get("accuracy")(outputs, labels, nothing))


@pytest.mark.parametrize(
    ("outputs", "labels", "error", "message"),
    [
        (np.full((2, 3), 0.3), [0, 3], ValueError, "labels: expected at least 0 and less than 3, the number of"),
        (np.full((2, 3), 0.3), [-1, 0], ValueError, "less than 3, the number of outputs, got -1"),
        (np.full((2, 3), 0.3), [0.0, 0.5], ValueError, "labels: expected integer labels, got 0.5"),
        (np.full((2, 3), 0.3), ["a", "b"], TypeError, "labels: expected integer labels, got dtype <U1; number them"),
        (np.full((2, 3), 0.3), [0], ValueError, "labels: expected shape (2,) for outputs (2, 3), got (1,)"),
        (np.full((2, 4, 3), 0.3), [0, 1], ValueError, "labels: expected shape (2, 4) for outputs (2, 4, 3), got (2,)"),
        (np.full(3, 0.3), [0, 1, 1], ValueError, "outputs: expected shape (N, K) or (N, T, K), got (3,)"),
        (np.full((2, 3), -0.1), [0, 1], ValueError, "got an output of -0.1: end the model with a softmax, or use"),
        (np.full((2, 3), 1.5), [0, 1], ValueError, "crossentropy: expected probabilities, got an output of 1.5"),
    ],
)
def test_crossentropy_refuses(outputs, labels, error, message):
    loss = losses.get("sparse_categorical_crossentropy")
    for call in (loss, loss.total, loss.gradient):
        with pytest.raises(error, match=re.escape(message)):
            call(outputs, np.array(labels))


def test_losses_get():
    loss = losses.get("sparse_categorical_crossentropy")
    assert isinstance(loss, SparseCategoricalCrossentropy) and not loss.from_logits
    assert losses.get(loss) is loss
    assert SparseCategoricalCrossentropy(**loss.get_config()).get_config() == loss.get_config()
    assert type(losses.get("MSE")) is type(losses.get("mean_squared_error")) is losses.MeanSquaredError
    for wrong in ("nonsense", None, SparseCategoricalCrossentropy, ["sparse_categorical_crossentropy"]):
        with pytest.raises(ValueError, match=r"loss: expected one of \[.*, 'huber', 'mae', .*\] or a Loss"):
            losses.get(wrong)
    with pytest.raises(TypeError, match="from_logits: expected True or False, got 1"):
        SparseCategoricalCrossentropy(from_logits=1)


# -- accuracy


def test_accuracy():
    accuracy = metrics.get("accuracy")
    outputs = np.array([[[0.1, 0.9], [0.8, 0.2]], [[0.3, 0.7], [np.nan, np.nan]]])
    labels = np.array([[1, 1], [1, -1]])
    valid = np.array([[True, True], [True, False]])
    assert accuracy.total(outputs, labels, valid) == (2, 3)
    assert accuracy(outputs, labels, valid) == 2 / 3
    assert accuracy(outputs[:, 0], labels[:, 0]) == 1
    with pytest.raises(ValueError, match=re.escape("labels: expected shape (2, 2) for outputs (2, 2, 2), got (2,)")):
        accuracy(outputs, labels[0])


def test_metrics_get():
    accuracy = metrics.get("accuracy")
    assert metrics.get(accuracy) is accuracy
    for wrong in ("acc", None, metrics.Accuracy):
        with pytest.raises(ValueError, match=r"metric: expected one of \['accuracy', 'auc', .*\], a Metric or a f"):
            metrics.get(wrong)
