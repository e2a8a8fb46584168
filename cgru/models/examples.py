"""What is passed to a model, checked as a whole and in the caller's words before anything is done with it: inputs, and
the labels for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import as_array, check_label_range, sequence_advice, shape_text, whole_numbers, without_column
from cgru.layers import GRU, Embedding, Layer
from cgru.sequences import Batch, as_batch
from cgru.typing import IntArray, Shape


def inputs(
    layers: Sequence[Layer],
    x: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    like: Batch | None = None,
    name: str = "x",
) -> tuple[Batch, Shape]:
    """Return (Batch, shape of the model's outputs for it).

    Parameters
    ----------
    layers : sequence of Layer
        Of the model, in their order.
    x, lengths, mask
        As passed.
    like : Batch, optional
        Data of as many features are wanted, before a layer was built for them.
    name : str
        What the caller calls `x`.

    Raises
    ------
    TypeError, ValueError
        If a layer cannot take the data.
    """
    first = layers[0]
    # Ids stay integers; everything else is converted to the first layer's type once, here.
    dtype = None if isinstance(first, Embedding) else first.dtype or np.dtype("float32")
    batch = as_batch(x, dtype=dtype, name=name)
    shape, listed = batch.data.shape, batch.lengths is not None
    got = f"a list of {shape_text(('T_i', *shape[2:]))} arrays" if listed else shape_text(shape)
    outputs = output_shape(layers, shape, name, got)
    if like is not None and len(shape) > 1 and not isinstance(first, Embedding) and shape[-1] != like.data.shape[-1]:
        raise ValueError(f"{name}: expected {like.data.shape[-1]} features, as in training, got {got}")
    if lengths is not None or mask is not None:  # now that rows and steps are where they belong
        batch = as_batch(x if listed else batch.data, lengths, mask, dtype=dtype, name=name)
    first.check_values(batch, name)
    return batch, outputs


def output_shape(layers: Sequence[Layer], shape: Shape, name: str, got: str) -> Shape:
    """Return the shape of the outputs for data of `shape`; the ValueError says which layer cannot take what."""
    given = shape
    for i, layer in enumerate(layers):
        expected = layer.expected_shape(shape)
        if expected is not None:
            raise ValueError(_misfit(layers, i, given, shape, expected, name, got))
        shape = layer.output_shape(shape)
    return shape


def title(layers: Sequence[Layer], i: int) -> str:
    """What messages call layer i."""
    return f"layer {i} ({type(layers[i]).__name__})"


def _misfit(layers: Sequence[Layer], i: int, given: Shape, shape: Shape, expected: str, name: str, got: str) -> str:
    who = title(layers, i)
    if i == 0:
        return f"{name}: expected shape {expected} for {who}, got {got}{_advice(layers[0], given, got)}"
    below = f"got {shape_text(shape)} from {title(layers, i - 1)}"
    if not isinstance(layers[i], GRU) or len(shape) == 3:
        return f"{who}: expected {expected}, {below}"
    ends = [j for j in range(i) if isinstance(layers[j], GRU)]
    if ends:
        return f"{who}: expected sequences (N, T, D), {below}: give {title(layers, ends[-1])} return_sequences=True"
    return f"{name}: expected sequences, for {who}, got {got}{_advice(layers[i], given, got)}"


def _advice(layer: Layer, shape: Shape, got: str) -> str:
    """What to write instead, if it can be told from the shape."""
    if not isinstance(layer, GRU):
        return ""
    if got.startswith("a list"):
        return "; a series of one feature is array[:, None]" if len(shape) == 2 else ""
    return sequence_advice(shape, layer.input_size)


def validation_arguments(data: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return x, y and a dict of lengths and mask, of what was passed as `validation_data`."""
    forms = "(x, y) or (x, y, dict(lengths=..., mask=...))"
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        got = f"{len(data)} values" if isinstance(data, (tuple, list)) else type(data).__name__
        raise ValueError(f"validation_data: expected {forms}, got {got}")
    x, y, options = (*data, {})[:3]
    if not isinstance(options, dict):
        raise ValueError(
            f"validation_data: expected {forms}, got {type(options).__name__} as the third: say what it is, "
            "dict(lengths=...) or dict(mask=...); weights of the examples, as Keras has it, are not taken"
        )
    for name in options:
        if name not in ("lengths", "mask"):
            raise ValueError(f"validation_data: expected {forms}, got {name!r} in the dict")
    return x, y, options


# -- labels


def labels(layers: Sequence[Layer], y: ArrayLike, batch: Batch, outputs: Shape, name: str = "y") -> IntArray:
    """Return the labels of a batch, an integer array of the shape of `outputs` without its last axis, checked.

    Parameters
    ----------
    layers : sequence of Layer
        Of the model, in their order.
    y : array_like of integers, or list of arrays (T_i,)
        As passed. Bools and whole floats are taken as well, and a column where a flat array is expected.
    batch : Batch
        The inputs.
    outputs : tuple
        Shape of the model's outputs: (N, K), a label for each example, or (N, T, K), a label for each step.
    name : str
        What the caller calls `y`.

    Raises
    ------
    TypeError, ValueError
        If the labels are not integers, of another shape, or not classes that the model has.
    """
    steps = len(outputs) == 3
    if _is_ragged(y) and steps:
        found = _pad_labels(y, batch, name, padding_first(layers))
    else:
        found = without_column(as_array(y, name, _wanted(outputs)), outputs[:-1])
    if found.shape != outputs[:-1]:
        advice = _label_advice(found.shape, batch, outputs)
        got = shape_text(found.shape) if found.ndim or found.dtype != object else type(y).__name__
        raise ValueError(f"{name}: expected {_wanted(outputs)}, got {got}{advice}")
    valid = batch.valid if steps else None
    if valid is not None and padding_first(layers):
        valid = valid[:, ::-1]
    found = whole_numbers(found, name, valid)
    try:
        check_label_range(found.reshape(-1) if valid is None else found[valid], outputs[-1])
    except ValueError as error:
        raise ValueError(str(error).replace("labels", name, 1)) from None
    return found


def _wanted(outputs: Shape) -> str:
    return f"shape {shape_text(outputs[:-1])}, a label for each {'step' if len(outputs) == 3 else 'example'}"


def _label_advice(shape: Shape, batch: Batch, outputs: Shape) -> str:
    steps = len(outputs) == 3
    if shape == outputs:
        return "; of one-hot rows or probabilities take y.argmax(axis=-1)"
    if steps and shape == batch.data.shape[:1]:
        return "; for a label for each example the last GRU is to have return_sequences=False"
    if not steps and shape == batch.data.shape[:2] and batch.data.ndim > 1 and shape[1:] != (1,):
        return "; for a label for each step every GRU is to have return_sequences=True"
    return ""


def _is_ragged(values: Any) -> bool:
    """Whether `values` is a list of sequences, not an array or a list of numbers."""
    listed = isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.dtype == object)
    return listed and getattr(values, "ndim", 1) > 0 and len(values) > 0 and np.ndim(values[0]) > 0


