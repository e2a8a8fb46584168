"""What the gradient of an output with respect to the inputs tells."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import check_int, check_positive, shape_text
from cgru.interpret.case import Case, Chunk, cleaned
from cgru.models import Sequential
from cgru.sequences import Batch, as_batch
from cgru.typing import Array, ArrayOrList, IntArray


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
    return case.spread(
        (chunk.rows, case.of_inputs(case.gradient(*case.forward(chunk.inputs, chunk.states), chunk)))
        for chunk in case.chunks()
    )


def integrated_gradients(
    model: Sequential,
    x: ArrayLike,
    target: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    baseline: ArrayLike | None = None,
    steps: SupportsIndex = 32,
    step: SupportsIndex | None = None,
    logits: bool = False,
    tolerance: float = 1e-3,
    batch_size: SupportsIndex = 32,
) -> ArrayOrList:
    """Return what each number of the input adds to one output, compared with a baseline.

    The contributions of a sequence add up to f(x) - f(baseline): it is the gradient along the straight way from the
    baseline to x, integrated by the Gauss-Legendre rule.

    Parameters
    ----------
    model, x, target, lengths, mask, step, logits, batch_size
        As in `saliency`. A target of None is the largest output at x.
    baseline : array_like, optional
        What stands for "nothing to see": a number, (D,), (T, D), (N, T, D), or a list like x; None is zero. Before an
        Embedding ids, one or for each step, of which the embedded vectors count; None is the zero vector.
    steps : int
        Points of the rule.
    tolerance : float
        A sum may be off by so much, in units of the sum of the absolute contributions of its sequence; with more there
        is a warning.

    Returns
    -------
    ndarray of the shape of x, or list of arrays
        Zero where a row takes no step. Of ids (N, T): the sum over each embedded vector.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.

    Warns
    -----
    RuntimeWarning
        If the contributions of a sequence add up to something else: more `steps` help where the outputs are smooth.

    Notes
    -----
    M. Sundararajan, A. Taly, Q. Yan 2017, arXiv:1703.01365. The sums run in float64, whatever the model's type.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> model = cgru.Sequential([cgru.GRU(8), cgru.Dense(1)], seed=0)
    >>> x = np.random.default_rng(0).standard_normal((4, 10, 3))
    >>> parts = cgru.interpret.integrated_gradients(model, x)
    >>> change = model(x) - model(np.zeros_like(x))
    >>> bool(np.allclose(parts.sum(axis=(1, 2)), change[:, 0], atol=1e-5))
    True
    """
    case = Case(model, x, lengths, mask, batch_size)
    case.choose(target, step, logits)
    start_of = _starts(case, baseline)
    places, weights = np.polynomial.legendre.leggauss(check_int(steps, "steps", 1))
    tolerance = check_positive(tolerance, "tolerance")
    gaps: list[tuple[float, int, float, float]] = []  # (relative gap, row, sum, what it should be)

    def contributions() -> Iterator[tuple[IntArray, Array]]:
        for chunk in case.chunks():
            inputs, states = chunk.inputs, chunk.states
            valid = inputs.valid
            end = cleaned(inputs.data, valid)
            start = cleaned(start_of(chunk), valid)
            value, tapes = case.forward(inputs.with_data(end), states)
            case.gradient(value, tapes, chunk)  # settles which output it is
            total = np.zeros(end.shape)
            for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
                between = (start + place * (end - start)).astype(end.dtype)
                total += weight * case.gradient(*case.forward(inputs.with_data(between), states), chunk)
            total *= end - start
            change = chunk.chosen(value) - chunk.chosen(case.forward(inputs.with_data(start), states)[0])
            sums = total.reshape(len(total), -1)
            for row, found, wanted, scale in zip(chunk.rows, sums.sum(1), change, np.abs(sums).sum(1), strict=True):
                if not abs(found - wanted) <= tolerance * scale:
                    gaps.append((abs(found - wanted) / (scale or 1), int(row), float(found), float(wanted)))
            parts = total.sum(axis=-1) if case.embeds else total
            yield chunk.rows, parts.astype(end.dtype)

    found = case.spread(contributions())
    if gaps:
        _, row, total, wanted = max(gaps)
        warnings.warn(
            f"integrated_gradients: the contributions of {len(gaps)} of {len(case.batch.data)} sequences miss the "
            f"change of the output by more than tolerance = {tolerance:g}; of row {row} they add up to {total:.6g} "
            f"instead of {wanted:.6g}. More steps help where the outputs are smooth",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


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
        As in `saliency`; distances count from `step`.

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
        gradient = case.gradient(*case.forward(chunk.inputs, chunk.states), chunk)
        norms = np.sqrt(np.square(gradient, dtype=np.float64).sum(axis=-1))
        valid = np.ones(norms.shape, bool) if chunk.inputs.valid is None else chunk.inputs.valid
        if chunk.steps is not None:
            valid = valid & (np.arange(norms.shape[1]) <= case.input_steps(chunk)[:, None])
        distances = (valid[:, ::-1].cumsum(axis=1)[:, ::-1] - 1)[valid]
        np.add.at(sums, distances, norms[valid])
        np.add.at(counts, distances, 1)
    reached = counts > 0
    return sums[reached] / counts[reached]


# -- baselines


def _starts(case: Case, baseline: Any) -> Callable[[Chunk], Array]:
    """Return a function that gives where the way to each input of a chunk begins, like `Chunk.inputs`."""
    if baseline is None:
        return lambda chunk: np.zeros(chunk.inputs.data.shape, chunk.inputs.data.dtype)
    batch = case.batch
    given = as_batch(baseline, name="baseline")
    if given.lengths is not None and not np.array_equal(given.lengths, _lengths(batch)):
        raise ValueError("baseline: expected sequences as long as those of x, got others")
    if case.embeds and given.data.dtype.kind not in "iu":
        raise TypeError(f"baseline: expected integer ids, as x has, got dtype {given.data.dtype}")
    try:
        whole = np.broadcast_to(given.data, batch.data.shape)
    except ValueError:
        shapes = f"{shape_text(batch.data.shape)}, that of x, or one that broadcasts to it"
        raise ValueError(f"baseline: expected shape {shapes}, got {shape_text(given.data.shape)}") from None
    case.layers[0].check_values(batch.with_data(whole), "baseline")

    def start_of(chunk: Chunk) -> Array:
        data = whole[chunk.rows]
        if data.ndim > 1 and chunk.part.data.ndim == data.ndim:
            data = data[:, : chunk.part.data.shape[1]]
        if case.embeds:
            return case.layers[0].record_batch(chunk.part.with_data(data))[0].data
        return data.astype(chunk.inputs.data.dtype, copy=False)

    return start_of


def _lengths(batch: Batch) -> IntArray:
    if batch.lengths is not None:
        return batch.lengths
    return np.full(len(batch.data), batch.data.shape[1]) if batch.data.ndim > 1 else np.zeros(0, int)
