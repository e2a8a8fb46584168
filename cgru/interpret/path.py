"""What each input adds to an output, on the way from a baseline to what was seen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import check_int, check_positive, shape_text
from cgru.interpret.case import Case, Chunk, cleaned
from cgru.models import Sequential
from cgru.sequences import Batch, as_batch
from cgru.typing import Array, ArrayOrList, IntArray

_HALVINGS = 14  # of a part of a way, at most
_PARTS = 256  # of a way, at most


def integrated_gradients(
    model: Sequential,
    x: ArrayLike,
    target: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    baseline: ArrayLike | None = None,
    steps: SupportsIndex = 16,
    step: SupportsIndex | None = None,
    logits: bool = False,
    tolerance: float | None = 1e-3,
    batch_size: SupportsIndex = 32,
) -> ArrayOrList:
    """Return what each number of the input adds to one output, compared with a baseline.

    It is the gradient along the straight way from the baseline to x, integrated: so the contributions of a sequence
    add up to f(x) - f(baseline). Where the output of a trained model changes within a small part of the way, that part
    is halved, and halved again, until they do.

    Parameters
    ----------
    model, x, target, lengths, mask, step, logits, batch_size
        As in `saliency`. A target of None is the largest output at x.
    baseline : array_like, optional
        What stands for "nothing to see": a number, (D,), (T, D), (N, T, D), or a list like x; None is zero. Before an
        Embedding ids, one or for each step, of which the embedded vectors count; None is the zero vector.
    steps : int
        Points of the way, or of each part of it, at which there is a gradient: those of the Gauss-Legendre rule.
    tolerance : float, optional
        How far the contributions of a sequence may be from adding up, in units of the sum of their absolute values
        along the way. None: the way is one part, and nothing is compared.

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
        If the contributions of a sequence do not add up after all, as where the output jumps.

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
    points = check_int(steps, "steps", 1)
    tolerance = None if tolerance is None else check_positive(tolerance, "tolerance")
    gaps: list[tuple[float, int, float, float]] = []  # (how many times too large, row, sum, what it should be)

    def contributions() -> Iterator[tuple[IntArray, Array]]:
        for chunk in case.chunks():
            valid = chunk.inputs.valid
            way = _Way(case, chunk, cleaned(start_of(chunk), valid), cleaned(chunk.inputs.data, valid), points)
            total, allowed = way.integrate(tolerance)
            sums, changes = _sums(total), way.f_b - way.f_a
            for i in np.flatnonzero(~(np.abs(sums - changes) <= allowed)):
                gap = abs(sums[i] - changes[i]) / allowed[i]
                gaps.append((float(gap), int(chunk.rows[i]), float(sums[i]), float(changes[i])))
            parts = total.sum(axis=-1) if case.embeds else total
            yield chunk.rows, parts.astype(way.end.dtype)

    with np.errstate(all="ignore"):  # what is not finite makes gaps, which are told
        found = case.spread(contributions())
    if gaps:
        _, row, total, change = max(gaps)
        warnings.warn(
            f"integrated_gradients: the contributions of {len(gaps)} of {len(case.batch.data)} sequences miss the "
            f"change of the output by more than tolerance = {tolerance:g}; of row {row} they add up to {total:.6g} "
            f"instead of {change:.6g}",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


# -- the way


class _Parts(NamedTuple):
    """Parts of ways: of row `rows[i]` of a chunk that from `a[i]` to `b[i]`, and the outputs at its ends."""

    rows: IntArray
    a: Array
    b: Array
    f_a: Array
    f_b: Array

    def take(self, places: Any) -> _Parts:
        fields: Any = (field[places] for field in self)
        return _Parts(*fields)

    @classmethod
    def joined(cls, several: Iterable[_Parts]) -> _Parts:
        """All of these, in the order of rows and places: sums depend on no other row of a batch."""
        fields: Any = map(np.concatenate, zip(*several, strict=True))
        whole = cls(*fields)
        return whole.take(np.lexsort((whole.a, whole.rows)))


class _Way:
    """The straight ways of the rows of a chunk, from `start` at 0 to `end` at 1, both like the inputs."""

    def __init__(self, case: Case, chunk: Chunk, start: Array, end: Array, points: int) -> None:
        self.case, self.chunk, self.start, self.end = case, chunk, start, end
        self.change = end.astype(np.float64) - start
        places, weights = np.polynomial.legendre.leggauss(points)
        self.rule = list(zip((places + 1) / 2, weights / 2, strict=True))  # of an interval of length 1
        case.forward(chunk)  # settles which outputs are explained, if that is not known
        rows = np.arange(len(end))
        self.f_a, self.f_b = (self._values(rows, np.full(len(end), place)) for place in (0.0, 1.0))

    def integrate(self, tolerance: float | None) -> tuple[Array, Array]:
        """Return (contributions, like the inputs in float64; how far the sum of each row may be off, (n,))."""
        count = len(self.end)
        total, scale, used = np.zeros(self.end.shape), np.zeros(count), np.zeros(count, int)
        change = np.abs(self.f_b - self.f_a)
        size, eps = np.maximum(np.abs(self.f_a), np.abs(self.f_b)), 16 * np.finfo(self.end.dtype).eps
        todo = _Parts(np.arange(count), np.zeros(count), np.ones(count), self.f_a, self.f_b)
        for halving in range(_HALVINGS + 1):
            used += np.bincount(todo.rows, minlength=count)
            last = (used > _PARTS) | (halving == _HALVINGS)
            halves = []
            for first in range(0, len(todo.rows), count):
                parts = todo.take(slice(first, first + count))
                found = self._contributions(parts)
                absolute = np.abs(found).reshape(len(found), -1).sum(axis=1)
                done = np.full(len(found), True)
                if tolerance is not None:
                    allowed = (absolute + (parts.b - parts.a) * change[parts.rows]) * tolerance / 2
                    allowed += eps * (absolute + size[parts.rows])
                    missed = np.abs(_sums(found) - (parts.f_b - parts.f_a)) > allowed  # which NaN does not
                    done = last[parts.rows] | ~missed
                np.add.at(total, parts.rows[done], found[done])
                np.add.at(scale, parts.rows[done], absolute[done])
                halves.append(self._halved(parts.take(~done)))
            todo = _Parts.joined(halves)
            if not len(todo.rows):
                break
        if tolerance is None:
            return total, np.full(count, np.inf)
        return total, tolerance * scale + eps * (scale + size)

    def _contributions(self, parts: _Parts) -> Array:
        """(m, ...): the integral of the gradient over each part, by the change of the inputs there."""
        length = parts.b - parts.a
        total = np.zeros((len(length), *self.end.shape[1:]))
        for place, weight in self.rule:
            chunk = self._at(parts.rows, parts.a + place * length)
            total += weight * self.case.gradient(chunk, *self.case.forward(chunk))
        return total * self.change[parts.rows] * _spread(length, total)

    def _halved(self, parts: _Parts) -> _Parts:
        middle = (parts.a + parts.b) / 2
        f_m = self._values(parts.rows, middle) if len(middle) else middle
        return _Parts.joined([parts._replace(b=middle, f_b=f_m), parts._replace(a=middle, f_a=f_m)])

    def _values(self, rows: IntArray, places: Array) -> Array:
        chunk = self._at(rows, places)
        return chunk.chosen(self.case.forward(chunk)[0])

    def _at(self, rows: IntArray, places: Array) -> Chunk:
        """The rows at these places of their ways."""
        data = self.start[rows] + _spread(places, self.start) * self.change[rows]
        return self.chunk.pick(rows, data.astype(self.end.dtype))


def _spread(values: Array, array: Array) -> Array:
    """Values (m,) as they multiply an array (m, ...)."""
    return values.reshape(-1, *(1,) * (array.ndim - 1))


def _sums(array: Array) -> Array:
    """(m,) of (m, ...)."""
    return array.reshape(len(array), -1).sum(axis=1)


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
