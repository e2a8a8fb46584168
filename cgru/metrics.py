"""Metrics: means over the rows, or over the valid steps, that are reported and not trained on."""

import numpy as np


class Accuracy:
    """Share of the labels to which the outputs give the largest value."""

    name = "accuracy"

    def total(self, outputs, labels, valid=None):
        """Return (number of hits, number of labels).

        Parameters
        ----------
        outputs : ndarray, (N, K) or (N, T, K)
        labels : integer ndarray, (N,) or (N, T)
        valid : bool ndarray (N, T), optional
            Which steps count; what the others hold is not read.

        Raises
        ------
        ValueError
            If the labels have another shape than the outputs without their last axis.
        """
        outputs, labels = np.asarray(outputs), np.asarray(labels)
        if labels.shape != outputs.shape[:-1]:
            raise ValueError(
                f"labels: expected shape {outputs.shape[:-1]} for outputs {outputs.shape}, got {labels.shape}"
            )
        if valid is not None:
            outputs, labels = outputs[valid], labels[valid]
        return float(np.count_nonzero(outputs.argmax(axis=-1) == labels)), labels.size

    def __call__(self, outputs, labels, valid=None):
        """Return the share of hits; NaN if nothing counts. Arguments as in `total`."""
        hits, count = self.total(outputs, labels, valid)
        return hits / count if count else float("nan")


def confusion_matrix(labels, predicted, classes):
    """Return an integer array (classes, classes): how often label i (row) was predicted as j (column).

    Examples
    --------
    >>> from cgru.metrics import confusion_matrix
    >>> confusion_matrix([0, 1, 1], [0, 1, 0], 2)
    array([[1, 0],
           [1, 1]])
    """
    pairs = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


_METRICS = {Accuracy.name: Accuracy}


def get(metric):
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
    if isinstance(metric, str) and metric in _METRICS:
        return _METRICS[metric]()
    raise ValueError(f"metric: expected one of {sorted(_METRICS)}, got {metric!r}")
