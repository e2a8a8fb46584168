"""Training on several processes, the ranks, each of which works on its share of every batch.

All of them have all examples, draw the same order of them and make the same updates. What they exchange are sums: when
all have checked their arguments, one of what shows that they begin alike; at each step those of the gradients, the loss
and the number of terms that it is the mean of, in one flat buffer; at the end of an epoch those of what metrics count.
Each call says also whether somebody wants to stop, or has failed: then all of them do, at the same place, instead of
waiting for one who does not come.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from cgru.checks import check_int
from cgru.layers import Masking
from cgru.metrics.base import Counts
from cgru.models import finite, stateful
from cgru.models.examples import title
from cgru.models.sources import Arrays, Batches
from cgru.typing import AllReduce, Array, Parameter

if TYPE_CHECKING:
    from cgru.models.runs import FusedRun, Run
    from cgru.models.updates import Updatable

Sums: TypeAlias = Mapping[str, Counts]

_SLOTS = 1 << 16  # among which ranks that do not know their number choose one
_LOSS, _TERMS, _STOPS, _ERRORS, _ENDS, _SAME, _SQUARES = 0, 1, 2, 3, 4, slice(5, 8), slice(8, 11)  # behind gradients
_TAIL = 11
_ROWS = 16  # of data that tell them from others
_DIFFERENT = 1e-5  # the variance over ranks of what is alike but for roundings


class Stopped(Exception):
    """A rank wants to stop: nobody makes the update."""


class Passed(NamedTuple):
    """What a pass over the batch, or this rank's share of it, gave."""

    run: Run | FusedRun | None  # None: there are no rows
    seen: Sums
    own: dict[Parameter, Array]  # the gradients of these rows
    gradients: dict[Parameter, Array]  # those of the batch


