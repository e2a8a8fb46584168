"""Metrics of the outputs themselves: errors of numbers, probabilities of the labels, their order."""

from __future__ import annotations

import numpy as np

from cgru.checks import check_bool
from cgru.losses import CategoricalCrossentropy, Loss, SparseCategoricalCrossentropy
from cgru.metrics.base import Counts, Metric, check_zero_or_one, ratio
from cgru.typing import AnyArray, Array


class _Errors(Metric):
    def row_counts(self, outputs: Array, labels: AnyArray) -> Counts:
        if labels.shape != outputs.shape:
            raise ValueError(f"labels: metric {self.name!r} expected numbers like the outputs, got classes")
        errors = outputs.astype(np.float64) - labels
        return np.array([self._sum(errors), errors.size], np.float64)

    def _sum(self, errors: Array) -> float:
        raise NotImplementedError

    def result(self, counts: Counts) -> float:
        return ratio(*counts.tolist())

    def _check_loss(self, loss: Loss) -> None:
        if loss.labels != "values":
            raise ValueError(
                f"metrics: {self.name!r} compares outputs with labels that are numbers like them; those of the loss "
                f"{loss.name!r} are classes"
            )


class MeanSquaredError(_Errors):
    """(output - label)^2, averaged over all outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import metrics
    >>> metrics.get("mse")(np.array([[1.0], [2.0]]), np.array([1.0, 5.0]))
    4.5
    """

    name = "mse"

    def _sum(self, errors: Array) -> float:
        return float(np.square(errors).sum())


class MeanAbsoluteError(_Errors):
    """``|output - label|``, averaged over all outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import metrics
    >>> metrics.get("mae")(np.array([[1.0], [2.0]]), np.array([1.0, 5.0]))
    1.5
    """

    name = "mae"

    def _sum(self, errors: Array) -> float:
        return float(np.abs(errors).sum())


class Perplexity(Metric):
    """exp of the mean categorical cross-entropy: of how many equally probable classes the outputs are as unsure.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits; in a model the loss says it.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import metrics
    >>> round(metrics.get("perplexity")(np.full((2, 4), 0.25), np.array([0, 3])), 6)
    4.0
    """

    name = "perplexity"
    fused = "values"
    _options = ("from_logits",)

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = check_bool(from_logits, "from_logits")

    def row_counts(self, outputs: Array, labels: AnyArray) -> Counts:
        loss = SparseCategoricalCrossentropy if labels.ndim == 1 else CategoricalCrossentropy
        return self.counts_of_values(loss(self.from_logits or self._logits).values(outputs, labels))

    def counts_of_values(self, values: Array) -> Counts:
        return np.array([values.sum(dtype=np.float64), len(values)], np.float64)

    def result(self, counts: Counts) -> float:
        with np.errstate(over="ignore"):
            return float(np.exp(ratio(*counts.tolist())))

    def fuses_with(self, loss: Loss) -> bool:
        plain = type(loss) is SparseCategoricalCrossentropy and not loss.label_smoothing
        return super().fuses_with(loss) and plain

    def _check_loss(self, loss: Loss) -> None:
        if loss.distribution != "categorical":
            raise ValueError(f"metrics: {self.name!r} expected a categorical cross-entropy, got the loss {loss.name!r}")


class AUC(Metric):
    """Area under the curve of true positives over false ones: the share of the pairs of a row with label 1 and one with
    label 0 in which the first has the larger output; equal ones count half.

    For one output with labels 0 and 1, or two classes; several binary outputs are counted as one. Outputs are counted
    in a histogram of their logits log(p / (1 - p)), from -32 to 32 in bins of a width of 1/128, so that counts add up.
    What falls into one bin counts as equal: the area is off by at most half the share of the pairs that do
    (`error_bound`), and if no two outputs are that close it is exact.

    Parameters
    ----------
    from_logits : bool
        Whether the outputs are logits, or other scores of that range; in a model the loss says it.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import metrics
    >>> metrics.get("auc")(np.array([[0.1], [0.4], [0.35], [0.8]]), np.array([0, 0, 1, 1]))
    0.75
    """

    name = "auc"
    _options = ("from_logits",)
    _SPAN, _WIDTH = 32, 1 / 128
    _BINS = 8192  # 2 * span / width

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = check_bool(from_logits, "from_logits")

    def row_counts(self, outputs: Array, labels: AnyArray) -> Counts:
        scores, labels = self._scores(outputs.astype(np.float64), labels)
        place = np.floor((np.clip(scores, -self._SPAN, self._SPAN) + self._SPAN) / self._WIDTH)
        known = place == place
        place = np.minimum(place[known], self._BINS - 1).astype(np.intp) + self._BINS * (labels[known] == 1)
        counts = np.bincount(place, minlength=2 * self._BINS + 1).astype(np.float64)
        counts[-1] = np.count_nonzero(~known)  # NaN: it is neither above nor below anything
        return counts

    def _scores(self, outputs: Array, labels: AnyArray) -> tuple[Array, AnyArray]:
        """Return the logits and their labels, each of one axis."""
        logits = self.from_logits or self._logits
        if labels.ndim == 1 or self._distribution == "categorical":
            labels = labels if labels.ndim == 1 else labels.argmax(axis=1)
            outputs, rest = outputs[:, 1], outputs[:, 0]
        else:
            outputs, labels = outputs.reshape(-1), labels.reshape(-1)
            rest = np.zeros(1) if logits else 1 - outputs
        if logits:
            return outputs - rest, labels
        wrong = outputs[(outputs < 0) | (outputs > 1.001)]
        if wrong.size:
            raise ValueError(
                f"metric {self.name!r} expected probabilities, got an output of {wrong[0]}; of logits, and other "
                "numbers, take AUC(from_logits=True)"
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(outputs) - np.log(np.maximum(rest, 0)), labels

    def result(self, counts: Counts) -> float:
        negative, positive = counts[:-1].reshape(2, -1)
        pairs = negative.sum() * positive.sum()
        if counts[-1] or not pairs:
            return float("nan")
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / pairs)

    def error_bound(self, counts: Counts) -> float:
        """Return by how much `result` may be off at most: half the share of the pairs that fall into one bin."""
        negative, positive = counts[:-1].reshape(2, -1)
        return ratio(float((negative * positive).sum()) / 2, float(negative.sum() * positive.sum()))

    def check_labels(self, labels: AnyArray, name: str, outputs: int) -> None:
        if labels.ndim == 1 or self._distribution == "categorical":
            if outputs != 2:
                raise ValueError(f"metric {self.name!r} expected one output or two classes, got {outputs} classes")
        else:
            check_zero_or_one(labels, name, self.name)

    def _check_loss(self, loss: Loss) -> None:
        if loss.distribution is None and loss.labels == "values" and not self.from_logits:
            raise ValueError(
                f"metrics: {self.name!r} expected probabilities, got the loss {loss.name!r}; of other numbers take "
                "AUC(from_logits=True)"
            )
