"""What one batch gives in training: outputs, loss and gradients of a model, and the sums that add up over batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.checks import counted_labels
from cgru.layers import Dense
from cgru.layers.base import valid_rows
from cgru.metrics import Accuracy
from cgru.sequences import Batch
from cgru.typing import Array, IntArray, Parameter, States

if TYPE_CHECKING:
    from cgru.models.training import Trainable


class Run:
    """The forward pass of a batch in training, and what follows from it."""

    def __init__(self, model: Trainable, batch: Batch, labels: IntArray, states: States | None, key: Any) -> None:
        self.model, self.labels = model, labels
        self.outputs, self.states, self.tapes = model._forward(batch, states, training=True, key=key)

    def seen(self, totals: Totals) -> dict[str, tuple[float, int]]:
        return totals.of(self.outputs, self.labels)

    def row_losses(self, count: int) -> Iterable[float]:
        """Yield the loss of each row of the batch."""
        data, valid = self.outputs.data, self.outputs.valid
        for i in range(count):
            one = slice(i, i + 1)
            yield self.model.loss.total(data[one], self.labels[one], None if valid is None else valid[one])[0]

    def gradients(self) -> dict[Parameter, Array]:
        model, outputs, at_logits = self.model, self.outputs, self.model._fuses_loss("backward_batch")
        d = model.loss.gradient(outputs.data, self.labels, outputs.valid, at_logits=at_logits)
        return model._backward(valid_rows(d, outputs.valid, d.dtype) if at_logits else d, self.tapes, at_logits)


class FusedRun:
    """The same where the loss turns the logits of the last layer into their gradient at once."""

    def __init__(self, model: Trainable, batch: Batch, labels: IntArray, states: States | None, key: Any) -> None:
        self.model, last = model, model.layers[-1]
        assert isinstance(last, Dense)
        hidden, after, self.tapes = model._forward(batch, states, training=True, key=key, end=-1)
        self.states: States = [*after, None]
        self.leading, self.valid = hidden.data.shape[:-1], hidden.valid
        self.labels = counted_labels((*self.leading, last.units), labels, self.valid)
        self.d = model._logits_of(len(self.labels), last)
        bias, tape = last.forward_logits(hidden, self.d)
        self.tapes.append(tape)
        self.values: Array
        self.best: IntArray | None
        self.values, self.best = model.loss.replace_logits(self.d, bias, self.labels, classes=bool(model.metrics))

    def seen(self, totals: Totals) -> dict[str, tuple[float, int]]:
        return totals.of_classes(self.values, self.best, self.labels)

    def row_losses(self, count: int) -> Iterable[float]:
        steps = np.ones(self.leading, bool) if self.valid is None else self.valid
        return np.bincount(np.nonzero(steps)[0], self.values, count)

    def gradients(self) -> dict[Parameter, Array]:
        return self.model._backward(self.d, self.tapes, at_logits=True)


class Totals:
    """Sums of loss and metrics over batches."""

    def __init__(self, model: Trainable) -> None:
        self._measures = {"loss": model.loss, **{metric.name: metric for metric in model.metrics}}
        self._sums = {name: [0.0, 0] for name in self._measures}

    def of(self, outputs: Batch, labels: IntArray) -> dict[str, tuple[float, int]]:
        """Return dict name -> (sum, number of terms) of one batch."""
        return {name: measure.total(outputs.data, labels, outputs.valid) for name, measure in self._measures.items()}

    def of_classes(self, values: Array, best: IntArray | None, labels: IntArray) -> dict[str, tuple[float, int]]:
        """The same from the loss of each row that counts, the class of its largest output, and its label."""
        seen = {"loss": (float(values.sum(dtype=np.float64)), len(values))}
        for name, measure in self._measures.items():
            if isinstance(measure, Accuracy) and best is not None:
                seen[name] = measure.total_of_classes(best, labels)
        return seen

    def add(self, seen: Mapping[str, tuple[float, int]]) -> None:
        for name, (total, count) in seen.items():
            self._sums[name][0] += total
            self._sums[name][1] += count

    def means(self) -> dict[str, float]:
        return {name: total / count if count else math.nan for name, (total, count) in self._sums.items()}
