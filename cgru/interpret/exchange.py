"""What a model loses when a feature comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import metrics
from cgru.checks import check_bool, check_int
from cgru.interpret.case import Case
from cgru.metrics import Function, Metric
from cgru.models import Sequential, examples
from cgru.models.targets import targets
from cgru.typing import AnyArray, Array, BoolArray, IntArray, MetricFunction, MetricName

_ERRORS = ("mse", "mae", "perplexity")  # metrics of which less is better


class Importance(NamedTuple):
    """What `permutation_importance` found."""

    mean: Array  # (D,) what the metric loses, on average, without the feature
    std: Array  # (D,) and how much that varies
    drops: Array  # (D, repeats)
    score: float  # of the metric on the data as they are


def permutation_importance(
    model: Sequential,
    x: ArrayLike,
    y: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    metric: MetricName | Metric | MetricFunction | None = None,
    greater_is_better: bool | None = None,
    repeats: SupportsIndex = 5,
    seed: SupportsIndex | None = 0,
    batch_size: SupportsIndex = 32,
) -> Importance:
    """Return what a metric loses when a feature is taken from other sequences: how much the model relies on it.

    In each repeat the sequences stand in a random circle, and each takes the feature from the next one that has the
    step; when that has ended, from the next but one, and so on. So at each step the feature's values are exchanged
    among the sequences that have that step, none is made up, and neither lengths nor masks change.

    Parameters
    ----------
    model : Sequential
        A compiled one: its loss says what labels are.
    x, y, lengths, mask
        As for `Sequential.evaluate`; at least two sequences.
    metric : str, Metric or function; optional
        "loss", one from `cgru.metrics`, or a function (y_true, y_pred) -> float, as `compile` takes them. None is the
        first one that the model was compiled with, or else the loss.
    greater_is_better : bool, optional
        Of the metric. None knows "loss", "mse", "mae" and "perplexity" as errors, of which less is better.
    repeats : int
        Circles that are drawn; the same ones for all features.
    seed : int, optional
        Of the circles.
    batch_size : int
        Sequences at a time.

    Returns
    -------
    Importance
        `mean` and `std` (D,), `drops` (D, repeats), and `score`. Positive: the model is worse without the feature. Ids
        count as one feature.

    Raises
    ------
    RuntimeError
        If `compile` was not called.
    TypeError, ValueError
        If an argument does not fit; the message names it.

    Notes
    -----
    A. Fisher, C. Rudin, F. Dominici 2019, arXiv:1801.01489. Of features that tell the same, each alone may look
    unimportant.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> x = np.random.default_rng(0).standard_normal((64, 8, 3)).astype("float32")
    >>> y = x[:, :, 1].mean(axis=1)
    >>> model = cgru.Sequential([cgru.GRU(8), cgru.Dense(1)], seed=0)
    >>> model.compile(cgru.optimizers.Adam(0.02), loss="mse")
    >>> history = model.fit(x, y, epochs=30, verbose=0)
    >>> int(cgru.interpret.permutation_importance(model, x, y).mean.argmax())
    1
    """
    case = Case(model, x, lengths, mask, batch_size)
    model._check_compiled()
    repeats = check_int(repeats, "repeats", 1)
    measure, upwards = _measure(model, metric, greater_is_better)
    labels = targets(model.layers, model.loss, [measure], y, case.batch, case.shape).labels
    batch, rng = case.batch, np.random.default_rng(None if seed is None else check_int(seed, "seed"))
    count = len(batch.data)
    if count < 2:
        raise ValueError(f"x: expected at least two sequences to exchange a feature between, got {count}")
    valid = None
    if len(case.shape) == 3:
        valid = examples.output_steps(model.layers, batch, masked=True).valid

    def score(change: Callable[[AnyArray, IntArray], AnyArray] | None = None) -> float:
        return _score(model, measure, case.outputs(change), labels, valid)

    whole = batch.data[..., None] if case.embeds else batch.data
    base = score()
    taken = model.layers[0].masked(batch).valid
    drops = np.empty((whole.shape[-1], repeats))
    for repeat in range(repeats):
        donors = _donors(rng.permutation(count), taken)
        for feature in range(len(drops)):
            column = whole[..., feature]
            other = column[donors[:, 0]] if column.ndim == 1 else column[donors, np.arange(column.shape[1])]
            drops[feature, repeat] = base - score(partial(_exchanged, values=other, feature=feature, ids=case.embeds))
    if not upwards:
        drops = -drops
    return Importance(drops.mean(axis=1), drops.std(axis=1), drops, base)


# -- exchanged features


def _exchanged(data: AnyArray, rows: IntArray, values: AnyArray, feature: int, ids: bool) -> AnyArray:
    """Put other values, (N,) or (N, T), in the place of a feature into the data of these rows, a copy; ids have no axis
    of features."""
    place = data if ids else data[..., feature]
    place[...] = values[rows] if values.ndim == 1 else values[rows, : place.shape[1]]
    return data


def _donors(order: IntArray, valid: BoolArray | None) -> IntArray:
    """Return (N, T) or, where all steps are valid, (N, 1): the row whose feature each row takes. The rows stand
    in a circle in this order, and the next one that is valid at a step gives its value."""
    count = len(order)
    if valid is None:
        donors = np.empty((count, 1), np.intp)
        donors[order, 0] = np.roll(order, -1)
        return donors
    places = np.where(valid[order], np.arange(count)[:, None], count)  # in the circle; `count`: is not there
    nearest = np.minimum.accumulate(places[::-1], axis=0)[::-1]  # at this place or behind it
    following = np.concatenate([nearest[1:], np.full_like(nearest[:1], count)])
    following = np.where(following == count, nearest[0], following)  # round the circle
    donors = np.empty(valid.shape, np.intp)
    donors[order] = order[np.minimum(following, count - 1)]
    return np.where(valid, donors, np.arange(count)[:, None])  # padding may be known by its values: it stays


# -- measures


def _measure(model: Sequential, metric: Any, upwards: bool | None) -> tuple[Any, bool]:
    """Return (a Metric or Function, None for the loss; whether more of it is better)."""
    if upwards is not None:
        upwards = check_bool(upwards, "greater_is_better")
    if metric is None:
        measure = model.metrics[0] if model.metrics else None
    elif isinstance(metric, str) and metric.casefold() == "loss":
        measure = None
    else:
        measure = metrics.get(metric)
        measure = measure.for_loss(model.loss) if isinstance(measure, Metric) else measure
    if upwards is None:
        upwards = measure is not None and measure.name not in _ERRORS
    return measure, upwards


def _score(
    model: Sequential, measure: Metric | Function | None, outputs: Array, labels: AnyArray, valid: BoolArray | None
) -> float:
    if measure is None:
        return model.loss(outputs, labels, valid)
    if isinstance(measure, Function):
        steps = np.ones(outputs.shape[:-1], bool) if valid is None else valid
        return measure.value(labels[steps], outputs[steps])
    return measure(outputs, labels, valid)
