"""Metrics of classes: what the outputs decide for, against the labels."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgru.checks import check_classes, check_int, check_number
from cgru.losses import Loss
from cgru.metrics.base import Counts, Metric, check_zero_or_one, ratio
from cgru.typing import AnyArray, Array, BoolArray, IntArray


class _Decisions(Metric):
    """What compares classes: the one with the largest output, or for binary outputs whether they are above a
    threshold."""

    fused = "classes"
    _options = ("threshold",)

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = None if threshold is None else check_number(threshold, "threshold")

    def row_counts(self, outputs: Array, labels: AnyArray) -> Counts:
        classes = outputs.shape[1]
        if self._is_binary(outputs, labels):
            return self.counts_of_classes(self._above(outputs), labels, classes)
        if labels.ndim == 2:
            labels = labels.argmax(axis=1)
        if not outputs.size:
            return self.counts_of_classes(np.zeros(0, np.intp), labels, classes)
        best = outputs.argmax(axis=1)
        sure = outputs[np.arange(len(outputs)), best]  # argmax finds a NaN wherever there is one
        return self.counts_of_classes(np.where(sure == sure, best, -1), labels, classes)

    def _is_binary(self, outputs: Array, labels: AnyArray) -> bool:
        if labels.ndim == 1 or self._distribution == "categorical":
            return False
        return self._distribution == "binary" or self.threshold is not None or outputs.shape[1] == 1

    def _above(self, outputs: Array) -> IntArray:
        threshold = (0.0 if self._logits else 0.5) if self.threshold is None else self.threshold
        return np.where(outputs == outputs, outputs > threshold, -1)

    def fuses_with(self, loss: Loss) -> bool:
        return super().fuses_with(loss) and self.threshold is None

    def check_labels(self, labels: AnyArray, name: str, outputs: int) -> None:
        if labels.ndim == 2 and self._distribution is None:
            wrong = labels[(labels < 0) | (labels > 1)]
            if wrong.size:
                raise ValueError(
                    f"{name}: metric {self.name!r} expected labels from 0 to 1, got {wrong.flat[0]}; of numbers take "
                    "'mae' or 'mse'"
                )


class Accuracy(_Decisions):
    """Share of the labels that the outputs decide for; NaN decides for none.

    With integer labels, or rows of K > 1 class probabilities, the class is the one with the largest output. With a
    binary loss, or one output, each output is a decision of its own: 1 if it is above the threshold.

    Parameters
    ----------
    threshold : float, optional
        Of binary outputs; 0.5 unless given, or 0 where a model's loss is computed from logits.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import metrics
    >>> metrics.get("accuracy")(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
    0.5
    >>> metrics.Accuracy(threshold=0.3)(np.array([[0.4], [0.2]]), np.array([1, 1]))
    0.5
    """

    name = "accuracy"

    def counts_of_classes(self, best: IntArray, labels: AnyArray, classes: int) -> Counts:
        return np.array([np.count_nonzero(best == labels), labels.size], np.float64)

    def result(self, counts: Counts) -> float:
        return ratio(*counts.tolist())

    def total(self, outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None = None) -> tuple[float, int]:
        """Return (number of hits, number of labels). Arguments as in `counts`."""
        hits, count = self.counts(outputs, labels, valid).tolist()
        return hits, int(count)


class MacroF1(_Decisions):
    """The F1 score 2 tp / (2 tp + fp + fn) of each class, averaged over the classes that are among labels or decisions.

    The counts are the diagonal of the confusion matrix and the sums of its rows and columns. Decisions are as in
    `Accuracy`; of several binary outputs each is a class that a row has or has not, of a single one 0 and 1 are the two
    classes.

    Parameters
    ----------
    threshold : float, optional
        As in `Accuracy`.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import metrics
    >>> metrics.get("macro_f1")(np.eye(3)[[0, 1, 1, 2]], np.array([0, 1, 2, 2]))
    0.7777777777777777
    """

    name = "macro_f1"

    def counts_of_classes(self, best: IntArray, labels: AnyArray, classes: int) -> Counts:
        if labels.ndim == 2 and classes > 1:  # of each output: right and 1, above the threshold, label 1
            true, found = labels == 1, best == 1
            return np.concatenate([(true & found).sum(axis=0), found.sum(axis=0), true.sum(axis=0)], dtype=np.float64)
        classes = 2 if labels.ndim == 2 else classes
        best, labels = best.reshape(-1), labels.reshape(-1)
        parts = labels[best == labels], best[best >= 0], labels
        counts = [np.bincount(part.astype(np.intp), minlength=classes) for part in parts]
        return np.concatenate(counts, dtype=np.float64)

    def result(self, counts: Counts) -> float:
        hits, found, true = counts.reshape(3, -1)
        seen = found + true > 0
        return float((2 * hits[seen] / (found + true)[seen]).mean()) if seen.any() else float("nan")

    def check_labels(self, labels: AnyArray, name: str, outputs: int) -> None:
        super().check_labels(labels, name, outputs)
        if labels.ndim == 2 and self._distribution != "categorical":
            check_zero_or_one(labels, name, self.name)


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: SupportsIndex) -> NDArray[np.intp]:
    """Return an integer array (classes, classes): how often label i (row) was predicted as j (column).

    Parameters
    ----------
    labels, predicted : array_like of shape (M,)
        Whole numbers of at least 0 and less than `classes`.
    classes : int
        Number of classes, at least 1.

    Returns
    -------
    ndarray of shape (classes, classes) and dtype intp

    Raises
    ------
    TypeError
        If `classes` is not an integer.
    ValueError
        If `labels` or `predicted` hold anything else than such numbers, or one is longer than the other.

    Examples
    --------
    >>> from cgru.metrics import confusion_matrix
    >>> confusion_matrix([0, 1, 1], [0, 1, 0], 2)
    array([[1, 0],
           [1, 1]])
    """
    classes = check_int(classes, "classes", 1)
    labels = check_classes(labels, "labels", classes)
    predicted = check_classes(predicted, "predicted", classes)
    if predicted.shape != labels.shape:
        raise ValueError(f"predicted: expected {len(labels)} values, one for each of labels, got {len(predicted)}")
    pairs = labels * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
