"""Metrics: what is reported of the rows, or of the valid steps, and not trained on.

A metric counts, batch by batch; counts add up over batches and over processes, and the figure comes of their sum, so
that it is that of all examples and no mean of means. Weights of examples do not count here: a loss is weighted, a
metric is not.
"""

from __future__ import annotations

from typing import Any

from cgru.checks import check_name
from cgru.metrics.base import Function, Metric
from cgru.metrics.classes import Accuracy, MacroF1, confusion_matrix
from cgru.metrics.scores import AUC, MeanAbsoluteError, MeanSquaredError, Perplexity
from cgru.typing import MetricFunction, MetricName

__all__ = [
    "AUC", "Accuracy", "Function", "MacroF1", "MeanAbsoluteError", "MeanSquaredError", "Metric", "Perplexity",
    "confusion_matrix", "get",
]  # fmt: skip

_METRICS: dict[str, type[Metric]] = {
    metric.name: metric for metric in (Accuracy, MacroF1, MeanSquaredError, MeanAbsoluteError, Perplexity, AUC)
}


def get(metric: MetricName | Metric | Function | MetricFunction, name: str = "metric") -> Any:
    """Return the metric called `metric`, or a `Function` of a callable; a `Metric` is returned as it is. Errors call
    it `name`.

    Raises
    ------
    TypeError, ValueError
        If there is no such metric; the message lists the names.

    Examples
    --------
    >>> from cgru import metrics
    >>> metrics.get("accuracy")
    Accuracy()
    """
    if isinstance(metric, (Metric, Function)):
        return metric
    if callable(metric) and not isinstance(metric, type):
        return Function(metric, name)
    known: Any = metric
    return _METRICS[check_name(known, name, _METRICS, ", a Metric or a function (y_true, y_pred)")]()
