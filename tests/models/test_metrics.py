"""Metrics: what they count, and what they refuse."""

import functools
import math
import re

import checks
import numpy as np
import pytest

import cgru
from cgru import losses, metrics

NAN = np.nan


def test_confusion_matrix():
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[2, 2] = 1
    expected[2, 1] = 2
    labels, predicted = [0, 2, 2, 2], [0, 2, 1, 1]
    np.testing.assert_array_equal(metrics.confusion_matrix(labels, predicted, 4), expected)
    for variant in (np.uint8, np.uint64, np.float32, lambda a: np.array(a)[:, None], tuple):
        np.testing.assert_array_equal(metrics.confusion_matrix(variant(labels), variant(predicted), 4), expected)
    np.testing.assert_array_equal(metrics.confusion_matrix([True, False], [1, 1], 2), [[0, 1], [0, 1]])
    np.testing.assert_array_equal(metrics.confusion_matrix([], [], 3), np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("labels", "predicted", "classes", "message"),
    [
        ([0, 0], [2, 0], 2, r"predicted: expected integers from 0 to 1, .* got 2 at index 0"),
        ([0, 2], [0, 0], 2, r"labels: expected integers from 0 to 1, .* got 2 at index 1"),
        ([1, 2, 3], [1, 2, 3], 3, r"labels: expected integers from 0 to 2, .* got 3 at index 2"),
        ([0, -1], [0, 0], 2, r"labels: expected integers from 0 to 1, .* got -1 at index 1"),
        (np.array([0, 255], np.uint8), [0, 1], 2, r"labels: expected integers from 0 to 1, .* got 255 at index 1"),
        ([0, 2**63], [0, 0], 2, r"labels: .* got 9.22\d*e\+18 at index 1"),
        ([0, 1, 1], [1], 2, r"predicted: expected 3 values, one for each of labels, got 1"),
        ([1], [0, 1, 1], 2, r"predicted: expected 1 values, one for each of labels, got 3"),
        (1, [1], 2, r"labels: expected shape \(M,\), a class for each example, got \(\)"),
        (["a", "b"], [0, 1], 2, r"labels: expected integers from 0 to 1, got dtype <U1; np.unique"),
        ([0, 1], [0, None], 2, r"predicted: expected integers from 0 to 1, got dtype object"),
        ([0, 1], [0.2, 1], 2, r"predicted: expected integers from 0 to 1, got 0.2"),
        ([0, 1], [NAN, 1], 2, r"predicted: expected integers from 0 to 1, got nan"),
        ([0, 1], [np.inf, 1], 2, r"predicted: expected integers from 0 to 1, .* got inf at index 0"),
        ([0, 1], [0j, 1], 2, r"predicted: expected integers from 0 to 1, got dtype complex128"),
        ([0, 1], [[0.9, 0.1], [0.2, 0.8]], 2, r"predicted: .* got \(2, 2\); of a model's outputs take .*argmax"),
        (np.ma.array([0, 1], mask=[0, 1]), [0, 1], 2, r"labels: expected no masked values, got 1"),
        ([[0, 1], [0]], [0, 1], 2, r"labels: expected a flat list of integers, got nested lists of unequal lengths"),
        ([0], [0], 0, r"classes: expected at least 1, got 0"),
    ],
)  # fmt: skip
def test_confusion_matrix_refuses(labels, predicted, classes, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(labels, predicted, classes)


def test_confusion_matrix_wants_a_number_of_classes():
    with pytest.raises(TypeError, match=r"classes: expected an integer, got '2'"):
        metrics.confusion_matrix([0], [0], "2")


def test_outputs_that_are_not_numbers_are_no_hits():
    accuracy = metrics.get("accuracy")
    outputs = np.array([[NAN, 0.5], [0.5, NAN], [NAN, NAN], [0.1, 0.9]])
    for label in (0, 1):
        assert accuracy.total(outputs, np.full(4, label)) == (label, 4)
    assert accuracy.total(outputs[None], np.ones((1, 4), int), np.array([[True, True, False, True]])) == (1, 3)
    assert accuracy.total(np.array([[np.inf, 0], [-np.inf, 0]]), np.array([0, 1])) == (2, 2)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 2], ValueError, "labels: expected at least 0 and less than 2, the number of outputs, got 2"),
        ([-1, 0], ValueError, "labels: expected at least 0 and less than 2, the number of outputs, got -1"),
        ([0.0, 0.5], ValueError, "labels: expected integer labels, got 0.5"),
        (["0", "1"], TypeError, "labels: expected integer labels, got dtype <U1; number them"),
        ([0], ValueError, r"labels: expected shape \(2,\) for outputs \(2, 2\), got \(1,\)"),
    ],
)
def test_accuracy_refuses_what_cannot_be_labels(labels, error, message):
    with pytest.raises(error, match=message):
        metrics.get("accuracy")(np.zeros((2, 2)), labels)


