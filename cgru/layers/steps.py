"""Steps turned and repeated: a batch with time running backwards, and outputs at steps that are not valid."""

from __future__ import annotations

import numpy as np

from cgru.sequences import Batch
from cgru.typing import Array, BoolArray, IntArray


def flipped(batch: Batch) -> Batch:
    """The batch with time running backwards, resets with it; lengths become a mask whose padding comes first."""
    valid = batch.valid
    resets = None if batch.resets is None else batch.resets[:, ::-1]
    return Batch(batch.data[:, ::-1], None, None if valid is None else valid[:, ::-1], resets)


def _last_valid(valid: BoolArray, backwards: bool) -> IntArray:
    """(N, T): the last valid time up to each step in processing order, -1 where there is none."""
    T = valid.shape[1]
    times = np.where(valid, np.arange(T), T if backwards else -1)
    if not backwards:
        return np.maximum.accumulate(times, axis=1)
    last = np.minimum.accumulate(times[:, ::-1], axis=1)[:, ::-1]
    return np.where(last == T, -1, last)


def repeat_last(y: Array, valid: BoolArray, backwards: bool) -> None:
    """Fill the steps of y (N, T, H) that are not valid with the output before them."""
    source = _last_valid(valid, backwards)
    filled = np.take_along_axis(y, np.maximum(source, 0)[:, :, None], axis=1)
    np.copyto(y, filled, where=(source >= 0)[:, :, None])


def gather_repeated(dy: Array, valid: BoolArray, backwards: bool) -> Array:
    """The gradient of the valid outputs when `repeat_last` repeated them."""
    source = _last_valid(valid, backwards)
    rows, times = np.nonzero(source >= 0)
    total = np.zeros_like(dy)
    np.add.at(total, (rows, source[rows, times]), dy[rows, times])
    return total
