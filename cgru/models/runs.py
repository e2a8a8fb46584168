"""What one batch gives in training: outputs, loss and gradients of a model, and the sums that add up over batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.checks import counted_labels
from cgru.layers import Dense
from cgru.layers.rows import valid_rows
from cgru.metrics import Function, Metric
from cgru.metrics.base import Counts
from cgru.models.targets import Targets
from cgru.sequences import Batch
from cgru.typing import AnyArray, Array, IntArray, Parameter, Shape, States

if TYPE_CHECKING:
    from cgru.models.updates import Updatable


class Run:
    """The forward pass of a batch in training, and what follows from it."""

    def __init__(self, model: Updatable, batch: Batch, targets: Targets, states: States | None, key: Any) -> None:
        self.model, self.targets = model, targets
        self.outputs, self.logits, self.states, self.tapes, self.penalty = _forward(
            model, batch, states, training=True, key=key, first=model._first_trained(), recompute=model._recompute
        )

    def seen(self, totals: Totals) -> dict[str, Counts]:
        return with_penalty(totals.of(self.outputs, self.targets, self.logits), self.penalty)

    def row_losses(self, count: int) -> Iterable[float]:
        """Yield the loss of each row of the batch."""
        data, valid, labels, weights = self.outputs.data, self.outputs.valid, self.targets.labels, self.targets.weights
        for i in range(count):
            one = slice(i, i + 1)
            own = None if weights is None else weights[one]
            yield self.model.loss.total(data[one], labels[one], None if valid is None else valid[one], own)[0]

    def gradients(self) -> dict[Parameter, Array]:
        model, outputs, at_logits = self.model, self.outputs, self.model._fuses_loss("backward_batch")
        d = model.loss.gradient(
            outputs.data, self.targets.labels, outputs.valid, self.targets.weights, at_logits=at_logits
        )
        return model._backward(valid_rows(d, outputs.valid, d.dtype) if at_logits else d, self.tapes, at_logits)


def _forward(
    model: Updatable, batch: Batch, states: States | None, **options: Any
) -> tuple[Batch, Array | None, States, list[Any], float]:
    """Return (outputs, logits, states, tapes, penalty): with them the logits (M, K) of what counts, if the loss is
    better computed from those than from what the last layer makes of them, and what the regularizers add to the
    loss."""
    loss = model.loss
    wanted = loss.knows("logit_values") and loss.fused_activation != "linear"  # of which the outputs are logits
    if not wanted or not model._fuses_loss("forward_batch"):
        outputs, after, tapes, penalty = model._forward(batch, states, **options)
        return outputs, None, after, tapes, penalty + model.penalty()
    last = model.layers[-1]
    assert isinstance(last, Dense)
    hidden, after, tapes, penalty = model._forward(batch, states, **options, end=-1)
    outputs, _, _, tape = last.forward_batch(hidden, training=options.get("training", False))
    valid = outputs.valid
    count = outputs.data[..., 0].size if valid is None else np.count_nonzero(valid)
    logits = np.empty((count, last.units), last.dtype)
    bias, _ = last.forward_logits(hidden, logits)
    logits += bias
    return outputs, logits, [*after, None], [*tapes, tape], penalty + model.penalty()


def with_penalty(seen: dict[str, Counts], penalty: float) -> dict[str, Counts]:
    """What a batch gave, with the penalty in the loss: it counts as often as there are terms, as if each had it."""
    if penalty:
        total, count = seen["loss"]
        seen["loss"] = np.array([total + penalty * count, count], np.float64)
    return seen


class FusedRun:
    """The same where the loss turns the logits of the last layer into their gradient at once."""

    def __init__(self, model: Updatable, batch: Batch, targets: Targets, states: States | None, key: Any) -> None:
        self.model, last, loss = model, model.layers[-1], model.loss
        assert isinstance(last, Dense)
        hidden, after, self.tapes, penalty = model._forward(
            batch, states, training=True, key=key, end=-1, first=model._first_trained(), recompute=model._recompute
        )
        self.penalty = penalty + model.penalty()
        self.states: States = [*after, None]
        self.leading, self.valid = hidden.data.shape[:-1], hidden.valid
        shape = (*self.leading, last.units)
        self.labels = counted_labels(shape, targets.labels, self.valid, loss.labels, last.dtype)
        self.weights = targets.weights_of(self.valid)
        self.d = model._logits_of(len(self.labels), last)
        bias, tape = last.forward_logits(hidden, self.d)
        self.tapes.append(tape)
        classes = "classes" in [metric.fused for metric in metrics_of(model)]
        self.values: Array
        self.best: IntArray | Any  # None where no metric asks for it
        self.values, self.best = loss.replace_logits(self.d, bias, self.labels, classes, self.weights)

    def seen(self, totals: Totals) -> dict[str, Counts]:
        seen = totals.of_fused(self.values, self.best, self.labels, self.weights, self.d.shape[1])
        return with_penalty(seen, self.penalty)

    def row_losses(self, count: int) -> Iterable[float]:
        steps = np.ones(self.leading, bool) if self.valid is None else self.valid
        values = self.values if self.weights is None else self.values * self.weights
        return np.bincount(np.nonzero(steps)[0], values, count)

    def gradients(self) -> dict[Parameter, Array]:
        return self.model._backward(self.d, self.tapes, at_logits=True)


def metrics_of(model: Updatable) -> list[Metric]:
    """Those that count, which functions of the user's do not."""
    return [metric for metric in model.metrics if isinstance(metric, Metric)]