def _pad_labels(y: Any, batch: Batch, name: str, first: bool) -> IntArray:
    """Return labels (N, T), zero in the padding, from a list of N arrays (T_i,) as long as the sequences; `first`: the
    padding stands before them."""
    steps = batch.data.shape[1]
    expected = np.full(len(batch.data), steps) if batch.lengths is None else batch.lengths
    if len(y) != len(expected):
        raise ValueError(f"{name}: expected {len(expected)} sequences of labels, got {len(y)}")
    numbering = f"classes, labels = np.unique(np.concatenate({name}), return_inverse=True), and split `labels` again"
    found = np.zeros((len(expected), steps), np.intp)
    for i, (row, length) in enumerate(zip(y, expected, strict=True)):
        own = f"{name}[{i}]"
        row = without_column(as_array(row, own), (length,))
        if row.shape != (length,):
            raise ValueError(f"{own}: expected shape ({length},), a label for each step, got {row.shape}")
        own_steps = slice(steps - length, steps) if first else slice(length)
        found[i, own_steps] = whole_numbers(row, own, numbering=numbering)
    return found


def rows_of(layers: Sequence[Layer], batch: Batch, labels: IntArray, rows: IntArray) -> tuple[Batch, IntArray]:
    """Return the batch and the labels of `rows`, both cut to the longest of them."""
    part = batch.take(rows)
    labels = labels[rows]
    return part, labels[:, steps_of(layers, part, labels.shape[1])] if labels.ndim == 2 else labels


def padding_first(layers: Sequence[Layer]) -> bool:
    """Whether outputs come in the opposite order of the inputs: from the last step, behind what pads them."""
    return sum(isinstance(layer, GRU) and layer.go_backwards and layer.return_sequences for layer in layers) % 2 == 1


def steps_of(layers: Sequence[Layer], part: Batch, steps: int) -> slice:
    """Where the outputs of a batch that `Batch.take` has cut stand among those of `steps` steps."""
    cut = part.data.shape[1]
    return slice(steps - cut, steps) if padding_first(layers) else slice(cut)
