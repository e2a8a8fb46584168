"""Examples of a model with an encoder and a decoder: what one reads, what the other reads, and what it is to say.

The decoder reads `start` and then the target, and is to say the target and then `end`; what comes behind is padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgru.checks import shape_of, shape_text, whole_numbers, without_column
from cgru.layers import Embedding
from cgru.models import examples
from cgru.sequences import Batch, as_batch
from cgru.typing import AnyArray, BoolArray, IntArray, Shape

if TYPE_CHECKING:
    from cgru.models.coupled import EncoderDecoder


class Pair(NamedTuple):
    """What encoder and decoder read. Where a model wants one batch, this is that of the source."""

    source: Batch
    target: Batch  # ids (N, T), from the start on

    @property
    def data(self) -> AnyArray:
        return self.source.data

    @property
    def lengths(self) -> IntArray | None:
        return self.source.lengths

    @property
    def valid(self) -> BoolArray | None:
        return self.source.valid

    def part(self, rows: slice) -> Pair:
        """The pairs of these rows, views."""
        return Pair(self.source.part(rows), self.target.part(rows))

    def take(self, rows: IntArray) -> Pair:
        """The pairs of these rows, each cut to its last valid step."""
        return Pair(self.source.take(rows), self.target.take(rows))


def read(
    model: EncoderDecoder, x: Any, y: Any, options: Mapping[str, Any], like: Pair | None = None
) -> tuple[Pair, Any]:
    """Return (what encoder and decoder read, what the decoder is to say) of what was passed as source and target, or in
    Keras' form. The latter is labels, or with that form whatever `y` is.

    Raises
    ------
    TypeError, ValueError
        If something does not fit.
    """
    inputs = None
    if comes_with_inputs(model, x):
        x, inputs = x
    source = source_of(model, x, options, like)
    count, lengths = len(source.data), options.get("target_lengths")
    if inputs is not None:
        return Pair(source, inputs_of(model, inputs, lengths, count)), y
    target, labels = shifted(model, y, lengths, count)
    return Pair(source, target), labels


def comes_with_inputs(model: EncoderDecoder, x: Any) -> bool:
    """Whether x is Keras' [what the encoder reads, what the decoder reads]: two batches, not two sequences."""
    axes = 2 if isinstance(model.encoder.layers[0], Embedding) else 3
    return isinstance(x, (list, tuple)) and len(x) == 2 and _depth(x[0]) == axes and _depth(x[1]) == 2


def _depth(value: Any) -> int:
    """The number of axes of an array, or of lists of such."""
    if isinstance(value, (list, tuple)) or getattr(value, "dtype", None) == np.dtype(object):
        return 1 + (_depth(value[0]) if len(value) else 0)
    return len(shape_of(value))


def source_of(model: EncoderDecoder, x: Any, options: Mapping[str, Any], like: Any = None) -> Batch:
    """Return what the encoder reads; `like` are data of as many features."""
    validity = options.get("lengths"), options.get("mask")
    return examples.inputs(model.encoder.layers, x, *validity, like=like, name="source", by_batches=True)[0]


def inputs_of(model: EncoderDecoder, inputs: Any, lengths: Any, count: int) -> Batch:
    """Return what the decoder reads, given as such."""
    name = "source[1]"
    batch = as_batch(inputs, lengths, name=name, prefix="target_")
    if batch.data.ndim != 2 or len(batch.data) != count:
        got = shape_text(batch.data.shape)
        raise ValueError(f"{name}: expected ids ({count}, T), what the decoder reads, got {got}")
    first = model.decoder.layers[0]
    first.check_values(batch, name)
    return first.masked(batch)


def shifted(model: EncoderDecoder, target: Any, lengths: Any, count: int) -> tuple[Batch, AnyArray]:
    """Return what the decoder reads, `start` and the target, and what it is to say, the target and `end`.

    Parameters
    ----------
    model : EncoderDecoder
    target, lengths
        As passed: ids without start and end, (N, T), or a list of N arrays (T_i,).
    count : int
        The number of sources.
    """
    batch = target_of(model, target, lengths, count)
    ids, T = batch.data, batch.data.shape[1]
    lengths = np.full(count, T) if batch.lengths is None else batch.lengths
    inputs, labels = np.zeros((2, count, T + 1), np.intp)
    inputs[:, 0], inputs[:, 1:], labels[:, :T] = model.start, ids, ids
    labels[np.arange(count), lengths] = model.end
    read = Batch(inputs) if batch.lengths is None else Batch(inputs, lengths + 1)
    if model.loss is None or model.loss.labels == "classes":
        return read, labels
    return read, np.eye(model.classes)[labels]


def target_of(model: EncoderDecoder, target: Any, lengths: Any, count: int) -> Batch:
    """Return a target as passed, checked; ids at steps that do not count are 0."""
    if target is None:
        raise ValueError("target: expected ids (N, T) or a list of N arrays (T_i,), got None")
    batch = as_batch(target, name="target")
    shape = batch.data.shape
    if len(shape) == 3 and shape[2] == 1:
        batch = batch.with_data(without_column(batch.data, shape[:2]))
    if batch.data.ndim != 2:
        raise ValueError(f"target: expected ids (N, T) or a list of N arrays (T_i,), got {shape_text(shape)}")
    if len(batch.data) != count:
        raise ValueError(f"target: expected {count} rows, as source has, got {len(batch.data)}")
    if lengths is not None:
        given = target if batch.lengths is not None else batch.data
        batch = as_batch(given, lengths, name="target", prefix="target_")
    batch = model.decoder.layers[0].masked(batch)
    if batch.mask is not None:
        raise ValueError("target: expected 0, which is padding by mask_zero=True, behind all other ids, got it before")
    valid = np.ones(batch.data.shape, bool) if batch.valid is None else batch.valid
    ids = np.where(valid, whole_numbers(batch.data, "target", valid), 0)
    _check_ids(model, ids, valid)
    return batch.with_data(ids)


def _check_ids(model: EncoderDecoder, ids: IntArray, valid: BoolArray) -> None:
    limit = model.classes
    for wrong, expected in (
        ((ids < 0) | (ids >= limit), f"ids of at least 0 and less than {limit}, the outputs of the decoder"),
        ((ids == model.start) | (ids == model.end), f"no start {model.start} and no end {model.end}: they are added"),
    ):
        places = np.argwhere(wrong & valid)
        if len(places):
            row, step = places[0].tolist()
            raise ValueError(f"target: expected {expected}, got {ids[row, step]} in row {row}, step {step}")


def output_shape(model: EncoderDecoder, pair: Pair) -> Shape:
    """The shape of the decoder's outputs."""
    return (*pair.target.data.shape, model.classes)
