"""Which rows of a batch take a step when (kernels/schedule.pxd)."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cgru.typing import Array, BoolArray, IntArray

Indices: TypeAlias = NDArray[np.intp]


class Schedule(NamedTuple):
    """Which rows take a step when (kernels/schedule.pxd). Rows that run out stand last and cost nothing afterwards."""

    rows: Indices | None  # (N,) row of the batch for each sorted row; None: the same
    offsets: Indices | None  # (K + 1,) packed rows before step k; None: k * N
    times: Indices | None  # (M,) time for each packed row; None: k
    steps: int  # M, packed rows
    flip: bool  # the time axis is read backwards


def schedule(
    N: int, T: int, lengths: Indices | None = None, mask: BoolArray | None = None, reverse: bool = False
) -> Schedule:
    """Return the `Schedule` of N rows of T steps, of which those at t < lengths or where mask is True are taken.

    Parameters
    ----------
    lengths : (N,) intp array, optional
    mask : (N, T) bool array, optional
    reverse : bool
        Each row starts at its own last valid step.
    """
    if lengths is not None:
        taken = lengths  # steps of each row
    elif mask is not None:
        taken = mask.sum(axis=1, dtype=np.intp)
    else:
        return Schedule(None, None, None, N * T, reverse)
    if (taken == T).all():
        return Schedule(None, None, None, N * T, reverse)
    rows, offsets = longest_first(taken)
    times = None
    if reverse or mask is not None:
        i, times = own_steps(rows, offsets, taken, reverse)
        if mask is not None:
            valid_times = np.nonzero(mask)[1]
            first = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
            times = valid_times[first[i] + times].astype(np.intp)
    in_order = (rows == np.arange(N)).all()
    return Schedule(None if in_order else rows, offsets, times, int(offsets[-1]), False)


def longest_first(taken: IntArray) -> tuple[Indices, Indices]:
    """Return `rows` and `offsets` of the `Schedule` of rows that take so many steps each."""
    rows = np.argsort(-taken, kind="stable")
    ending = taken[rows[::-1]]
    K = int(taken.max(initial=0))
    counts = len(taken) - np.searchsorted(ending, np.arange(K), side="right")
    return rows, np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)


def own_steps(rows: Indices, offsets: Indices, taken: IntArray, reverse: bool) -> tuple[Indices, Indices]:
    """Return (row, which of its own steps, in the order of the batch) of each packed row."""
    k = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    i = rows[np.arange(offsets[-1]) - offsets[k]]
    return i, (taken[i] - 1 - k if reverse else k).astype(np.intp)


def packed_schedule(counts: Indices, reverse: bool = False) -> Schedule:
    """The `Schedule` of arrays that are in packed order themselves: all rows of step 0, those left at step 1, and so
    on, as in PyTorch's PackedSequence. They go into the passes as `packed_view`s.

    Parameters
    ----------
    counts : (K,) intp array
        Rows at each step, at least one and never more than before.
    reverse : bool
        Each row starts at its own last step.
    """
    K, N = len(counts), int(counts[0])
    if counts[-1] == N:
        return Schedule(None, None, None, N * K, reverse)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    times = np.arange(offsets[-1])
    if reverse:
        k = np.repeat(np.arange(K), counts)  # of each packed row: its step and its row
        i = times - offsets[k]
        last = K - 1 - np.searchsorted(counts[::-1], np.arange(N), side="right")
        times = offsets[last[i] - k] + i
    return Schedule(None, offsets, times, len(times), False)


def packed_view(array: Array, counts: Indices) -> Array:
    """A C-contiguous array (M, F) in packed order as a batch: with N rows of K times where all are of one length, else
    with M times that no two rows share."""
    N, F = int(counts[0]), array.shape[1]
    if counts[-1] == N:
        return array.reshape(len(counts), N, F).swapaxes(0, 1)
    return np.ndarray((N, *array.shape), array.dtype, array, strides=(0, *array.strides))
