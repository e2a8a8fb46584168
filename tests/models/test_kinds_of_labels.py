"""What people pass as labels: whole numbers of any type, columns, data frames, per-step lists; others get advice."""

import re

import numpy as np
import pytest

import cgru
from cgru import losses, metrics

N, T, D, K = 6, 4, 3, 3
LENGTHS = np.array([4, 2, 3, 1, 4, 2])


def classifier():
    return model_of(cgru.GRU(4), cgru.Dense(K, activation="softmax"))


def tagger():
    return model_of(cgru.GRU(4, return_sequences=True), cgru.Dense(K, activation="softmax"))


def model_of(*layers):
    model = cgru.Sequential(list(layers), seed=0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fitted(model, x, y, **options):
    model.fit(x, y, shuffle=False, verbose=0, **options)
    return [*model.get_weights(), np.array(list(model.evaluate(x, y, **options).values()))]


def data(rng):
    return rng.standard_normal((N, T, D)).astype("float32"), rng.integers(0, K, (N, T))


def series(y):
    return pytest.importorskip("pandas").Series(y, index=range(7, 7 + len(y)))


KINDS = {
    "list": lambda y: y.tolist(),
    "floats": lambda y: y.astype("float64"),
    "float32 column": lambda y: y[:, None].astype("float32"),
    "uint8": lambda y: y.astype("uint8"),
    "float16": lambda y: y.astype("float16"),  # whose largest number is 65504
    "column": lambda y: y[:, None],
    "objects": lambda y: y.astype(object),
    "list of one-element lists": lambda y: [[int(v)] for v in y],
    "masked array without a mask": lambda y: np.ma.array(y),
    "series": series,
    "nullable series": lambda y: series(y).astype("Int64"),
    "data frame of one column": lambda y: series(y).to_frame("label"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_for_each_example(rng, kind):
    x, y = data(rng)
    expected = fitted(classifier(), x, y[:, 0])
    for a, b in zip(fitted(classifier(), x, KINDS[kind](y[:, 0])), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bools_are_two_classes(rng):
    x, y = data(rng)
    expected = fitted(classifier(), x, (y[:, 0] > 1).astype(int))
    for a, b in zip(fitted(classifier(), x, y[:, 0] > 1), expected, strict=True):
        np.testing.assert_array_equal(a, b)


STEP_KINDS = {
    "lists": lambda rows: [row.tolist() for row in rows],
    "tuple of arrays": tuple,
    "floats": lambda rows: [row.astype(float) for row in rows],
    "columns": lambda rows: [row[:, None] for row in rows],
    "series": lambda rows: [series(row) for row in rows],
    "object array": lambda rows: np.array([*rows, None], object)[:-1],
}


@pytest.mark.parametrize("kind", STEP_KINDS)
def test_a_label_for_each_step_of_sequences(rng, kind):
    x, y = data(rng)
    sequences = [row[:n] for row, n in zip(x, LENGTHS, strict=True)]
    rows = [row[:n] for row, n in zip(y, LENGTHS, strict=True)]
    expected = fitted(tagger(), sequences, rows)
    for a, b in zip(fitted(tagger(), sequences, STEP_KINDS[kind](rows)), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_padded_labels_hold_anything_past_the_ends(rng):
    x, y = data(rng)
    valid = np.arange(T) < LENGTHS[:, None]
    expected = fitted(tagger(), x, y, lengths=LENGTHS)
    for padding in (np.nan, np.inf, -100, 0.5):
        given = np.where(valid, y, padding)
        for column in (given, given[..., None]):
            for a, b in zip(fitted(tagger(), x, column, lengths=LENGTHS), expected, strict=True):
                np.testing.assert_array_equal(a, b)


def words(y):
    return np.array(list("abc"))[y[:, 0]]


@pytest.mark.parametrize(
    ("make", "change", "error", "message"),
    [
        (classifier, words, TypeError, "y: expected integer labels, got dtype <U1; number them: "
         "classes, y = np.unique(y, return_inverse=True)"),
        (classifier, lambda y: words(y).astype(object), TypeError, "got dtype object; number them: classes, y = np"),
        (classifier, lambda y: words(y).tolist(), TypeError, "got dtype <U1; number them: classes, y = np.unique(y"),
        (classifier, lambda y: y[:, 0] + 0.5, ValueError, "y: expected integer labels, got "),
        (classifier, lambda y: np.full(N, np.nan), ValueError, "y: expected integer labels, got nan"),
        (classifier, lambda y: np.full(N, np.inf), ValueError, "y: expected integer labels, got inf"),
        (classifier, lambda y: np.full(N, 1e30), ValueError, "y: expected integer labels, got 1e+30"),
        (classifier, lambda y: None, ValueError, "y: expected shape (6,), a label for each example, got NoneType"),
        (classifier, lambda y: {0, 1}, ValueError, "y: expected shape (6,), a label for each example, got set"),
        (classifier, lambda y: y[:, 0] * 1j, TypeError, "y: expected integer labels, got dtype complex128"),
        (classifier, lambda y: np.eye(K)[y[:, 0]], ValueError, "of one-hot rows or probabilities take y.argmax("),
        (tagger, lambda y: np.eye(K)[y], ValueError, "of one-hot rows or probabilities take y.argmax("),
        (classifier, lambda y: np.ma.masked_equal(y[:, 0], y[0, 0]), ValueError, "y: expected no masked values, got "),
        (tagger, lambda y: [list("abca")] * N, TypeError, "y[0]: expected integer labels, got dtype <U1; number them: "
         "classes, labels = np.unique(np.concatenate(y), return_inverse=True)"),
        (classifier, lambda y: y[:, 0] + K - 1.0, ValueError, "y: expected at least 0 and less than 3"),
    ],
)  # fmt: skip
def test_other_labels_are_refused_with_advice(rng, make, change, error, message):
    x, y = data(rng)
    y[0, 0] = 1
    model = make()
    for call in (model.fit, model.evaluate):
        with pytest.raises(error, match=re.escape(message)):
            call(x, change(y))
    assert not model.built


def test_losses_and_metrics_take_the_same():
    outputs = np.array([[0.2, 0.8], [0.6, 0.4]])
    loss, accuracy = losses.get("sparse_categorical_crossentropy"), metrics.get("accuracy")
    for labels in ([1, 1], [1.0, 1.0], [True, True], np.ones((2, 1)), np.ones(2, object)):
        assert loss(outputs, labels) == loss(outputs, np.array([1, 1]))
        assert accuracy(outputs, labels) == 0.5
        np.testing.assert_array_equal(loss.gradient(outputs, labels), loss.gradient(outputs, np.array([1, 1])))


# -- validation data


def test_validation_data_with_lengths_and_mask(rng):
    x, y = data(rng)
    mask = np.arange(T) < LENGTHS[:, None]
    for options in ({"lengths": LENGTHS}, {"mask": mask}, {}):
        model = classifier()
        history = model.fit(x, y[:, 0], validation_data=[x, y[:, 0], options], verbose=0).history
        expected = model.evaluate(x, y[:, 0], **options)
        assert history["val_loss"] == [expected["loss"]]