# -- figures, against plain ones


def softmax(a):
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def exact_auc(labels, scores):
    positive, negative = scores[labels == 1], scores[labels == 0]
    differences = positive[:, None] - negative
    return (np.count_nonzero(differences > 0) + np.count_nonzero(differences == 0) / 2) / differences.size


def exact_f1(labels, predicted, classes):
    found = []
    for k in classes:
        both = np.count_nonzero((labels == k) & (predicted == k))
        found.append(2 * both / (np.count_nonzero(labels == k) + np.count_nonzero(predicted == k)))
    return np.mean(found)


def test_accuracy_of_binary_outputs():
    p, y = np.array([[0.2], [0.5], [0.50001], [NAN]]), np.array([0, 0, 1, 1])
    for labels in (y, y[:, None], y.astype(bool), y.astype(float)):
        assert metrics.get("accuracy")(p, labels) == 3 / 4
    assert metrics.Accuracy(threshold=0.1)(p, y) == 1 / 4
    logits = metrics.get("accuracy").for_loss(losses.BinaryCrossentropy(from_logits=True))
    assert logits(np.array([[0.2], [-0.2]]), [1, 0]) == 1
    several = metrics.get("accuracy").for_loss(losses.BinaryCrossentropy())
    assert several(np.array([[0.9, 0.9, 0.1], [0.8, 0.1, 0.1]]), [[1, 1, 1], [1, 0, 0]]) == 5 / 6


def test_accuracy_of_one_hot_rows():
    p = np.array([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [NAN, 0, 0]])
    for accuracy in (metrics.get("accuracy"), metrics.get("accuracy").for_loss(losses.CategoricalCrossentropy())):
        assert accuracy(p, np.eye(3)[[1, 2, 0]]) == 1 / 3


def test_one_softmax_output_is_its_only_class():
    accuracy = metrics.get("accuracy").for_loss(losses.SparseCategoricalCrossentropy())
    assert accuracy(np.ones((3, 1)), np.zeros(3, int)) == 1


def test_macro_f1(rng):
    labels, p = rng.integers(0, 4, 50), rng.random((50, 6))
    p[:, 4] = 0  # never right and never found
    predicted = p.argmax(axis=1)
    expected = exact_f1(labels, predicted, sorted(set(labels) | set(predicted)))
    assert metrics.get("macro_f1")(p, labels) == pytest.approx(expected, rel=1e-14)
    assert metrics.get("macro_f1")(p, np.eye(6)[labels]) == pytest.approx(expected, rel=1e-14)
    binary = (p[:, 0] > 0.5).astype(int)
    expected = exact_f1(labels % 2, binary, [0, 1])
    assert metrics.get("macro_f1")(p[:, :1], labels % 2) == pytest.approx(expected, rel=1e-14)
    several = metrics.get("macro_f1").for_loss(losses.BinaryCrossentropy())
    y = rng.integers(0, 2, (50, 3))
    expected = np.mean([exact_f1(y[:, k], p[:, k] > 0.5, [1]) for k in range(3)])
    assert several(p[:, :3], y) == pytest.approx(expected, rel=1e-14)


def test_macro_f1_of_nan():
    """A label to which NaN decides for nothing is missed, and no class is found by it."""
    p = np.array([[1.0, 0], [NAN, 0], [0, 1]])
    assert metrics.get("macro_f1")(p, [0, 0, 1]) == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.get("macro_f1")(p[:, :1], [1, 1, 0]) == pytest.approx((2 / 3 + 1) / 2)


