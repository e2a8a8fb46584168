"""Metrics: what they count, and what they refuse."""

import numpy as np
import pytest

from cgru import metrics

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
