"""What a model is trained towards, checked as a whole and in the caller's words before anything is done with it: labels
of the kind that the loss wants, and what each of them weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import (
    as_array,
    check_finite,
    check_int,
    check_label_range,
    check_unit_range,
    counted_weights,
    like_outputs,
    real_numbers,
    shape_of,
    shape_text,
    whole_numbers,
    without_column,
)
from cgru.layers import Layer
from cgru.layers.rows import counts_of
from cgru.losses import Loss
from cgru.models.examples import output_steps, padding_first
from cgru.sequences import Batch
from cgru.typing import AnyArray, Array, BoolArray, ClassWeight, IntArray, Shape


@dataclass(frozen=True)
class Targets:
    """Labels, and their weights if they have any."""

    labels: AnyArray  # classes (N,) or (N, T); or values (N, K) or (N, T, K)
    weights: Array | None = None  # (N,) or (N, T)
    steps: bool = False  # whether there is an axis of time

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: IntArray | slice, steps: slice) -> Targets:
        """The targets of these rows, and of these steps if there are any."""
        labels, weights = self.labels[rows], None if self.weights is None else self.weights[rows]
        if self.steps:
            labels = labels[:, steps]
            if weights is not None and weights.ndim == 2:
                weights = weights[:, steps]
        return Targets(labels, weights, self.steps)

    def weights_of(self, valid: BoolArray | None) -> Array | None:
        """The weights (M,) of what counts, None if there are none; they were checked when the targets were made."""
        weights = self.weights
        if weights is None:
            return None
        if self.steps and weights.ndim == 1:
            weights = np.broadcast_to(weights[:, None], self.labels.shape[:2])
        return weights.reshape(-1) if valid is None else weights[valid]


def targets(
    layers: Sequence[Layer],
    loss: Loss,
    metrics: Sequence[Any],
    y: ArrayLike,
    batch: Batch,
    outputs: Shape,
    sample_weight: ArrayLike | None = None,
    class_weight: ClassWeight | None = None,
    name: str = "y",
    whole: bool = True,
) -> Targets:
    """Return the targets of examples.

    Parameters
    ----------
    layers : sequence of Layer
        Of the model, in their order.
    loss, metrics
        Of the model.
    y : array_like, or list of arrays
        As passed: integers (N,) or (N, T), or a list of N arrays (T_i,), for a loss of classes, bools and whole floats
        as well; for other losses numbers of the shape of the outputs, whose last axis may lack if it is 1, or a list of
        N arrays (T_i, K). A column is taken where a flat array is expected.
    batch : Batch
        The inputs.
    outputs : tuple
        Shape of the model's outputs: (N, K), or (N, T, K) for an output at each step.
    sample_weight : array_like (N,), or of the steps (N, T) or N arrays (T_i,); optional
    class_weight : dict class -> weight, or "balanced"; optional
    name : str
        What the caller calls `y`.
    whole : bool
        Whether these are all examples: one batch of them may lack a class, or weigh nothing.

    Raises
    ------
    TypeError, ValueError
        If labels or weights do not fit.
    """
    steps = len(outputs) == 3
    valid = output_steps(layers, batch, masked=True).valid if steps else None
    labels = _labels(layers, loss, y, batch, outputs, valid, name)
    counted = labels if valid is None else labels[valid]
    for metric in metrics:
        if hasattr(metric, "check_labels"):
            rows = counted.reshape(-1, outputs[-1]) if loss.labels == "values" else counted.reshape(-1)
            metric.check_labels(rows, name, outputs[-1])
    weights = None
    if sample_weight is not None:
        weights = _sample_weights(layers, sample_weight, batch, outputs, valid)
        if whole:
            _check_not_all_zero(weights, valid, "sample_weight")
    if class_weight is not None:
        own = _class_weights(class_weight, loss, labels, outputs, valid, name, whole)
        weights = own if weights is None else own * (weights[:, None] if weights.ndim < own.ndim else weights)
        if whole:
            names = "class_weight" if sample_weight is None else "sample_weight, class_weight"
            _check_not_all_zero(weights, valid, names)
    return Targets(labels, weights, steps)


# -- labels


def _labels(
    layers: Sequence[Layer],
    loss: Loss,
    y: ArrayLike,
    batch: Batch,
    outputs: Shape,
    valid: BoolArray | None,
    name: str,
) -> AnyArray:
    """Return the labels: classes of the shape of `outputs` without its last axis, or values of its shape."""
    steps, values = len(outputs) == 3, loss.labels == "values"
    if _is_ragged(y) and steps:
        found = _pad_labels(y, layers, batch, outputs, loss, name)
    else:
        try:
            found = as_array(y, name, _wanted(outputs, values))
        except ValueError as error:
            if steps or not str(error).endswith("of unequal lengths"):
                raise
            advice = "for a label for each step every GRU is to have return_sequences=True"
            raise ValueError(f"{error}; {advice}") from None
    if values and found.ndim and found.dtype.kind not in "fiub":  # text says more than its shape
        real_numbers(found, name, mapping=_mapping(loss, name))
    found = like_outputs(found, outputs) if values else without_column(found, outputs[:-1])
    if found.shape != (outputs if values else outputs[:-1]):
        got = shape_text(found.shape) if found.ndim else type(y).__name__
        raise ValueError(
            f"{name}: expected {_wanted(outputs, values)}, got {got}{_advice(found, batch, outputs, values, loss)}"
        )
    if not values:
        classes = whole_numbers(found, name, valid)
        check_label_range(classes.reshape(-1) if valid is None else classes[valid], outputs[-1], name)
        return classes
    dtype = next((layer.dtype for layer in reversed(layers) if layer.dtype is not None), None)
    numbers = real_numbers(found, name, dtype, valid, _mapping(loss, name))
    if loss.distribution is not None:
        check_unit_range(numbers if valid is None else numbers[valid], name)
    return numbers


def _mapping(loss: Loss, name: str) -> str | None:
    """The code that makes labels of such a loss from labels of another type."""
    if loss.distribution is None:
        return None
    one_hot = f"; {name} = np.eye(len(classes))[{name}]" if loss.distribution == "categorical" else ""
    return f"classes, {name} = np.unique({name}, return_inverse=True){one_hot}"


def _wanted(outputs: Shape, values: bool) -> str:
    one = "step" if len(outputs) == 3 else "example"
    if not values:
        return f"shape {shape_text(outputs[:-1])}, a label for each {one}"
    if outputs[-1] == 1:
        return f"shape {shape_text(outputs[:-1])} or {shape_text(outputs)}, a number for each {one}"
    return f"shape {shape_text(outputs)}, {outputs[-1]} numbers for each {one}"


def _advice(found: AnyArray, batch: Batch, outputs: Shape, values: bool, loss: Loss) -> str:
    shape, steps = found.shape, len(outputs) == 3
    if not values and shape == outputs:
        return "; of one-hot rows or probabilities take y.argmax(axis=-1), or the loss 'categorical_crossentropy'"
    if values and shape in (outputs[:-1], (*outputs[:-1], 1)):
        if loss.distribution == "categorical":
            return "; for class numbers take the loss 'sparse_categorical_crossentropy'"
        return "; for one number the last layer is Dense(1)"
    flat = shape[:-1] if values and shape[-1:] == outputs[-1:] else shape
    if steps and flat == batch.data.shape[:1]:
        return "; for a label for each example the last GRU is to have return_sequences=False"
    if not steps and flat == batch.data.shape[:2] and batch.data.ndim > 1 and flat[1:] != (1,):
        return "; for a label for each step every GRU is to have return_sequences=True"
    return ""


def _is_ragged(values: Any) -> bool:
    """Whether `values` is a list of sequences, not an array or a list of numbers."""
    listed = isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.dtype == object)
    return listed and getattr(values, "ndim", 1) > 0 and len(values) > 0 and len(shape_of(values[0])) > 0


def _pad_labels(y: Any, layers: Sequence[Layer], batch: Batch, outputs: Shape, loss: Loss, name: str) -> AnyArray:
    """Return labels (N, T), or (N, T, K) of values, zero in the padding, from a list of N arrays (T_i, ...)."""
    number = f"classes, labels = np.unique(np.concatenate({name}), return_inverse=True), and split `labels` again"
    values, K = loss.labels == "values", outputs[-1]

    def checked(row: AnyArray, own: str, length: int) -> AnyArray:
        row = like_outputs(row, (length, K)) if values else without_column(row, (length,))
        expected = (length, K) if values else (length,)
        if row.shape != expected and not (values and row.shape == (0,)):  # [] is of any kind
            raise ValueError(f"{own}: expected shape {shape_text(expected)}, a label for each step, got {row.shape}")
        if values:
            return real_numbers(row, own, None, None, _mapping(loss, own)).reshape(expected)
        return whole_numbers(row, own, numbering=number)

    trailing, dtype = ((K,), np.float64) if values else ((), np.intp)
    return _padded(y, layers, batch, name, "labels", trailing, dtype, checked)


def _padded(
    rows: Any, layers: Sequence[Layer], batch: Batch, name: str, what: str, trailing: Shape, dtype: Any, checked: Any
) -> AnyArray:
    """Return (N, T, ...), zero in the padding, from a list of N arrays as long as the sequences that the model makes of
    the batch. `checked` takes an array, its name and its length."""
    out, first = output_steps(layers, batch), padding_first(layers)
    steps = out.data.shape[1]
    lengths = np.full(len(batch.data), steps) if batch.lengths is None else counts_of(out)
    if len(rows) != len(lengths):
        raise ValueError(f"{name}: expected {len(lengths)} sequences of {what}, got {len(rows)}")
    padded = np.zeros((len(lengths), steps, *trailing), dtype)
    for i, (row, length) in enumerate(zip(rows, lengths.tolist(), strict=True)):
        own = f"{name}[{i}]"
        padded[i, slice(steps - length, steps) if first else slice(length)] = checked(as_array(row, own), own, length)
    return padded


# -- weights


def _sample_weights(
    layers: Sequence[Layer], sample_weight: Any, batch: Batch, outputs: Shape, valid: BoolArray | None
) -> Array:
    """Return the weights as passed, (N,) or (N, T) in float64, zero where no step is."""
    name, shape = "sample_weight", outputs[:-1]
    if _is_ragged(sample_weight) and len(shape) == 2:

        def checked(row: AnyArray, own: str, length: int) -> AnyArray:
            row = without_column(row, (length,))
            if row.shape != (length,):
                raise ValueError(f"{own}: expected shape ({length},), a weight for each step, got {row.shape}")
            return counted_weights(row, (length,), None, own)

        weights = _padded(sample_weight, layers, batch, name, "weights", (), np.float64, checked)
    else:
        weights = without_column(as_array(sample_weight, name), shape)
        if shape[1:] != (1,):
            weights = without_column(weights, shape[:1])
        if weights.shape not in (shape, shape[:1]):
            each = f", or {shape_text(shape)}, one for each step" if len(shape) == 2 else ""
            got = shape_text(weights.shape) if weights.ndim else type(sample_weight).__name__
            raise ValueError(
                f"{name}: expected shape {shape_text(shape[:1])}, a weight for each example{each}, got {got}"
            )
        known = valid if weights.ndim == 2 else None
        counted_weights(weights, weights.shape, known, name)
        weights = (weights if known is None else np.where(known, weights, 0)).astype(np.float64)
    return weights


def _class_weights(
    class_weight: Any, loss: Loss, labels: AnyArray, outputs: Shape, valid: BoolArray | None, name: str, whole: bool
) -> Array:
    """Return the weight of the class of each label, (N,) or (N, T); 0 where no step is."""
    numbers, K = _classes_of(labels, loss, outputs)
    counted = (numbers.reshape(-1) if valid is None else numbers[valid]).astype(np.intp)
    counts = np.bincount(counted, minlength=K)
    if isinstance(class_weight, str) and class_weight == "balanced":
        if not whole:
            raise ValueError("class_weight: 'balanced' counts the classes of all examples, got one batch; give a dict")
        never = np.flatnonzero(counts == 0)
        if len(never):
            raise ValueError(
                f"class_weight: 'balanced' expected every class in {name}, got none of {never[0]}; a dict gives a "
                "weight to those that occur"
            )
        table = len(counted) / (K * counts)
    elif isinstance(class_weight, Mapping):
        table = np.ones(K)
        for key, weight in class_weight.items():
            if isinstance(key, str):
                raise TypeError(f"class_weight: expected the classes as numbers, as in {name}, got {key!r}")
            label = check_int(key, "class_weight, a class")
            if label >= K:
                raise ValueError(f"class_weight: expected classes from 0 to {K - 1}, got {label}")
            table[label] = check_finite(weight, f"class_weight[{label}]", 0)
            if whole and not counts[label]:
                raise ValueError(f"class_weight: class {label} never occurs in {name}")
    else:
        got = f"{class_weight!r}" if isinstance(class_weight, str) else type(class_weight).__name__
        advice = "; give dict(enumerate(weights))" if isinstance(class_weight, (list, tuple, np.ndarray)) else ""
        raise TypeError(f"class_weight: expected a dict class -> weight or 'balanced', got {got}{advice}")
    weights = np.zeros(numbers.shape)
    weights[... if valid is None else valid] = table[counted].reshape(numbers.shape if valid is None else -1)
    return weights


def _classes_of(labels: AnyArray, loss: Loss, outputs: Shape) -> tuple[AnyArray, int]:
    """Return the class of each label, of the shape of the outputs without its last axis, and their number."""
    if loss.labels == "classes":
        return labels, outputs[-1]
    if loss.distribution == "categorical":
        return labels.argmax(axis=-1), outputs[-1]
    if loss.distribution == "binary" and outputs[-1] == 1:
        if ((labels != 0) & (labels != 1)).any():
            raise ValueError(f"class_weight: expected labels 0 and 1, got {labels[(labels != 0) & (labels != 1)][0]}")
        return labels[..., 0], 2
    several = f" of {outputs[-1]} outputs" if loss.distribution == "binary" else ""
    raise ValueError(
        f"class_weight: expected a loss of classes, got {loss.name!r}{several}: give each example its sample_weight"
    )


def _check_not_all_zero(weights: Array, valid: BoolArray | None, name: str) -> None:
    if valid is not None:
        weights = np.broadcast_to(weights if weights.ndim == 2 else weights[:, None], valid.shape)[valid]
    if weights.size and not weights.any():
        raise ValueError(f"{name}: expected some weight above 0, got zeros alone")
