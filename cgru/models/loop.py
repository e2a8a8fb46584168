"""The loop that trains a model: epochs of batches, validation and callbacks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.models import chunks, finite
from cgru.models.history import History
from cgru.models.hooks import Hooks
from cgru.models.progress import progress_of
from cgru.models.ranks import Ranks, Stopped
from cgru.models.runs import Evaluation, Totals
from cgru.models.sources import Arrays, Batches, Piece
from cgru.typing import Array, IntArray, States

if TYPE_CHECKING:
    from cgru.models.training import Trainable


class Course:
    """Where a run of `fit` stands: what it takes to go on, beside the model and its optimizer.

    Attributes
    ----------
    settings : dict
        What has to be the same where the run goes on.
    first, epoch : int
        The first epoch, and the one that runs or comes.
    order : int
        Which one of the model's orders of the examples belongs to the first epoch.
    done : tuple
        (batches finished in this epoch, None); or, with `chunk`, where the next one goes on: (batches, (step, states)).
    begun : list
        The states that each epoch starts from.
    history : History
    totals : Totals or None
        Of the epoch that runs.
    stopped : bool
        Whether a callback has ended the run.
    callbacks : list
        The states of the callbacks, when the run has ended.
    """

    def __init__(self, settings: dict[str, Any], first: int, order: int, begun: States) -> None:
        self.settings, self.first, self.epoch, self.order, self.begun = settings, first, first, order, begun
        self.done: tuple[int, chunks.Part | None] = (0, None)  # one object: nobody sees one half assigned
        self.history = History(first)
        self.totals: Totals | None = None
        self.stopped = False
        self.callbacks: list[dict[str, Any]] = []
        self.hooks: Hooks | None = None  # while it runs

    @property
    def within_epoch(self) -> bool:
        """Whether there was an update in the epoch that runs."""
        return self.done != (0, None)

    @property
    def order_now(self) -> int:
        """Which order of the examples belongs to the epoch that runs or comes."""
        return self.order + self.epoch - self.first

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"callbacks": self.callback_states(), "hooks": None}  # functions are in no pickle

    def callback_states(self) -> list[dict[str, Any]]:
        """The states of the callbacks now."""
        return self.callbacks if self.hooks is None else self.hooks.get_states()

    @property
    def next_order(self) -> int:
        """Which one belongs to the first epoch of the run after this one, wherever this one has ended."""
        return self.order_now + self.within_epoch

    def enter(self, batches: int, part: chunks.Part | None = None) -> None:
        """Let the run go on behind these batches of the epoch, and this part of the next one."""
        self.done = (batches, part)

    def entering(self, batches: int) -> Callable[[States], None]:
        """What lets it go on behind these, whatever the states are there."""
        return lambda states: self.enter(batches)

    def check(self, settings: dict[str, Any], initial_epoch: int) -> None:
        """ValueError unless a run with these settings can go on from here."""
        if initial_epoch:
            raise ValueError(f"initial_epoch: expected 0 beside resume=True, got {initial_epoch}")
        for name, value in settings.items():
            expected = self.settings.get(name)
            if value != expected:
                if name == "examples":
                    name, expected, value = "x", _amount(expected), _amount(value)
                raise ValueError(f"{name}: expected {expected}, as in the run that is resumed, got {value}")


def _amount(examples: int | None) -> str:
    return "an iterable of batches" if examples is None else f"{examples} examples"


@functools.cache
def _keep_memory() -> None:
    """Let the allocator keep what one batch leaves for the next, instead of giving it back and asking the system for it
    anew, page by page: for a model as small as the demonstration's that was a fifth of a step. glibc raises its limits
    to twice a block that is given back, if that is less than 32 MiB; nothing is written to it. Others do without."""
    np.empty(31 << 20, np.uint8)


class Loop:
    """One run of `fit`, when all arguments are checked."""

    def __init__(
        self,
        model: Trainable,
        source: Arrays | Batches,
        validate: Callable[[], Evaluation] | None,
        course: Course,
        hooks: Hooks,
        epochs: int,
        verbose: int,
        ranks: Ranks | None = None,
    ) -> None:
        self.model, self.source, self.validate, self.course, self.hooks = model, source, validate, course, hooks
        self.epochs, self.verbose, self.chunk = epochs, verbose, course.settings["chunk"]
        self.ranks = ranks
        if ranks is not None and ranks.rank:
            self.verbose = 0
        self._parted = False  # whether all ranks know that they stop

    def run(self, resumed: bool) -> None:
        """Train to the last epoch, or until a callback stops it."""
        try:
            if self.ranks is not None:
                self.ranks.expect("step" if self.course.epoch < self.epochs and not self.course.stopped else "")
            self._run(resumed)
        except Exception:
            self._tell_others()
            raise

    def _run(self, resumed: bool) -> None:
        course, hooks = self.course, self.hooks
        _keep_memory()
        context, states = Context(self, resumed), course.callback_states()  # before the same objects begin anew
        self.model.history = course.history
        hooks.call("on_train_begin", context)
        if resumed:
            hooks.set_states(states)
        self.model._course, course.hooks = course, hooks
        try:
            context.save_what_was_asked()
            with progress_of(self.epochs, self.verbose) as progress:
                while course.epoch < self.epochs and (not course.stopped or course.within_epoch):  # that is ended
                    self._epoch(context, progress)
            if self.ranks is not None and course.stopped and course.epoch < self.epochs and not self._parted:
                with contextlib.suppress(Stopped):  # those who were about to go on do not
                    self.ranks.step(self.model, None, None, stop=True)
            hooks.call("on_train_end")
            context.save_what_was_asked()
        finally:
            self.model._logits = None
            if course.hooks is not None:
                with contextlib.suppress(Exception):  # the error that is on its way is the one to see
                    course.callbacks = hooks.get_states()
                course.hooks = None

    def _epoch(self, context: Context, progress: Any) -> None:
        model, course, hooks, source, ranks = self.model, self.course, self.hooks, self.source, self.ranks
        epoch, (skip, part) = course.epoch, course.done
        del course.history._results[epoch - course.first :]  # of one that was interrupted at its very end
        if not course.within_epoch:
            course.totals = Totals(model)
            if ranks is not None:
                ranks.begin_epoch()
            model._keep_states(course.begun)
            hooks.call("on_epoch_begin", epoch)
            context.save_what_was_asked()
        totals = course.totals
        assert totals is not None
        progress.begin(epoch, source.updates, skip)
        pieces = () if course.stopped else source.pieces(self._order(), skip, ranks)
        for number, piece in enumerate(pieces, start=skip):
            model._build_for(piece.batch)
            place = finite.Place(epoch + 1, number + 1, piece.rows, piece.examples)
            if ranks is not None:
                if not self._update_of_ranks(ranks, piece, totals, place):
                    break
            elif self.chunk is None:
                model._update(piece.batch, piece.targets, totals, place, passed=course.entering(number + 1))
            else:
                chunks.update(model, piece, self.chunk, totals, place, part, functools.partial(course.enter, number))
                course.enter(number + 1)
                part = None
            progress.update()
            if hooks.wants("on_batch_end"):
                hooks.call("on_batch_end", number, totals.means() if ranks is None else ranks.batch_logs())
                context.save_what_was_asked()
                if course.stopped and ranks is None:
                    break
        else:
            if ranks is not None and source.updates is None:
                ranks.step(model, None, None, end=True)  # others may have further batches
        if self._parted and not course.within_epoch:
            return
        validated = self._validated(totals)
        results = totals.means()
        if validated is not None:
            results |= {f"val_{name}": value for name, value in validated.means().items()}
        course.history._results.append(results)
        progress.end(epoch, results)
        self._end(epoch, results)
        context.save_what_was_asked()

    def _update_of_ranks(self, ranks: Ranks, piece: Piece, totals: Totals, place: finite.Place) -> bool:
        """One update by all ranks together; False if one of them wants to stop instead."""
        model, course = self.model, self.course
        if totals.sums["loss"] is None:
            totals.begin(model._output_shape(piece.batch))
        try:
            if course.stopped:
                ranks.step(model, place, None, stop=True)
            model._update(piece.batch, piece.targets, totals, place, passed=course.entering(place.batch), ranks=ranks)
        except Stopped:
            course.stopped = self._parted = True
            return False
        updates = self.source.updates
        ranks.expect("step" if updates is None or place.batch < updates else "epoch")
        return True

    def _validated(self, totals: Totals) -> Evaluation | None:
        """What validation gave, if there is any; with ranks it and `totals` become those of all of them."""
        ranks, course = self.ranks, self.course
        if ranks is not None:
            ranks.expect("epoch")
        validated = None if self.validate is None else self.validate()
        if ranks is not None:
            shared = [totals] if validated is None or validated.sees_all else [totals, validated]
            found, stop = ranks.epoch([part.counted for part in shared], course.stopped)
            for part, sums in zip(shared, found, strict=True):
                part.sums = dict(sums)
            course.stopped = course.stopped or stop
            ranks.expect("step" if course.epoch + 1 < self.epochs and not self._parted else "")
        return validated

    def _tell_others(self) -> None:
        """The error that is on its way here would keep them waiting."""
        totals, together = self.course.totals, self.validate is not None and not Evaluation(self.model).sees_all
        if self.ranks is not None:
            with contextlib.suppress(Exception):
                self.ranks.fail(self.model, [] if totals is None else [totals.counted] * (1 + together))

    def _end(self, epoch: int, results: dict[str, float]) -> None:
        """Tell the callbacks that the epoch has ended. If that is interrupted it has not, and is done once more where
        the run goes on: with the callbacks, and the learning rate that they set, as they were."""
        course, hooks, optimizer = self.course, self.hooks, self.model.optimizer
        rate, stopped = optimizer.learning_rate, course.stopped
        course.callbacks, course.hooks = hooks.get_states(), None
        try:
            hooks.call("on_epoch_end", epoch, dict(results))
            course.epoch, course.done, course.totals, course.hooks = epoch + 1, (0, None), None, hooks
        except BaseException:
            course.stopped = stopped
            if not callable(rate):
                optimizer.learning_rate = rate
            raise

    def _order(self) -> IntArray | None:
        """The order of the examples in the epoch that runs: of the model's seed and the epoch's number alone."""
        course, count = self.course, self.source.count
        if not course.settings["shuffle"] or count is None:
            return None
        return np.random.default_rng((self.model._training_seed, course.order_now)).permutation(count)


class Context:
    """What callbacks see of a run: see `cgru.callbacks.Training`."""

    def __init__(self, loop: Loop, resumed: bool) -> None:
        self._model, self._course = loop.model, loop.course
        self.rank = 0 if loop.ranks is None else loop.ranks.rank
        self._alone = loop.ranks is None
        self.epochs, self.batches, self.resumed = loop.epochs, loop.source.updates, resumed
        self.names = list(Totals(loop.model).means())
        if loop.validate is not None:
            self.names += ["val_loss", *(f"val_{metric.name}" for metric in loop.model.metrics)]
        self._asked: list[tuple[str, bool]] = []

    @property
    def epoch(self) -> int:
        return self._course.epoch

    @property
    def learning_rate(self) -> float:
        rate = self._model.optimizer.learning_rate
        return rate(self._model.iterations) if callable(rate) else rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        rate = self._model.optimizer.learning_rate
        if callable(rate):
            raise ValueError(f"learning_rate: expected a number, which can be set, got the schedule {rate!r}")
        self._model.optimizer.learning_rate = value

    def stop(self) -> None:
        self._course.stopped = True

    def get_weights(self) -> list[Array]:
        return self._model.get_weights()

    def set_weights(self, weights: list[Array]) -> None:
        self._model.set_weights(weights)

    @property
    def _saved(self) -> Any:
        return self._model

    def check_saving(self, training_state: bool = True, path: str | None = None) -> None:
        from cgru import files, writing  # of which one stands above: it is looked up when it is needed

        files.check_saving(self._saved, training_state)
        if path is not None and not self.rank:
            writing.check_writable(path)

    def save(self, path: str, training_state: bool = True) -> None:
        self._asked.append((path, training_state))

    def save_what_was_asked(self) -> None:
        """Save when every callback has seen the epoch or batch: a state of all of them at one moment."""
        from cgru import files

        asked, self._asked = self._asked, []
        for path, training_state in asked:
            if not self._alone and training_state and self._course.within_epoch:
                raise ValueError(
                    "callbacks: expected checkpoints with training_state=True between epochs alone beside all_reduce, "
                    "because what metrics have counted is spread over the ranks, got one within an epoch"
                )
            if not self.rank:
                files.save(self._saved, path, training_state)
