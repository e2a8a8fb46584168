"""Where the batches of training come from: rows of arrays, which may be mapped from a file, or an iterable of batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from cgru.models import examples, stateful
from cgru.models.targets import Targets
from cgru.sequences import Batch
from cgru.typing import ClassWeight, IntArray

if TYPE_CHECKING:
    from cgru.models.ranks import Ranks
    from cgru.models.updates import Updatable

Opener: TypeAlias = Callable[[], Iterator[Any]]


class Piece(NamedTuple):
    """One batch of a source."""

    batch: Batch
    targets: Targets
    rows: IntArray  # which rows of what was passed these are: of the arrays, or of the batch
    examples: IntArray  # their numbers in the data, which random choices follow


class Arrays:
    """Examples in arrays, of which batches take rows.

    Attributes
    ----------
    count : int
        Number of examples.
    updates : int
        Batches of an epoch.
    """

    def __init__(self, model: Updatable, batch: Batch, targets: Targets, batch_size: int) -> None:
        self._model = model
        self.batch, self.targets, self.batch_size = batch, targets, batch_size
        self.count = len(targets)
        self.updates = math.ceil(self.count / batch_size)

    def pieces(self, order: IntArray | None = None, skip: int = 0, ranks: Ranks | None = None) -> Iterator[Piece]:
        """Yield the batches of an epoch in this order of the rows, without the first `skip` of them; or of each batch
        the share of this rank, which may have no rows."""
        for start in range(skip * self.batch_size, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            rows = np.arange(start, stop) if order is None else order[start:stop]
            if ranks is not None:
                rows = rows[ranks.share(len(rows))]
            yield Piece(*self._model._rows_of(self.batch, self.targets, rows), rows, rows)

    def split(self, fraction: float) -> tuple[Arrays, Arrays]:
        """Return (the first rows, the last ones), of which the last are this share; ValueError where one has none."""
        first = math.floor(self.count * (1 - fraction))
        if not 0 < first < self.count:
            raise ValueError(
                f"validation_split: expected at least one example to train on and one to validate with, got "
                f"{first} and {self.count - first} of {self.count} examples by {fraction}"
            )
        parts = self.part(slice(0, first)), self.part(slice(first, None))
        for part, what in zip(parts, ("trains", "validates"), strict=True):
            weights = part.targets.weights
            if weights is not None and not weights.any():
                raise ValueError(
                    f"sample_weight: expected some weight above 0 in the part that {what}, got zeros alone by "
                    f"validation_split={fraction}"
                )
        return parts

    def part(self, rows: slice) -> Arrays:
        """These rows alone."""
        return Arrays(self._model, self.batch.part(rows), self.targets.take(rows, slice(None)), self.batch_size)


class Batches:
    """Batches that an iterable brings, each epoch anew."""

    count = updates = None  # not known

    def __init__(
        self, model: Updatable, opener: Opener, name: str = "x", class_weight: ClassWeight | None = None
    ) -> None:
        self._model, self._opener, self._name, self._class_weight = model, opener, name, class_weight

    def pieces(self, order: IntArray | None = None, skip: int = 0, ranks: Ranks | None = None) -> Iterator[Piece]:
        """Yield the batches of an epoch in their own order, without the first `skip` of them; or of each batch the
        share of this rank."""
        begin = size = 0
        number = -1
        for number, item in enumerate(self._opener()):
            name = f"{self._name}, batch {number + 1}"
            x, y, options = examples.parts_of(item, name, self._model._beside)
            own = options | {"class_weight": self._class_weight}
            try:
                batch, targets = checked(self._model, x, y, own, whole=False)
                rows = np.arange(len(targets))
                piece = Piece(self._model._converted(batch), targets, rows, begin + rows)
                size = size or len(piece.rows)
                stateful.check_like_first(self._model.layers, size, len(piece.rows))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from None
            begin += len(piece.rows)
            if ranks is not None:
                ranks.note(piece.batch, targets, self._name)
                rows = rows[ranks.share(len(rows))]
                piece = Piece(*self._model._rows_of(piece.batch, targets, rows), rows, piece.examples[rows])
            if number >= skip:
                yield piece
        if number < 0:
            raise ValueError(f"{self._name}: expected an iterable that brings batches whenever it is started, got none")


def checked(
    model: Updatable, x: Any, y: Any, options: dict[str, Any], like: Batch | None = None, whole: bool = True
) -> tuple[Batch, Targets]:
    """Return the batch and the targets of arrays with lengths, a mask, weights; there is at least one example. `whole`:
    these are all examples."""
    batch, targets = model._examples(x, y, options, like, whole)
    if not len(targets):
        raise ValueError(f"{model._inputs}: expected at least one example, got none")
    return batch, targets


# -- what was passed


def brings_batches(x: Any) -> bool:
    """Whether x, which came without labels, can be an iterable of batches."""
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and all(isinstance(item, tuple) and len(item) in (2, 3) for item in x)
    if isinstance(x, (str, bytes, dict)) or hasattr(x, "__array__"):
        return False
    return hasattr(x, "__iter__") or callable(x)


def opener_of(x: Any, epochs: int, name: str = "x") -> Opener:
    """Return the function that starts x anew.

    Raises
    ------
    ValueError
        If x is an iterator, which ends once and for all, and several epochs are wanted.
    TypeError
        If it is no iterable, nor a function that returns one.
    """
    if hasattr(x, "__next__"):
        if epochs > 1:
            raise ValueError(
                f"{name}: expected an iterable that starts anew for each of {epochs} epochs, got a {type(x).__name__}, "
                "which ends with the first: pass the function that makes it, a list, or a class with __iter__"
            )
        return lambda: iter(x)
    if not hasattr(x, "__iter__") and not callable(x):
        raise TypeError(f"{name}: expected an iterable of batches, got {type(x).__name__}")

    def start() -> Iterator[Any]:
        made: Iterable[Any] = x if hasattr(x, "__iter__") else x()
        if not hasattr(made, "__iter__"):
            raise TypeError(f"{name}: expected a function that returns an iterable, got {type(made).__name__} from it")
        return iter(made)

    return start
