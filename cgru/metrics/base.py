"""What a metric is: counts that add up over batches and over processes, and the figure that comes of their sum."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgru.checks import counted_rows
from cgru.configured import Configured
from cgru.losses import Loss
from cgru.typing import AnyArray, Array, BoolArray, IntArray, MetricFunction

if TYPE_CHECKING:
    from typing_extensions import Self

Counts = NDArray[np.float64]


class Metric(Configured):
    """Base class of the metrics: counts that add up, and the figure that comes of them.

    A subclass implements `row_counts` and `result`.

    Attributes
    ----------
    name : str
        By which models report it.
    fused : {None, "classes", "values"}
        What a training pass has to show for it that never makes the outputs: the classes that they decide for
        (`counts_of_classes`), or the loss of each row (`counts_of_values`). None: the outputs are needed.
    """

    name = "metric"
    fused: Literal["classes", "values"] | None = None
    _kind: str | None = None  # of the labels, and what the outputs are: as the loss has it, once there is one
    _distribution: str | None = None
    _logits = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own = cls.__dict__
        if ("counts" in own or "row_counts" in own) and "fused" not in own:
            cls.fused = None  # what its base makes of a pass without outputs may be something else

    def counts(self, outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None = None) -> Counts:
        """Return what one batch adds, a float64 array of one axis whose length depends on no batch.

        Parameters
        ----------
        outputs : ndarray, (N, K) or (N, T, K)
        labels : ndarray
            Integers (N,) or (N, T); or numbers like the outputs, whose last axis may lack if K is 1.
        valid : bool ndarray (N, T), optional
            Which steps count; what the others hold is not read.

        Raises
        ------
        TypeError, ValueError
            If the labels are of another type or shape, or out of range.
        """
        rows, labels = counted_rows(outputs, labels, valid, self._kind)
        self.check_labels(labels, "labels", rows.shape[1])
        return self.row_counts(rows, labels)

    def row_counts(self, outputs: Array, labels: AnyArray) -> Counts:
        """As `counts`, from the outputs (M, K) and labels, (M,) or (M, K), that count."""
        raise NotImplementedError(f"{type(self).__name__} has no row_counts(outputs, labels)")

    def counts_of_classes(self, best: IntArray, labels: AnyArray, classes: int) -> Counts:
        """As `counts`, from the classes that the outputs decide for, -1 where there is NaN, and the labels: both (M,),
        or for binary outputs (M, K) of 0 and 1; K is `classes`."""
        raise NotImplementedError(f"{type(self).__name__} has no counts_of_classes(best, labels, classes)")

    def counts_of_values(self, values: Array) -> Counts:
        """As `counts`, from the loss of each row, (M,)."""
        raise NotImplementedError(f"{type(self).__name__} has no counts_of_values(values)")

    def result(self, counts: Counts) -> float:
        """Return the figure of a sum of counts; NaN if nothing was counted."""
        raise NotImplementedError(f"{type(self).__name__} has no result(counts)")

    def __call__(self, outputs: ArrayLike, labels: ArrayLike, valid: BoolArray | None = None) -> float:
        """Return the figure of one batch. Arguments as in `counts`."""
        return self.result(self.counts(outputs, labels, valid))

    def for_loss(self, loss: Loss) -> Self:
        """Return the metric for a model with this loss, which says what labels and outputs are.

        Raises
        ------
        ValueError
            If it means nothing beside such a loss.
        """
        twin = copy.copy(self)
        vars(twin).update(
            _kind=loss.labels, _distribution=loss.distribution, _logits=bool(getattr(loss, "from_logits", False))
        )
        twin._check_loss(loss)
        return twin

    def _check_loss(self, loss: Loss) -> None:
        """Raise ValueError if the metric means nothing beside `loss`."""

    def check_labels(self, labels: AnyArray, name: str, outputs: int) -> None:
        """Raise ValueError, which calls them `name`, if the labels that count, or the number of outputs, are none
        for this metric."""

    def fuses_with(self, loss: Loss) -> bool:
        """Whether what `fused` names is enough beside this loss."""
        return self.fused is not None


class Function(Configured):
    """A function of yours as a metric: what `compile(metrics=[function])` makes of it.

    It is called once, with all labels and outputs that count: padding is taken out, the rows are in the order of the
    data, and a single output (M, 1) comes as (M,). So it is reported by `evaluate` and, as `"val_"` and its name, after
    each epoch of a `fit` with `validation_data`; of the examples in training it is not.

    Parameters
    ----------
    function : callable
        (y_true, y_pred) -> float: labels (M,), or (M, K) where they are numbers like K outputs, and outputs (M, K). Its
        `__name__` is the metric's.

    Raises
    ------
    TypeError, ValueError
        If it cannot be called or has no name.
    """

    _options = ("function",)

    def __init__(self, function: MetricFunction, called: str = "metric") -> None:
        name = getattr(function, "__name__", None)
        if not callable(function) or not isinstance(name, str):
            raise TypeError(f"{called}: expected a function with a name (def, not partial), got {function!r}")
        self.function, self.name = function, name

    def value(self, labels: AnyArray, outputs: Array) -> float:
        """Return what the function makes of labels and outputs (M, K).

        Raises
        ------
        RuntimeError
            If the function fails, or returns no number; the message names it.
        """
        single = outputs.shape[1] == 1
        if single and labels.ndim == 2:
            labels = labels[:, 0]
        try:
            return float(self.function(labels, outputs[:, 0] if single else outputs))
        except Exception as error:
            raise RuntimeError(f"metric {self.name!r} failed: {type(error).__name__}: {error}") from error


def ratio(total: float, count: float) -> float:
    return total / count if count else float("nan")


def check_zero_or_one(labels: AnyArray, name: str, metric: str) -> None:
    wrong = labels[(labels != 0) & (labels != 1)]
    if wrong.size:
        raise ValueError(f"{name}: metric {metric!r} expected labels 0 and 1, got {wrong.flat[0]}")