class Totals:
    """Sums over batches: of the loss [weighted sum, number of terms], of each metric its counts."""

    def __init__(self, model: Updatable) -> None:
        self._loss, self._metrics = model.loss, metrics_of(model)
        self.sums: dict[str, Counts | None] = dict.fromkeys(["loss", *(metric.name for metric in self._metrics)])

    def begin(self, shape: Shape) -> None:
        """Set out with zeros, for outputs of this shape: the sums have their lengths before anything counts."""
        outputs = np.zeros((1, shape[-1]), np.float32)
        labels: AnyArray = np.zeros(1, np.intp) if self._loss.labels == "classes" else outputs
        with np.errstate(all="ignore"):
            made = {metric.name: metric.counts(outputs, labels) for metric in self._metrics}
        self.sums = {"loss": np.zeros(2), **{name: np.zeros_like(counts) for name, counts in made.items()}}

    @property
    def counted(self) -> dict[str, Counts]:
        """The sums of what was counted."""
        return {name: counts for name, counts in self.sums.items() if counts is not None}

    def of(self, outputs: Batch, targets: Targets, logits: Array | None = None) -> dict[str, Counts]:
        """Return dict name -> counts of one batch. With `logits` (M, K), those of what counts, the loss is computed
        from them."""
        data, valid, labels = outputs.data, outputs.valid, targets.labels
        if logits is None:
            loss = self._loss.total(data, labels, valid, targets.weights)
        else:
            counted = counted_labels(data.shape, labels, valid, self._loss.labels, data.dtype)
            loss = self._loss.sum_of(self._loss.logit_values(logits, counted), targets.weights_of(valid)), len(counted)
        return {
            "loss": np.array(loss, np.float64),
            **{metric.name: metric.counts(data, labels, valid) for metric in self._metrics},
        }

    def of_fused(
        self, values: Array, best: IntArray | Any, labels: AnyArray, weights: Array | None, classes: int
    ) -> dict[str, Counts]:
        """The same from the loss of each row that counts, what its outputs decide for, its label and its weight."""
        seen = {"loss": np.array([self._loss.sum_of(values, weights), len(values)], np.float64)}
        for metric in self._metrics:
            if metric.fused == "values":
                seen[metric.name] = metric.counts_of_values(values)
            else:
                seen[metric.name] = metric.counts_of_classes(best, labels, classes)
        return seen

    def plus(self, seen: Mapping[str, Counts]) -> dict[str, Counts | None]:
        """What the sums are when these counts are added."""
        sums = dict(self.sums)
        for name, counts in seen.items():
            known = sums[name]
            sums[name] = counts if known is None else known + counts
        return sums

    def add(self, seen: Mapping[str, Counts]) -> None:
        self.sums = self.plus(seen)

    def get_state(self) -> dict[str, Array | None]:
        """Return the sums, for `set_state`."""
        return dict(self.sums)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned; ValueError if that was of other measures."""
        if state.keys() != self.sums.keys() or not all(s is None or isinstance(s, np.ndarray) for s in state.values()):
            raise ValueError(f"totals: expected counts of {', '.join(self.sums)}, got {', '.join(state)}")
        self.sums = {name: state[name] for name in self.sums}

    def means(self) -> dict[str, float]:
        """Return the figures, dict name -> float; NaN where nothing was counted."""
        found = {}
        for name, measure in [("loss", None), *((metric.name, metric) for metric in self._metrics)]:
            counts = self.sums[name]
            if counts is None:
                found[name] = float("nan")
            elif measure is None:
                found[name] = float(counts[0] / counts[1]) if counts[1] else float("nan")
            else:
                found[name] = measure.result(counts)
        return found


class Evaluation(Totals):
    """The same where no gradients are wanted, with what functions of the user's make of all outputs."""

    def __init__(self, model: Updatable) -> None:
        super().__init__(model)
        self._model = model
        self._functions = [metric for metric in model.metrics if isinstance(metric, Function)]
        self.sees_all = bool(self._functions)  # with ranks each of them evaluates all examples, not its share
        self._parts: list[tuple[IntArray, AnyArray, Array]] = []  # row in the data, label and outputs of what counts

    def batch(self, batch: Batch, targets: Targets, rows: IntArray, states: States | None) -> States:
        """Run a batch that is made of these rows of the data, and add what it gives; return the states after it."""
        outputs, logits, after, _, penalty = _forward(self._model, batch, states)
        self.add(with_penalty(self.of(outputs, targets, logits), penalty))
        if self._functions:
            data, valid = outputs.data, outputs.valid
            steps = np.ones(data.shape[:-1], bool) if valid is None else valid
            self._parts.append((rows[np.nonzero(steps)[0]], targets.labels[steps], data[steps]))
        return after

    def means(self) -> dict[str, float]:
        found = super().means()
        if self._functions:
            places, labels, outputs = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
            order = np.argsort(places, kind="stable")
            for function in self._functions:
                found[function.name] = function.value(labels[order], outputs[order]) if len(order) else float("nan")
        return found