class Ranks:
    """This process among those that train together.

    Parameters
    ----------
    all_reduce : callable
        Sums a flat array in place over all ranks. It may have `rank` and `size`; where it has not, the ranks find out
        by it who they are.

    Attributes
    ----------
    rank, size : int

    Raises
    ------
    TypeError, ValueError
        If it is not such a thing.
    """

    def __init__(self, all_reduce: AllReduce) -> None:
        if not callable(all_reduce) or isinstance(all_reduce, type):
            got = f"the class {all_reduce.__name__}" if isinstance(all_reduce, type) else type(all_reduce).__name__
            raise TypeError(f"all_reduce: expected a function that sums an array over all ranks in place, got {got}")
        self._sum, self._due = all_reduce, ""
        rank: Any = getattr(all_reduce, "rank", None)
        size: Any = getattr(all_reduce, "size", None)
        if rank is None and size is None:
            rank, size = self._found()
        self.size = check_int(size, "all_reduce.size", 1)
        self.rank = check_int(rank, "all_reduce.rank")
        if self.rank >= self.size:
            raise ValueError(f"all_reduce: expected a rank less than the size {self.size}, got {self.rank}")
        self._flat: Array | None = None
        self._views: dict[Parameter, Array] = {}
        self._checks: Any = np.zeros(4)
        self._data = {"x": 0.0, "validation_data": 0.0}  # what tells the examples from others
        self._seen = np.zeros(2)  # of the loss, in this epoch

    def _found(self) -> tuple[int, int]:
        """(rank, size), from slots that were chosen at random: the first one taken is that of rank 0."""
        while True:
            table, own = np.zeros(_SLOTS + 1), int.from_bytes(os.urandom(2), "big")
            table[own] = table[_SLOTS] = 1
            self._reduce(table)
            if table[own] % 1:
                raise ValueError(f"all_reduce: expected a function that sums over ranks, got {table[own]:g} from ones")
            if table[:_SLOTS].max() <= 1:
                return int(np.count_nonzero(table[:own])), int(table[_SLOTS])

    def _reduce(self, buffer: Array) -> None:
        self._due = ""  # whoever fails in it has nobody left to tell
        result = self._sum(buffer)
        if isinstance(result, np.ndarray) and not np.may_share_memory(result, buffer):
            raise TypeError("all_reduce: expected a function that sums in place, got one that returns another array")

    def share(self, count: int) -> slice:
        """Which ones of `count` rows are this rank's."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    # -- before training

    @staticmethod
    def check(model: Updatable, source: Arrays | Batches, chunk: int | None) -> None:
        """Refuse what cannot be shared so that it gives the numbers of one process."""
        if chunk is not None:
            raise ValueError(f"chunk: expected None beside all_reduce, got {chunk}")
        for i in stateful.stateful_layers(model.layers):
            raise ValueError(f"all_reduce: expected None beside a state that is kept, got {title(model.layers, i)}")
        equal = isinstance(source, Arrays) and source.batch.valid is None
        equal = equal and not any(isinstance(la, Masking) or getattr(la, "mask_zero", False) for la in model.layers)
        if not equal and (isinstance(source, Batches) or len(model._output_shape(source.batch)) == 3):
            for i, layer in enumerate(model.layers):
                if layer.activity_regularizer is not None:
                    raise ValueError(
                        "all_reduce: expected sequences of one length beside activity_regularizer, whose mean is over "
                        f"rows and not over steps, got it in {title(model.layers, i)}"
                    )

    def meet(self, failed: bool) -> None:
        """Wait until all ranks have checked what they were given.

        Raises
        ------
        RuntimeError
            If that failed on another rank.
        ValueError
            If they do not begin alike, or do not sum.
        """
        words = np.array([failed, self.rank, self.rank**2, *self._checks, 1], np.float64)
        self._reduce(words)
        if failed:
            return
        _check_others(words[0], None)
        n = self.size
        if words.tolist()[1:3] + [words[-1]] != [n * (n - 1) // 2, n * (n - 1) * (2 * n - 1) // 6, n]:
            raise ValueError(
                f"all_reduce: expected a function that sums over ranks from 0 to {n - 1}, each once, got sums over "
                "others, or no sums: look at its rank and size"
            )
        if (words[3:-1] != n * self._checks).any():
            raise ValueError(
                "all_reduce: expected ranks that begin with the same weights, seed, number of examples, arguments of "
                "compile and fit, got others on some rank: build the model with the same seed everywhere"
            )

    def begin(self, model: Updatable, settings: Any) -> None:
        """Note what all ranks have to begin with."""
        compiled = [model.optimizer, model.loss, model.metrics]
        own = [model._training_seed, settings, compiled, [[type(la), la.get_config()] for la in model.layers]]
        digest = hashlib.sha256(re.sub(r" at 0x[0-9a-fA-F]+", "", json.dumps(own, default=repr)).encode())
        for layer in model.layers:
            for array in (layer.parameters if layer.built else {}).values():
                digest.update(np.ascontiguousarray(array).data)
        words = int.from_bytes(digest.digest()[:6], "big")
        self._checks = np.array([words >> shift & 0xFFF for shift in (0, 12, 24, 36)])

    def note(self, batch: Any, targets: Any, name: str = "x") -> None:
        """Note the examples that all ranks take their shares of: each step shows if one of them has others."""
        self._data[name] = _character(batch, targets)

    def expect(self, kind: Literal["step", "epoch", ""]) -> None:
        """Note what the other ranks wait for next, if this one fails before."""
        self._due = kind

    # -- a step

    def step(
        self,
        model: Updatable,
        place: finite.Place | None,
        work: Callable[[], Passed] | None,
        stop: bool = False,
        end: bool = False,
    ) -> Passed:
        """Let `work` make a pass over this rank's rows, None if there are none; return it with the gradients of all.
        `end`: there was no further batch.

        Raises
        ------
        Exception
            What `work` raised; or a RuntimeError, if that happened on another rank.
        ValueError
            If the ranks have not the same examples and learning rate.
        Stopped
            If `stop`, here or on another rank.
        """
        flat, error, passed = self._buffer(model), None, Passed(None, {}, {}, {})
        tail = flat[-_TAIL:]
        try:
            if work is not None and not stop:
                passed = work()
                total, terms = passed.seen["loss"]
                for key, view in self._views.items():
                    np.multiply(passed.own[key], terms, out=view)
                tail[_LOSS], tail[_TERMS] = total, terms
        except Exception as raised:
            error, flat[:] = raised, 0
        tail[_STOPS], tail[_ERRORS], tail[_ENDS] = stop, error is not None, end
        same = np.array([*self._data.values(), np.log(max(float(_rate(model)), 1e-30))])
        tail[_SAME], tail[_SQUARES] = same, same**2
        self._reduce(flat)
        if error is not None:
            raise error
        _check_others(tail[_ERRORS], place)
        self._check_same(tail)
        if tail[_STOPS]:
            raise Stopped
        self._seen += tail[[_LOSS, _TERMS]]
        if tail[_TERMS]:
            flat[:-_TAIL] /= tail[_TERMS]
            return passed._replace(gradients=self._views)
        return passed._replace(gradients=_of_penalties(model, self._views))

    def _check_same(self, tail: Array) -> None:
        """ValueError if the sums of all ranks show that they have not what they should; all see it."""
        n, ended = self.size, tail[_ENDS]
        if ended not in (0, n):
            raise ValueError(f"x: expected as many batches on each rank, got their end on {ended:.0f} of {n} ranks")
        means = tail[_SAME].astype(np.float64) / n
        differ = np.abs(tail[_SQUARES] / n - means**2) > _DIFFERENT * np.maximum(1, means**2)
        for name, differs in zip((*self._data, "learning_rate"), differ, strict=True):
            if differs:
                what = "rate" if name == "learning_rate" else "examples, labels and weights, to take its share of them"
                raise ValueError(f"{name}: expected each rank to have the same {what}, got others on some rank")

    def batch_logs(self) -> dict[str, float]:
        """The loss of this epoch so far; what metrics count is not summed before its end."""
        return {"loss": float(self._seen[0] / self._seen[1]) if self._seen[1] else float("nan")}

    def _buffer(self, model: Updatable) -> Array:
        """The flat buffer of zeros, in whose beginning the gradients have their views."""
        names = [(i, n) for i, la in enumerate(model.layers) if la.trainable for n in la._built_parameters()]
        if self._flat is None or list(self._views) != names:
            shapes = {key: model.layers[key[0]]._built_parameters()[key[1]].shape for key in names}
            sizes = [int(np.prod(shape)) for shape in shapes.values()]
            types = [model.layers[i].dtype for i, _ in names]
            self._flat = np.empty(sum(sizes) + _TAIL, np.result_type(np.float32, *types))
            parts = np.split(self._flat[:-_TAIL], np.cumsum(sizes)[:-1])
            self._views = {key: part.reshape(shapes[key]) for key, part in zip(names, parts, strict=False)}
        self._flat[:] = 0
        return self._flat

    # -- an epoch

    def begin_epoch(self) -> None:
        self._seen[:] = 0

    def epoch(self, parts: Sequence[Sums], stop: bool) -> tuple[list[Sums], bool]:
        """Return (the sums of these counts, whether somebody wants to stop)."""
        arrays = [counts for part in parts for counts in part.values()]
        flat = np.concatenate([*arrays, [stop, 0.0]])
        self._reduce(flat)
        _check_others(flat[-1], None)
        pieces = iter(np.split(flat[:-2], np.cumsum([len(counts) for counts in arrays])[:-1]))
        return [{name: next(pieces) for name in part} for part in parts], bool(flat[-2])

    def fail(self, model: Updatable, parts: Sequence[Sums]) -> None:
        """Tell the others, who wait for this rank, that it does not go on."""
        if self._due == "step":
            flat = self._buffer(model)
            flat[-_TAIL + _ERRORS] = 1
            self._reduce(flat)
        elif self._due == "epoch":
            self._reduce(np.append(np.zeros(sum(len(counts) for part in parts for counts in part.values()) + 1), 1.0))


@contextlib.contextmanager
def preparing(ranks: Ranks | None) -> Iterator[None]:
    """While arguments are checked: the other ranks, if there are any, learn of an error and raise, too."""
    try:
        yield
    except Exception:
        if ranks is not None:
            with contextlib.suppress(Exception):  # the error that is on its way is the one to see
                ranks.meet(failed=True)
        raise
    if ranks is not None:
        ranks.meet(failed=False)


def _rate(model: Updatable) -> float:
    rate = model.optimizer.learning_rate
    return rate(model.iterations) if callable(rate) else rate


def _character(batch: Any, targets: Any) -> float:
    """A number of moderate size that tells examples from others: by some of their rows, whose roundings do not count,
    as they are another machine's."""
    count = len(targets)
    rows = np.unique(np.linspace(0, count - 1, min(count, _ROWS)).astype(np.intp))
    part, own = batch.take(rows), targets.take(rows, slice(None))
    fields = [field for field in (part if hasattr(part, "source") else [part]) if field is not None]
    arrays = [field.data if field.valid is None else field.data[field.valid] for field in fields]
    arrays += [array for array in (own.labels, own.weights) if array is not None]
    total = 0.0
    with np.errstate(all="ignore"):
        for i, array in enumerate(arrays):
            values = np.asarray(array, np.float64).ravel()
            values = values[np.isfinite(values)]
            total += float(values @ np.cos(np.arange(len(values)) * 1.7 + i) / (np.sqrt(values @ values) + 1e-30))
    return total


def _check_others(errors: float, place: finite.Place | None) -> None:
    if errors:
        where = "" if place is None else f" in {place}, of which no update was made"
        raise RuntimeError(f"all_reduce: {errors:.0f} of the other ranks failed{where}; the error there says why")


def _of_penalties(model: Updatable, zeros: dict[Parameter, Array]) -> dict[Parameter, Array]:
    """The gradients of a batch in which nothing counts."""
    found = {}
    for i, layer in enumerate(model.layers):
        own = {name: array for (j, name), array in zeros.items() if j == i}
        found.update({(i, name): array for name, array in layer.add_penalties(own).items()})
    return found