def test_errors_of_numbers(rng):
    outputs, labels = rng.standard_normal((2, 7, 3)).astype("float32"), rng.standard_normal((2, 7, 3))
    given = labels.astype("float32").astype(float)
    assert metrics.get("mse")(outputs, labels) == pytest.approx(((outputs - given) ** 2).mean(), rel=1e-12)
    assert metrics.get("mae")(outputs, labels) == pytest.approx(np.abs(outputs - given).mean(), rel=1e-12)
    for name in ("mse", "mae"):
        assert metrics.get(name)(np.ones((3, 1)), [1, 2, 3]) == metrics.get(name)(np.ones((3, 1)), [[1], [2], [3]])
        with pytest.raises(ValueError, match=r"labels: metric 'm.*' expected numbers like the outputs, got classes"):
            metrics.get(name)(np.ones((3, 2)), [0, 1, 1])


def test_perplexity(rng):
    logits, labels = rng.standard_normal((9, 5)), rng.integers(0, 5, 9)
    p = softmax(logits)
    expected = np.exp(-np.mean(np.log(p[np.arange(9), labels])))
    assert metrics.get("perplexity")(p, labels) == pytest.approx(expected, rel=1e-12)
    assert metrics.get("perplexity")(p, np.eye(5)[labels]) == pytest.approx(expected, rel=1e-12)
    assert metrics.Perplexity(from_logits=True)(logits, labels) == pytest.approx(expected, rel=1e-12)


class TestAUC:
    def test_against_the_exact_one(self, rng):
        for count, spread in ((30, 1), (400, 3), (2000, 0.3), (2000, 12)):
            labels = rng.integers(0, 2, count)
            logits = spread * (rng.standard_normal(count) + labels)
            p = 1 / (1 + np.exp(-logits))
            auc = metrics.get("auc")
            counts = auc.counts(p[:, None], labels)
            expected, bound = exact_auc(labels, logits), auc.error_bound(counts)
            assert abs(auc.result(counts) - expected) <= bound + 1e-12
            assert bound < 0.003
            of_logits = metrics.AUC(from_logits=True)
            assert abs(of_logits(logits[:, None], labels) - expected) <= 2 * bound
            two = np.stack([1 - p, p], axis=1)
            assert auc(two, labels) == pytest.approx(auc.result(counts), abs=2 * bound)
            both = np.stack([np.zeros(count), logits], axis=1)
            assert of_logits(both, labels) == of_logits(logits[:, None], labels)

    def test_against_scikit_learn(self, rng):
        sklearn = pytest.importorskip("sklearn.metrics")
        labels = rng.integers(0, 2, 5000)
        p = 1 / (1 + np.exp(-(rng.standard_normal(5000) + 2 * labels - 1)))
        auc = metrics.get("auc")
        counts = auc.counts(p[:, None], labels)
        assert abs(auc.result(counts) - sklearn.roc_auc_score(labels, p)) <= auc.error_bound(counts) < 1e-3
        predicted = (p > 0.5).astype(int)
        assert metrics.get("macro_f1")(p[:, None], labels) == pytest.approx(
            sklearn.f1_score(labels, predicted, average="macro"), rel=1e-12
        )

    def test_ends(self):
        auc = metrics.get("auc")
        assert auc(np.array([[0.0], [1.0], [0.0], [1.0]]), [0, 1, 1, 0]) == 0.5
        assert auc(np.float32([[1e-38], [1e-30], [1e-3]]), [1, 0, 0]) == pytest.approx(0.25)  # both beyond 32: equal
        assert auc(np.array([[0.2], [0.2]]), [0, 1]) == 0.5
        assert math.isnan(auc(np.array([[0.2], [0.3]]), [1, 1]))
        assert math.isnan(auc(np.array([[0.2], [NAN], [0.5]]), [0, 1, 1]))
        assert math.isnan(auc(np.zeros((0, 1)), []))

    def test_refuses(self):
        auc = metrics.get("auc")
        for outputs, labels, message in (
            ([[0.2], [0.3]], [0, 0.5], "labels: metric 'auc' expected labels 0 and 1, got 0.5"),
            ([[0.2], [1.3]], [0, 1], "metric 'auc' expected probabilities, got an output of 1.3"),
            ([[0.2], [-1.3]], [0, 1], "metric 'auc' expected probabilities, got an output of -1.3"),
            ([[0.2, 0.1, 0.7]], [0], "metric 'auc' expected one output or two classes, got 3 classes"),
        ):
            with pytest.raises(ValueError, match=re.escape(message)):
                auc(np.array(outputs), labels)


