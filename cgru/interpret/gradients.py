"""What the gradient of an output with respect to the inputs tells."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import shape_text
from cgru.interpret.case import Case
from cgru.models import Sequential
from cgru.typing import Array, ArrayOrList


def saliency(
    model: Sequential,
    x: ArrayLike,
    target: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    step: SupportsIndex | None = None,
    logits: bool = False,
    batch_size: SupportsIndex = 32,
) -> ArrayOrList:
    """Return the gradient of one output of each sequence with respect to its input: how it changes with each number.

    Parameters
    ----------
    model : Sequential
    x, lengths, mask
        Inputs as for `Sequential.predict`.
    target : int, or array_like of N ints; optional
        Which output (a class, of a classifier) is explained. None is the largest one of each sequence.
    step : int, optional
        Of a model with an output at each step: the step whose output is explained. None is the last one of each
        sequence.
    logits : bool
        Whether to explain what goes into the softmax or sigmoid of the last layer, a Dense, instead of what comes out,
        whose gradient vanishes where the model is sure.
    batch_size : int
        Sequences at a time.

    Returns
    -------
    ndarray of the shape of x, or list of arrays
        Zero where a row takes no step; a list of (T_i, D) arrays for a list of sequences. Of ids, which an Embedding
        reads: the norm of the gradient of each embedded vector, (N, T).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.

    Notes
    -----
    K. Simonyan, A. Vedaldi, A. Zisserman 2014, arXiv:1312.6034.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> model = cgru.Sequential([cgru.GRU(8), cgru.Dense(2, activation="softmax")], seed=0)
    >>> x = np.random.default_rng(0).standard_normal((4, 10, 3))
    >>> cgru.interpret.saliency(model, x, target=1).shape
    (4, 10, 3)
    """
    case = Case(model, x, lengths, mask, batch_size)
    case.choose(target, step, logits)
    parts = ((chunk.rows, case.gradient(chunk, *case.forward(chunk))) for chunk in case.chunks())
    if case.embeds:
        parts = ((rows, np.sqrt(np.square(part).sum(axis=-1))) for rows, part in parts)
    with np.errstate(all="ignore"):  # what is not finite stays in its own row
        return case.spread(parts)


def gradient_norm_by_distance(
    model: Sequential,
    x: ArrayLike,
    target: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    step: SupportsIndex | None = None,
    logits: bool = False,
    batch_size: SupportsIndex = 32,
) -> Array:
    """Return how far back the gradient of the last output reaches: its norm with respect to the input k steps before.

    Parameters
    ----------
    model, x, target, lengths, mask, step, logits, batch_size
        As in `saliency`; distances count from `step`, or from the last step of the input.

    Returns
    -------
    ndarray of shape (K,), float64
        At k the mean, over the sequences that are long enough, of the norm of the gradient with respect to the input
        (or the embedded vector) k steps before the last one; 0 is the last itself. Only steps that are valid count.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or there is no axis of time.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> model = cgru.Sequential([cgru.GRU(8), cgru.Dense(1)], seed=0)
    >>> x = np.random.default_rng(0).standard_normal((4, 50, 3))
    >>> norms = cgru.interpret.gradient_norm_by_distance(model, x)
    >>> norms.shape, bool(norms[0] > norms[40])
    ((50,), True)
    """
    case = Case(model, x, lengths, mask, batch_size)
    case.choose(target, step, logits)
    if case.batch.data.ndim < (2 if case.embeds else 3):
        raise ValueError(f"x: expected sequences, got shape {shape_text(case.batch.data.shape)}")
    sums, counts = np.zeros((2, case.batch.data.shape[1]))
    for chunk in case.chunks():
        gradient = case.gradient(chunk, *case.forward(chunk))
        norms = np.sqrt(np.square(gradient, dtype=np.float64).sum(axis=-1))
        valid = np.ones(norms.shape, bool) if chunk.inputs.valid is None else chunk.inputs.valid
        ends = case.input_steps(chunk)
        if ends is not None:
            valid = valid & (np.arange(norms.shape[1]) <= ends[:, None])
        distances = (valid[:, ::-1].cumsum(axis=1)[:, ::-1] - 1)[valid]
        np.add.at(sums, distances, norms[valid])
        np.add.at(counts, distances, 1)
    reached = counts > 0
    return sums[reached] / counts[reached]
