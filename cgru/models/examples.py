"""What is passed to a model, checked as a whole and in the caller's words before anything is done with it: inputs here,
labels and weights in targets.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import sequence_advice, shape_text
from cgru.layers import GRU, Conv1D, Embedding, Layer
from cgru.sequences import Batch, as_batch
from cgru.typing import IntArray, Shape

if TYPE_CHECKING:
    from cgru.models.targets import Targets

_LARGE = 1 << 27  # bytes of an array that is converted batch by batch, whatever it costs in time


def inputs(
    layers: Sequence[Layer],
    x: Any,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: Any = None,
    *,
    like: Batch | None = None,
    name: str = "x",
    by_batches: bool = False,
) -> tuple[Batch, Shape]:
    """Return (Batch, shape of the model's outputs for it).

    Parameters
    ----------
    layers : sequence of Layer
        Of the model, in their order.
    x, lengths, mask, resets
        As passed.
    like : Batch, optional
        Data of as many features are wanted, before a layer was built for them.
    name : str
        What the caller calls `x`.
    by_batches : bool
        Whether the caller goes on with batches that `taken` gives him: then large arrays, which may exceed the memory,
        stay as they are.

    Raises
    ------
    TypeError, ValueError
        If a layer cannot take the data.
    """
    first = layers[0]
    dtype = x.dtype if by_batches and _is_large(x) else _input_dtype(layers)  # converted once, here
    batch = as_batch(x, dtype=dtype, name=name)
    shape, listed = batch.data.shape, batch.lengths is not None
    got = f"a list of {shape_text(('T_i', *shape[2:]))} arrays" if listed else shape_text(shape)
    outputs = output_shape(layers, shape, name, got)
    if like is not None and len(shape) > 1 and not isinstance(first, Embedding) and shape[-1] != like.data.shape[-1]:
        raise ValueError(f"{name}: expected {like.data.shape[-1]} features, as in training, got {got}")
    if resets is not None:
        _check_resets(layers, shape, name, got)
    if lengths is not None or mask is not None or resets is not None:  # rows and steps are where they belong
        batch = as_batch(x if listed else batch.data, lengths, mask, resets, dtype=dtype, name=name)
    first.check_values(batch, name)
    return batch, outputs


def _check_resets(layers: Sequence[Layer], shape: Shape, name: str, got: str) -> None:
    """ValueError unless data of `shape` are sequences, and the layers know resets."""
    if len(shape) < (2 if isinstance(layers[0], Embedding) else 3):
        raise ValueError(f"resets: expected sequences beside them, got {name} of shape {got}")
    for i, layer in enumerate(layers):
        refused = layer.refuses_resets()
        if refused is not None:
            raise ValueError(f"resets: expected {refused} in {title(layers, i)}")


def converted(layers: Sequence[Layer], batch: Batch) -> Batch:
    """The batch in the type that the first layer reads."""
    dtype = _input_dtype(layers)
    return batch if dtype in (None, batch.data.dtype) else batch.with_data(batch.data.astype(dtype))


def _input_dtype(layers: Sequence[Layer]) -> np.dtype[Any] | None:
    """The type of the inputs, which is that of the first layer; None for ids, which stay as they are."""
    return None if isinstance(layers[0], Embedding) else dtype_of(layers)


def dtype_of(layers: Sequence[Layer]) -> np.dtype[Any]:
    """The type of the first layer that has one."""
    return next((layer.dtype for layer in layers if layer.dtype is not None), np.dtype("float32"))


def _is_large(x: Any) -> bool:
    """Whether x should not be copied as a whole: it is mapped from a file, or as large as such arrays are."""
    base = x if isinstance(x, np.ndarray) and x.dtype.kind in "fiub" else None
    large = base is not None and base.nbytes > _LARGE
    while isinstance(base, np.ndarray) and not large:
        large, base = isinstance(base, np.memmap), base.base
    return large


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
    if not layers[i]._takes_sequences or len(shape) == 3:
        return f"{who}: expected {expected}, {below}"
    ends = [j for j in range(i) if isinstance(layers[j], GRU)]
    pooled = [j for j in range(i) if layers[j]._takes_sequences and not isinstance(layers[j], GRU)]
    if not ends and pooled:
        return f"{who}: expected sequences (N, T, F), {below}"
    if ends:
        return f"{who}: expected sequences (N, T, D), {below}: give {title(layers, ends[-1])} return_sequences=True"
    if len(given) == 1 and not isinstance(layers[0], GRU):  # an Embedding takes an id each of many, too
        return f"{name}: expected sequences of ids, for {who}, got {got}; one sequence: give {name}[None] or [{name}]"
    return f"{name}: expected sequences, for {who}, got {got}{_advice(layers[i], given, got)}"


def _advice(layer: Layer, shape: Shape, got: str) -> str:
    """What to write instead, if it can be told from the shape."""
    if not isinstance(layer, GRU):
        return ""
    if got.startswith("a list"):
        return "; a series of one feature is array[:, None]" if len(shape) == 2 else ""
    return sequence_advice(shape, layer.input_size)


def forms_of(arguments: Sequence[str]) -> str:
    """How examples are passed as a tuple, for messages."""
    return f"(x, y, dict({', '.join(f'{name}=...' for name in arguments)}))"


def parts_of(data: Any, name: str, arguments: Sequence[str]) -> tuple[Any, Any, dict[str, Any]]:
    """Return x, y and a dict of some of `arguments`, of what was passed as `name`: a tuple of them."""
    forms = f"(x, y) or {forms_of(arguments)}"
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        got = f"{len(data)} values" if isinstance(data, (tuple, list)) else type(data).__name__
        raise ValueError(f"{name}: expected {forms}, got {got}")
    x, y, options = (*data, {})[:3]
    if not isinstance(options, dict):
        raise ValueError(
            f"{name}: expected {forms}, got {type(options).__name__} as the third: say what it is, "
            "dict(lengths=...), dict(mask=...), or dict(sample_weight=...), which Keras means by it"
        )
    for option in options:
        if option not in arguments:
            raise ValueError(f"{name}: expected {forms}, got {option!r} in the dict")
    return x, y, dict(options)


# -- rows


def rows_of(layers: Sequence[Layer], batch: Batch, targets: Targets, rows: IntArray) -> tuple[Batch, Targets]:
    """Return the batch and the targets of `rows`, both cut to the longest of them."""
    part = taken(layers, batch, rows)
    return part, targets.take(rows, steps_of(layers, part, targets.labels.shape[1]) if targets.steps else slice(None))


def taken(layers: Sequence[Layer], batch: Batch, rows: IntArray) -> Batch:
    """Return the batch of `rows`, cut to the longest of them, in the type that the first layer reads."""
    return converted(layers, batch.take(rows))


def padding_first(layers: Sequence[Layer]) -> bool:
    """Whether outputs come in the opposite order of the inputs: from the last step, behind what pads them."""
    first = False
    for layer in layers:
        if isinstance(layer, GRU) and layer.go_backwards and layer.return_sequences:
            first = not first
        elif isinstance(layer, Conv1D) and not layer.keeps_steps:
            first = False
    return first


def output_steps(layers: Sequence[Layer], batch: Batch, masked: bool = False) -> Batch:
    """Return which steps the outputs of a model of sequences have for such inputs: their lengths or mask, around data
    (N, T, 0). With `masked`, without those that the first layer takes for padding because of its values."""
    batch = layers[0].masked(batch) if masked else batch
    steps = batch.with_data(np.empty((*batch.data.shape[:2], 0)))
    for layer in layers:
        steps = layer.output_steps(steps)
    return steps


def steps_of(layers: Sequence[Layer], part: Batch, steps: int) -> slice:
    """Where the outputs of a batch that `Batch.take` has cut stand among those of `steps` steps."""
    cut = output_steps(layers, part).data.shape[1]
    return slice(steps - cut, steps) if padding_first(layers) else slice(cut)
