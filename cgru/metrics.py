"""Metrics: means over the rows, or over the valid steps, that are reported and not trained on."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgru.checks import check_classes, check_int, check_name, counted_rows
from cgru.configured import Configured
from cgru.typing import BoolArray, IntArray, MetricName


class Accuracy(Configured):
    """Share of the labels to which the outputs give the largest value; a row that holds NaN gives it to none."""

    name = "accuracy"

    def total(self, outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None = None) -> tuple[float, int]:
        """Return (number of hits, number of labels).

        Parameters
        ----------
        outputs : ndarray, (N, K) or (N, T, K)
        labels : integer ndarray, (N,) or (N, T)
        valid : bool ndarray (N, T), optional
            Which steps count; what the others hold is not read.

        Raises
        ------
        TypeError, ValueError
            If the labels are not integers, of another shape than the outputs without their last axis, or out of range.
        """
        rows, labels = counted_rows(outputs, labels, valid)
        if not rows.size:
            return 0.0, len(labels)
        best = rows.argmax(axis=1)
        sure = rows[np.arange(len(rows)), best]  # argmax finds a NaN wherever there is one, and that is no hit
        return float(np.count_nonzero((best == labels) & (sure == sure))), len(labels)

    def total_of_classes(self, best: IntArray, labels: IntArray) -> tuple[float, int]:
        """As `total`, from the classes (M,) of the largest outputs, -1 where there is NaN, and the labels (M,)."""
        return float(np.count_nonzero(best == labels)), len(labels)

    def __call__(self, outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None = None) -> float:
        """Return the share of hits; NaN if nothing counts. Arguments as in `total`."""
        hits, count = self.total(outputs, labels, valid)
        return hits / count if count else float("nan")


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


_METRICS = {Accuracy.name: Accuracy}


def get(metric: MetricName | Accuracy) -> Accuracy:
    """Return the metric called `metric`; one that `get` returned is returned as it is.

    Raises
    ------
    ValueError
        If there is no such metric; the message lists the names.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import metrics
    >>> metrics.get("accuracy")(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
    0.5
    """
    if isinstance(metric, Accuracy):
        return metric
    return _METRICS[check_name(metric, "metric", _METRICS)]()