NAMES = ("accuracy", "macro_f1", "mse", "mae", "perplexity", "auc")


def problem_for(name, rng, count=40):
    if name in ("mse", "mae"):
        return rng.standard_normal((count, 3)), rng.standard_normal((count, 3))
    classes = 2 if name == "auc" else 4
    return softmax(rng.standard_normal((count, classes))), rng.integers(0, classes, count)


@pytest.mark.parametrize("name", NAMES)
def test_counts_add_over_batches_of_any_size(rng, name):
    """And over processes; padding is not read."""
    metric = metrics.get(name)
    outputs, labels = problem_for(name, rng)
    whole = metric.counts(outputs, labels)
    assert whole.dtype == np.float64 and whole.ndim == 1
    parts = sum(metric.counts(outputs[rows], labels[rows]) for rows in (slice(1), slice(1, 20), slice(20, None)))
    np.testing.assert_allclose(parts, whole, rtol=1e-13)
    assert metric.result(whole) == metric(outputs, labels)
    valid = rng.random((5, 8)) < 0.7
    spoiled = np.where(valid[..., None], outputs.reshape(5, 8, -1), NAN)
    ones = labels.reshape(5, 8, *labels.shape[1:])
    ones = np.where(valid, ones, -3) if ones.ndim == 2 else np.where(valid[..., None], ones, NAN)
    expected = metric.counts(outputs[valid.reshape(-1)], labels[valid.reshape(-1)])
    np.testing.assert_array_equal(metric.counts(spoiled, ones, valid), expected)
    nothing = metric.counts(spoiled, ones, np.zeros_like(valid))
    assert nothing.shape == whole.shape and math.isnan(metric.result(nothing))
    np.testing.assert_array_equal(nothing + whole, whole)


def test_reprs_and_configurations():
    for metric in (metrics.Accuracy(0.3), metrics.MacroF1(), metrics.AUC(True), metrics.Perplexity()):
        assert eval(repr(metric), vars(metrics)).get_config() == metric.get_config()
    assert repr(metrics.Accuracy(threshold=0.3)) == "Accuracy(threshold=0.3)"
    with pytest.raises(TypeError, match="threshold: expected a number, got 'half'"):
        metrics.MacroF1(threshold="half")


# -- in a model


def model_of(loss, activation, units, names, steps=False):
    layers = [cgru.GRU(5, return_sequences=steps, dtype="float64"), cgru.Dense(units, activation, dtype="float64")]
    model = cgru.Sequential(layers, seed=0)
    model.compile(cgru.optimizers.Adam(1e-30), loss, metrics=names)  # which changes next to nothing
    return model


