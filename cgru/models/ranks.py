"""Training on several processes, the ranks, each of which works on its share of every batch.

All of them have all examples, draw the same order of them and make the same updates. What they exchange are sums: at
each step those of the gradients, the loss and the number of terms that it is the mean of, in one flat buffer; at the
end of an epoch those of what metrics count. Each call says also whether somebody wants to stop, or has failed: then all
of them do, at the same place, instead of waiting for one who does not come.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
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
_LOSS, _TERMS, _STOPS, _ERRORS, _CHECKS = 0, 1, 2, 3, slice(4, 8)  # behind the gradients
_TAIL = 8


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
        self._checks: Any = 0
        self._seen = np.zeros(2)  # of the loss, in this epoch

    def _found(self) -> tuple[int, int]:
        """(rank, size), from slots that were chosen at random: the first one taken is that of rank 0."""
        while True:
            table, own = np.zeros(_SLOTS + 1), int.from_bytes(os.urandom(2), "big")
            table[own] = table[_SLOTS] = 1
            self._reduce(table)
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

    def begin(self, model: Updatable, settings: Any) -> None:
        """Note what all ranks have to begin with: the first step shows if one of them does not."""
        digest = hashlib.sha256(json.dumps([model._training_seed, settings], default=str).encode())
        for layer in model.layers:
            for array in (layer.parameters if layer.built else {}).values():
                digest.update(np.ascontiguousarray(array).data)
        words = int.from_bytes(digest.digest()[:6], "big")
        self._checks = np.array([words >> shift & 0xFFF for shift in (0, 12, 24, 36)])

    def expect(self, kind: Literal["step", "epoch", ""]) -> None:
        """Note what the other ranks wait for next, if this one fails before."""
        self._due = kind

    # -- a step

    def step(
        self, model: Updatable, place: finite.Place | None, work: Callable[[], Passed] | None, stop: bool = False
    ) -> Passed:
        """Let `work` make a pass over this rank's rows, None if there are none; return it with the gradients of all.

        Raises
        ------
        Exception
            What `work` raised; or a RuntimeError, if that happened on another rank.
        ValueError
            If the ranks did not begin with the same model.
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
        tail[_STOPS], tail[_ERRORS], tail[_CHECKS] = stop, error is not None, self._checks
        self._reduce(flat)
        if error is not None:
            raise error
        _check_others(tail[_ERRORS], place)
        if (tail[_CHECKS] != self.size * self._checks).any():
            raise ValueError(
                "all_reduce: expected ranks that begin with the same weights, seed, number of examples and "
                "arguments of fit, got others on some rank: build the model with the same seed everywhere"
            )
        if tail[_STOPS]:
            raise Stopped
        self._seen += tail[[_LOSS, _TERMS]]
        if tail[_TERMS]:
            flat[:-_TAIL] /= tail[_TERMS]
            return passed._replace(gradients=self._views)
        return passed._replace(gradients=_of_penalties(model, self._views))

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
