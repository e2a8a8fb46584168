"""The valid steps of a batch as rows, one sequence after the other, and sums over them.

Every sum runs over its terms in order, in one chain, so results depend on no padding, no batch and no thread.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cgru import kernels
from cgru.sequences import Batch, acting
from cgru.typing import AnyArray, Array, BoolArray, IntArray, Shape

_TILE = 0  # the route of products that sum in order


def valid_rows(data: AnyArray, valid: BoolArray | None, dtype: np.dtype[Any]) -> Array:
    """Return the valid steps of `data` (..., F) as C-contiguous rows (M, F) of `dtype`; valid None means every step."""
    rows = data.reshape(-1, data.shape[-1]) if valid is None else data[valid]
    return np.ascontiguousarray(rows, dtype)


def from_valid_rows(rows: Array, leading: Shape, valid: BoolArray | None) -> Array:
    """Return (*leading, F) with `rows` (M, F) at the valid steps and zero elsewhere; valid None means every step."""
    shape = (*leading, rows.shape[-1])
    if valid is None:
        return rows.reshape(shape)
    data = np.zeros(shape, rows.dtype)
    data[valid] = rows
    return data


class Rows(NamedTuple):
    """The M valid steps of the N sequences of a batch."""

    data: Array  # (M, F)
    counts: IntArray  # (N,): how many of them each sequence has
    shape: Shape  # (N, T, F), of the batch
    valid: BoolArray | None  # (N, T); None means every step

    @property
    def owners(self) -> IntArray:
        """(M,): which sequence each row is of."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @property
    def starts(self) -> IntArray:
        """(N,): where the rows of each sequence begin."""
        return np.cumsum(self.counts) - self.counts


def rows_of(batch: Batch, dtype: np.dtype[Any]) -> Rows:
    """Return the rows of a batch (N, T, F); what is not valid is not read."""
    return Rows(valid_rows(batch.data, batch.valid, dtype), counts_of(batch), batch.data.shape, batch.valid)


def counts_of(batch: Batch) -> IntArray:
    """(N,): the number of valid steps of each sequence."""
    if batch.lengths is not None:
        return batch.lengths
    N, T = batch.data.shape[:2]
    return np.full(N, T, np.intp) if batch.mask is None else batch.mask.sum(axis=1, dtype=np.intp)


def segment_counts(batch: Batch) -> IntArray:
    """The numbers of valid steps between resets, of the sequences one after the other."""
    counts = counts_of(batch)
    if batch.resets is None:
        return counts
    cut = acting(batch.resets, batch.valid)
    cut = (cut if batch.valid is None else cut[batch.valid]).reshape(-1).copy()
    begins = (np.cumsum(counts) - counts)[counts > 0]
    cut[begins] = True
    return np.diff(np.flatnonzero(cut), append=len(cut))


def sums_by_owner(terms: Array, owners: IntArray, N: int) -> Array:
    """(N, F): the sum of the terms (M, F) of each sequence, in their order. Sequences may have very many steps, of
    which single precision would lose the small ones: the sum is rounded once."""
    total = np.zeros((N, terms.shape[1]))
    kernels.scatter_add(total, owners, None, np.ascontiguousarray(terms, np.float64), kernels.get_num_threads())
    return total.astype(terms.dtype, copy=False)


def row_sums(terms: Array) -> Array:
    """(M, 1): the sum of each row of `terms` (M, F)."""
    return product(terms, np.ones((terms.shape[1], 1), terms.dtype))


def column_sums(terms: Array) -> Array:
    """(F,): the sum of each column of `terms` (M, F)."""
    return product(np.ones((1, len(terms)), terms.dtype), terms)[0]


def product(a: Array, b: Array) -> Array:
    """a b, each element one sum in order, whatever backend is in use."""
    if 0 in a.shape or 0 in b.shape:
        return np.zeros((len(a), b.shape[1]), a.dtype)
    c = np.empty((len(a), b.shape[1]), a.dtype)
    kernels.multiply(a, b, c, None, False, _TILE, kernels.get_num_threads())
    return c