BCE, CCE, SCE = losses.BinaryCrossentropy, losses.CategoricalCrossentropy, losses.SparseCategoricalCrossentropy
CASES = {
    "sparse": (SCE(), "softmax", 2, ["accuracy", "macro_f1", "perplexity", "auc"]),
    "sparse fused": (SCE(), "softmax", 4, ["accuracy", "macro_f1", "perplexity"]),
    "sparse fused logits": (SCE(True), "linear", 4, ["accuracy", "macro_f1", "perplexity"]),
    "sparse smoothed": (SCE(label_smoothing=0.2), "softmax", 4, ["perplexity", "accuracy"]),
    "dense": (CCE(), "softmax", 2, ["accuracy", "macro_f1", "perplexity", "auc", "mse"]),
    "dense logits": (CCE(True), "linear", 3, ["accuracy", "macro_f1", "perplexity"]),
    "binary": (BCE(), "sigmoid", 1, ["accuracy", "macro_f1", "auc", "mae"]),
    "binary fused": (BCE(), "sigmoid", 1, ["accuracy", "macro_f1"]),
    "binary fused of three": (BCE(), "sigmoid", 3, ["accuracy", "macro_f1"]),
    "binary fused logits": (BCE(True), "linear", 1, ["accuracy", "macro_f1"]),
    "binary thresholds": (BCE(), "sigmoid", 1, [metrics.Accuracy(0.45), metrics.MacroF1(0.6)]),
    "numbers": (losses.get("mse"), "linear", 2, ["mse", "mae"]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("steps", [False, True])
def test_figures_of_a_model_are_those_of_all_outputs(rng, name, steps):
    """In training, over uneven batches, as in evaluate; and with padding."""
    loss, activation, units, names = CASES[name]
    model = model_of(loss, activation, units, names, steps)
    x, shape = rng.standard_normal((23, 4, 2)), (23, 4) if steps else (23,)
    y = rng.integers(0, units, shape)
    if loss.labels == "values":
        y = rng.integers(0, 2, (*shape, units)) if loss.distribution == "binary" else np.eye(units)[y]
    options = {"lengths": rng.integers(1, 5, 23)} if steps else {}
    valid = np.arange(4) < options["lengths"][:, None] if steps else np.ones(23, bool)
    model.build(2)
    outputs, counted = model.predict(x, **options)[valid], y[valid]
    history = model.fit(x, y, batch_size=5, verbose=0, validation_data=(x, y, options), **options).history
    evaluated = model.evaluate(x, y, batch_size=7, **options)
    for metric in model.metrics:
        expected = metric(outputs, counted)
        assert math.isfinite(expected)
        for found in (history[metric.name][0], history[f"val_{metric.name}"][0], evaluated[metric.name]):
            assert found == pytest.approx(expected, rel=1e-9), metric.name
    checks.assert_close(evaluated["loss"], loss(outputs, counted), 1e-9)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_metrics_come_back_with_the_state_of_training(rng, tmp_path, name):
    loss, activation, units, names = CASES[name]
    model = model_of(loss, activation, units, names)
    x, y = rng.standard_normal((6, 4, 2)), rng.integers(0, units, 6)
    if loss.labels == "values":
        y = rng.integers(0, 2, (6, units)) if loss.distribution == "binary" else np.eye(units)[y]
    model.fit(x, y, verbose=0)
    cgru.save(model, tmp_path / "model.safetensors", training_state=True)
    again = cgru.load(tmp_path / "model.safetensors")
    assert repr(again.loss) == repr(model.loss) and repr(again.metrics) == repr(model.metrics)
    assert again.evaluate(x, y) == model.evaluate(x, y)
    assert again.train_on_batch(x, y) == model.train_on_batch(x, y)


def test_metrics_that_mean_nothing_beside_a_loss():
    for loss, name, message in (
        ("sparse_categorical_crossentropy", "mae", "metrics: 'mae' compares outputs with labels that are numbers like"),
        ("mse", "perplexity", "metrics: 'perplexity' expected a categorical cross-entropy, got the loss 'mean_squared"),
        ("mse", "auc", "metrics: 'auc' expected probabilities, got the loss 'mean_squared_error'; of other numbers"),
        (BCE(), "perplexity", "metrics: 'perplexity' expected a categorical cross-entropy"),
    ):
        activation = "linear" if loss == "mse" else "sigmoid"
        with pytest.raises(ValueError, match=re.escape(message)):
            cgru.Sequential([cgru.Dense(2, activation)]).compile("adam", loss, metrics=[name])


def test_labels_that_a_metric_cannot_use_are_refused_before_any_work(rng):
    x = rng.standard_normal((4, 3, 2))
    for loss, name, y, message in (
        ("mse", "accuracy", [0, 1, 3.5, 1], "y: metric 'accuracy' expected labels from 0 to 1, got 3.5; of numbers"),
        ("binary_crossentropy", "auc", [0, 1, 0.5, 1], "y: metric 'auc' expected labels 0 and 1, got 0.5"),
        ("binary_crossentropy", "macro_f1", [0, 1, 0.5, 1], "y: metric 'macro_f1' expected labels 0 and 1, got 0.5"),
    ):
        model = cgru.Sequential([cgru.GRU(3), cgru.Dense(1, "sigmoid")])
        model.compile("adam", loss, metrics=[name])
        with pytest.raises(ValueError, match=re.escape(message)):
            model.fit(x, y)
        assert not model.built
    model = cgru.Sequential([cgru.GRU(3), cgru.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["auc"])
    with pytest.raises(ValueError, match="metric 'auc' expected one output or two classes, got 3 classes"):
        model.fit(x, [0, 1, 1, 0])
    assert not model.built


def test_a_subclass_that_counts_otherwise_is_not_passed_by(rng):
    class Misses(metrics.Accuracy):
        name = "misses"

        def row_counts(self, outputs, labels):
            hits, count = super().row_counts(outputs, labels)
            return np.array([count - hits, count])

    x, y = rng.standard_normal((8, 3, 2)), np.arange(8) % 3
    model = model_of("sparse_categorical_crossentropy", "softmax", 3, ["accuracy", Misses()])
    history = model.fit(x, y, verbose=0).history
    assert history["accuracy"][0] + history["misses"][0] == 1


class TestFunctions:
    def model(self, function, steps=True, loss="mse", units=1, activation="linear"):
        model = cgru.Sequential([cgru.GRU(3, return_sequences=steps), cgru.Dense(units, activation)], seed=0)
        model.compile("adam", loss, metrics=[function])
        return model

    def test_it_sees_what_counts_once_an_epoch(self, rng):
        x, y = rng.standard_normal((9, 4, 2)), rng.standard_normal((9, 4))
        lengths = rng.integers(0, 5, 9)
        valid = np.arange(4) < lengths[:, None]
        calls = []
        # An empty set calls nothing.
        empty = self.model(lambda y_true, y_pred: 1 / 0)
        assert math.isnan(empty.evaluate(x, y, lengths=np.zeros(9, int))["<lambda>"])

        def worst(y_true, y_pred):
            calls.append((y_true, y_pred))
            return np.abs(y_true - y_pred).max()

        model = self.model(worst)
        data = x[:5], y[:5], {"lengths": lengths[:5]}
        history = model.fit(x, y, lengths=lengths, epochs=3, batch_size=2, verbose=0, validation_data=data).history
        assert "worst" not in history and len(history["val_worst"]) == len(calls) == 3
        outputs = model.predict(x, lengths=lengths)[valid][:, 0]
        given = np.where(valid, y, NAN)
        found = model.evaluate(np.where(valid[..., None], x, NAN), given, lengths=lengths, batch_size=4)["worst"]
        assert len(calls) == 4
        np.testing.assert_array_equal(calls[-1][0], y[valid].astype("float32"))  # in the order of the data
        np.testing.assert_array_equal(calls[-1][1], outputs)
        assert found == np.abs(y[valid].astype("float32") - outputs).max()

    def test_without_validation_data_evaluate_alone_reports_it(self, rng):
        model = self.model(lambda y_true, y_pred: 7, steps=False)
        x, y = rng.standard_normal((3, 4, 2)), np.ones(3)
        assert list(model.fit(x, y, verbose=0).history) == ["loss"]
        assert model.evaluate(x, y)["<lambda>"] == 7

    def test_classes_and_several_outputs(self, rng):
        shapes = []

        def shape(y_true, y_pred):
            shapes.append((y_true.shape, y_true.dtype.kind, y_pred.shape))
            return 0

        x = rng.standard_normal((3, 4, 2))
        self.model(shape, False, "sparse_categorical_crossentropy", 2, "softmax").evaluate(x, [0, 1, 1])
        self.model(shape, False, "binary_crossentropy", 2, "sigmoid").evaluate(x, np.eye(2)[[0, 1, 1]])
        assert shapes == [((3,), "i", (3, 2)), ((3, 2), "f", (3, 2))]

    def test_what_fails_is_named_and_the_model_is_whole(self, rng):
        def broken(y_true, y_pred):
            return 1 / 0

        model = self.model(broken, steps=False)
        x, y = rng.standard_normal((3, 4, 2)), np.ones(3)
        with pytest.raises(RuntimeError, match="metric 'broken' failed: ZeroDivisionError: division by zero"):
            model.fit(x, y, verbose=0, validation_data=(x, y))
        assert np.isfinite(model.predict(x)).all()
        model.compile("adam", "mse", metrics=[named("silent")])
        with pytest.raises(RuntimeError, match="metric 'silent' failed: TypeError"):
            model.evaluate(x, y)

    def test_refuses(self):
        with pytest.raises(TypeError, match=r"metrics\[0\]: expected a function with a name \(def, not partial\), got"):
            self.model(functools.partial(max, 3))
        with pytest.raises(ValueError, match=r"metrics: expected other names than 'loss'"):
            self.model(named("loss"))


def named(name):
    def function(y_true, y_pred):
        return None

    function.__name__ = name
    return function
