"""Evaluation: a model measured on examples, by itself or after each epoch of its training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import check_int
from cgru.models import examples, measures, stateful
from cgru.models.ranks import Ranks
from cgru.models.runs import Evaluation
from cgru.models.sources import Arrays, Batches, brings_batches, checked, opener_of
from cgru.models.targets import Targets
from cgru.models.updates import Updatable
from cgru.typing import BatchSource, IntArray, States


class Evaluable(Updatable):
    """A compiled model, as far as it is measured: a subclass implements what `Updatable` asks for."""

    def test_on_batch(
        self,
        x: ArrayLike,
        y: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        resets: Any = None,
    ) -> dict[str, float]:
        """Return what `evaluate` does, from one pass over all examples.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As `evaluate`.
        """
        return self.evaluate(x, y, lengths, mask, sys.maxsize, sample_weight, resets=resets)

    def evaluate(
        self,
        x: ArrayLike | BatchSource,
        y: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        batch_size: SupportsIndex = 32,
        sample_weight: ArrayLike | None = None,
        *,
        resets: Any = None,
    ) -> dict[str, float]:
        """Return a dict with the mean loss and the metrics on examples `x` with labels `y`; dropout does not act.

        `sample_weight` weighs the loss, as in `fit`. With `y` None, `x` is an iterable of batches, as there.

        Raises
        ------
        RuntimeError
            If `compile` was not called.
        TypeError, ValueError
            If an argument does not fit.
        """
        given = {"lengths": lengths, "mask": mask, "resets": resets, "sample_weight": sample_weight}
        return self._evaluate_all(x, y, given, batch_size)

    # -- the work

    def _evaluate_all(self, x: Any, y: Any, given: dict[str, Any], batch_size: SupportsIndex) -> dict[str, float]:
        """What `evaluate` does."""
        self._check_compiled()
        batch_size = check_int(batch_size, "batch_size", 1)
        measures.check_states(self.layers[-1], self.loss)
        if y is None and brings_batches(x):
            self._check_alone(given)
            totals, states = self._evaluate_batches(Batches(self, opener_of(x, 1)))
        else:
            batch, targets = self._examples(x, y, given)
            stateful.check_one_batch(self.layers, len(targets), batch_size)
            totals, states = self._evaluate(batch, targets, batch_size)
        results = totals.means()
        self._keep_states(states)
        return results

    def _check_alone(self, given: dict[str, Any]) -> None:
        """Refuse what belongs to arrays, beside an iterable of batches."""
        for name, value in given.items():
            if value is not None:
                forms = examples.forms_of(self._beside)
                raise ValueError(f"{name}: expected none beside an iterable of batches, which may be {forms}")

    def _validation(
        self, data: Any, held: Arrays | None, source: Arrays | Batches, batch_size: int, epochs: int,
        ranks: Ranks | None,
    ) -> Callable[[], Evaluation] | None:  # fmt: skip
        """Return the function that validates, with `validation_data` or the rows that were held back; or with this
        rank's share of them."""
        if Evaluation(self).sees_all:
            ranks = None
        if held is None and data is None:
            return None
        if held is None and not isinstance(data, (tuple, list)) and brings_batches(data):
            opener = opener_of(data, epochs, "validation_data")
            return lambda: self._evaluate_batches(Batches(self, opener, "validation_data"), ranks)[0]
        if held is None:
            x, y, options = examples.parts_of(data, "validation_data", self._beside)
        try:
            if held is None:
                like = source.batch if isinstance(source, Arrays) else None
                held = Arrays(self, *checked(self, x, y, options, like), batch_size)
            stateful.check_equal_batches(self.layers, held.count, batch_size)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation_data: {error}") from None
        kept: Arrays = held
        if ranks is not None:
            ranks.note(held.batch, held.targets, "validation_data")
            kept = held.part(ranks.share(held.count))

        def validate() -> Evaluation:
            states = stateful.first_states(self.layers, min(batch_size, kept.count))
            return self._evaluate(kept.batch, kept.targets, batch_size, states, ranks)[0]

        return validate

    def _chunks(self, batch: Any, batch_size: int) -> list[IntArray]:
        """Return index arrays that cover the rows, rows of like length together; one, empty, if there are no rows."""
        count = len(batch.data)
        order = np.arange(count)
        if batch.lengths is not None and not stateful.stateful_layers(self.layers):
            order = np.argsort(-batch.lengths, kind="stable")
        return [order[start : start + batch_size] for start in range(0, max(1, count), batch_size)]

    def _evaluate(
        self, batch: Any, targets: Targets, batch_size: int, states: States | None = None, ranks: Ranks | None = None
    ) -> tuple[Evaluation, States]:
        """Return (totals, states after the last batch); the states are those of the first batch's start. With `ranks`
        there may be no rows."""
        totals, after = Evaluation(self), states or [None] * len(self.layers)
        if ranks is not None:
            totals.begin(self._output_shape(batch))
        for rows in self._chunks(batch, batch_size):
            if len(rows):
                after = totals.batch(*self._rows_of(batch, targets, rows), rows, after)
                after = stateful.carried(self.layers, after)
        return totals, after

    def _evaluate_batches(self, source: Batches, ranks: Ranks | None = None) -> tuple[Evaluation, States]:
        """The same over batches that come from an iterable."""
        totals, after = Evaluation(self), None
        for piece in source.pieces(ranks=ranks):
            self._build_for(piece.batch)
            if ranks is not None and totals.sums["loss"] is None:
                totals.begin(self._output_shape(piece.batch))
            after = after or stateful.first_states(self.layers, len(piece.rows))
            if len(piece.rows):
                after = totals.batch(piece.batch, piece.targets, piece.examples, after)
                after = stateful.carried(self.layers, after)
        assert after is not None
        return totals, after
