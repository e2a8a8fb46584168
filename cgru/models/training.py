"""Training: what `compile` chooses, and what `fit` is given; loop.py goes through the examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import losses, optimizers
from cgru.checks import check_bool, check_int, check_number
from cgru.layers import Layer
from cgru.losses import Loss
from cgru.metrics import Function, Metric
from cgru.models import chunks, finite, measures, stateful
from cgru.models.evaluation import Evaluable
from cgru.models.history import History
from cgru.models.hooks import Hooks
from cgru.models.loop import Course, Loop
from cgru.models.progress import Verbose, check_verbose
from cgru.models.ranks import Ranks, preparing
from cgru.models.runs import Totals
from cgru.models.sources import Arrays, Batches, brings_batches, checked, opener_of
from cgru.optimizers import Optimizer
from cgru.typing import (
    AllReduce,
    BatchSource,
    ClassWeight,
    LossName,
    MetricFunction,
    MetricName,
    OptimizerName,
    Recompute,
    Validation,
)


class Trainable(Evaluable):
    """A model that can be trained: a subclass implements what `Updatable` asks for."""

    history: History | None
    _course: Course | None  # the run of the last `fit`, and where it stands

    def __init__(self, layers: Sequence[Layer], seed: SupportsIndex | None = None) -> None:
        super().__init__(layers, seed)
        self.history = self._course = None

    def _instead_of_change(self, name: str, value: str) -> str:
        if name in Evaluable._options:
            return f"compile({name}={value}, ...)"
        return super()._instead_of_change(name, value)

    def compile(
        self,
        optimizer: OptimizerName | Optimizer | None = "adam",
        loss: LossName | Loss | None = None,
        metrics: Sequence[MetricName | Metric | Function | MetricFunction] = (),
    ) -> None:
        """Choose how to train; the optimizer starts afresh.

        Parameters
        ----------
        optimizer : str or Optimizer
            "adam", or one from `cgru.optimizers` with other settings. None where a layer is quantised: such a model is
            evaluated alone.
        loss : str or Loss
            "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy", "mse", "mae",
            "huber", one from `cgru.losses` with other settings, or your own.
        metrics : list of str, Metric or function
            Names ("accuracy", "macro_f1", "mse", "mae", "perplexity", "auc"), or metrics from `cgru.metrics` with other
            settings. A function (y_true, y_pred) -> float sees all labels and outputs that count at once: it is
            reported by `evaluate`, and by `fit` for `validation_data` alone.

        Raises
        ------
        TypeError, ValueError
            If a name is unknown, or the loss cannot work on the output of the last layer, or a metric with the loss.
        """
        if optimizer is not None or all(layer.refuses_training() is None for layer in self.layers):
            self._check_trainable("optimizer", "; compile(None, loss, metrics) is for evaluate alone")
            optimizer = optimizers.get(optimizer)  # type: ignore[arg-type]  # None is refused
        loss = losses.get(loss)  # type: ignore[arg-type]
        metrics = measures.get_metrics(metrics, loss)
        measures.check_range(self.layers[-1], loss)
        vars(self).update(optimizer=optimizer, loss=loss, metrics=metrics)  # what is read-only outside of here
        self._states = self._course = None

    def fit(
        self,
        x: ArrayLike | BatchSource,
        y: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        epochs: SupportsIndex = 1,
        batch_size: SupportsIndex = 32,
        shuffle: bool = True,
        validation_data: Validation | BatchSource | None = None,
        verbose: Verbose = 1,
        *,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight | None = None,
        validation_split: float = 0.0,
        callbacks: Sequence[Any] | None = None,
        initial_epoch: SupportsIndex = 0,
        chunk: SupportsIndex | None = None,
        resume: bool = False,
        resets: Any = None,
        all_reduce: AllReduce | None = None,
        recompute: Recompute = None,
    ) -> History:
        """Train on examples `x` with labels `y` (see the class), or on the batches that an iterable brings.

        Parameters
        ----------
        x, y, lengths, mask, resets
            As described for the class. Arrays may be mapped from files (`numpy.memmap`, ``numpy.load(mmap_mode="r")``)
            and larger than the memory: rows are read when their batch comes.

            With `y` None, `x` brings batches: an iterable of (x, y) or (x, y, dict(lengths=..., mask=..., resets=...,
            sample_weight=...)) that starts anew in every epoch, such as a list, an object with ``__iter__``, or a
            function that returns an iterator.
        epochs : int
            The number of the last epoch: how often to go through the examples, with `initial_epoch` 0.
        batch_size : int
            Number of examples for an update; batches of an iterable have sizes of their own.
        shuffle : bool
            Whether the order of the examples is drawn anew for each epoch, from the model's seed and the number of the
            epoch. Batches of an iterable come in its order.
        validation_data : tuple or iterable, optional
            (x, y) or (x, y, dict(lengths=..., mask=..., resets=..., sample_weight=...)), evaluated after each epoch;
            or an iterable of batches.
        verbose : {0, 1, 2, "auto"}
            0: nothing. 1 or "auto": a line an epoch, and a bar for the running one if tqdm is installed. 2: the lines.
        sample_weight : array_like of shape (N,), or of the steps (N, T) or a list of N arrays (T_i,); optional
            What each example, or each step, weighs in the loss: finite numbers of at least 0, not all 0. The loss of a
            batch is the sum of value times weight by the number of values, as in Keras: a weight of 0 still counts as
            one. Metrics are not weighted.
        class_weight : dict class -> weight, or "balanced"; optional
            What the classes weigh; those that the dict lacks weigh 1. "balanced" is n / (K * count of the class), as in
            scikit-learn, over the n labels that count, which batches of an iterable cannot tell. With `sample_weight`
            both are multiplied. It does not act on what validates.
        validation_split : float
            The share of the examples, the last ones before they are shuffled, that validates instead of training.
        callbacks : list, optional
            Objects as in `cgru.callbacks`, which are called in this order.
        initial_epoch : int
            The number of the first epoch, for what is printed, `history` and the callbacks.
        chunk : int, optional
            Truncated backpropagation through time: an update for every so many steps of a batch. The state goes on from
            chunk to chunk and gradients do not go back. A label of a whole sequence counts in the chunk in which it
            ends; the chunks before only carry the state there.
        resume : bool
            Go on with the run that the model was saved in (``cgru.save(..., training_state=True)``, `ModelCheckpoint`),
            with the arguments that it had; `epochs` may be more. Where there was none, a run begins. The result has the
            bits of a run that was never interrupted.
        all_reduce : callable, optional
            Train on several processes, the ranks, which all call `fit` with the same arguments, and a model of the same
            seed: this one sums a flat array in place over all of them. `cgru.distributed` has those for MPI and
            PyTorch; others may have `rank` and `size`. Each rank works on its share of every batch; the numbers are
            those of one process, to rounding. Rank 0 prints and saves.
        recompute : int or "auto", optional
            For long sequences: GRUs keep the state of every so many steps alone, and compute these steps again in the
            pass back, as `GRU.forward` tells: the same bits in less memory and at most one and a half times the time.
            "auto" is about the square root of the number of steps.

        Returns
        -------
        History
            Also kept in `history`. The figures of an epoch are means over its batches, as they were in training.

        Raises
        ------
        RuntimeError
            If `compile` was not called; or if a callback fails, whose name the message tells.
        TypeError, ValueError
            If an argument does not fit, before anything is trained; or, later, if the examples hold a number that is
            not finite, or a batch of an iterable does not fit.
        FloatingPointError
            If the loss, a gradient or an update is not finite. Like the error for the examples, the message says in
            which batch and for which row; that update is not made.
        KeyboardInterrupt
            On Ctrl-C.

        Notes
        -----
        After an error or Ctrl-C in the midst of training, parameters, optimizer and the states of stateful layers are
        as the last finished update left them, and `history` holds the finished epochs.

        With a stateful GRU, row i of a batch goes on from row i of the batch before, so `shuffle` must be False and
        `batch_size` divide the number of rows. Each epoch starts from the state that the model has now; validation
        starts from none and leaves none.
        """
        given = {"lengths": lengths, "mask": mask, "resets": resets, "sample_weight": sample_weight}
        given["class_weight"] = class_weight
        return self._fit(
            x, y, given, epochs, batch_size, shuffle, validation_data=validation_data, verbose=verbose,
            validation_split=validation_split, callbacks=callbacks, initial_epoch=initial_epoch, chunk=chunk,
            resume=resume, all_reduce=all_reduce, recompute=recompute,
        )  # fmt: skip

    def train_on_batch(
        self,
        x: ArrayLike,
        y: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight | None = None,
        *,
        resets: Any = None,
        recompute: Recompute = None,
    ) -> dict[str, float]:
        """Make one update with these examples, and return a dict of the loss and the metrics before it.

        The states of stateful layers go on from call to call.

        Raises
        ------
        RuntimeError, TypeError, ValueError, FloatingPointError
            As `fit`.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> model = cgru.Sequential([cgru.GRU(4), cgru.Dense(2, activation="softmax")], seed=0)
        >>> model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> sorted(model.train_on_batch(np.ones((4, 3, 2)), [0, 1, 0, 1]))
        ['accuracy', 'loss']
        """
        given = {"lengths": lengths, "mask": mask, "resets": resets, "sample_weight": sample_weight}
        return self._train_on_batch(x, y, given | {"class_weight": class_weight}, recompute)

    # -- the work

    def _fit(
        self,
        x: Any,
        y: Any,
        given: dict[str, Any],
        epochs: SupportsIndex,
        batch_size: SupportsIndex,
        shuffle: bool,
        *,
        validation_data: Any,
        verbose: Verbose,
        validation_split: float,
        callbacks: Sequence[Any] | None,
        initial_epoch: SupportsIndex,
        chunk: SupportsIndex | None,
        resume: bool,
        all_reduce: AllReduce | None,
        recompute: Recompute,
    ) -> History:
        """What `fit` does; `given` are the arguments that belong to the examples."""
        source: Arrays | Batches
        held: Arrays | None = None
        ranks = None if all_reduce is None else Ranks(all_reduce)
        with preparing(ranks):
            self._check_compiled(training=True)
            epochs, batch_size = check_int(epochs, "epochs"), check_int(batch_size, "batch_size", 1)
            initial_epoch = check_int(initial_epoch, "initial_epoch")
            shuffle, resume = check_bool(shuffle, "shuffle"), check_bool(resume, "resume")
            shown, hooks = check_verbose(verbose), Hooks(callbacks)
            if validation_split and validation_data is not None:
                raise ValueError("validation_data, validation_split: give one of the two, got both")
            measures.check_states(self.layers[-1], self.loss)
            recompute = measures.check_recompute(self.layers, recompute)
            if chunk is not None:
                chunk = check_int(chunk, "chunk", 1)
                chunks.check(self.layers)
            if y is None and brings_batches(x):
                self._check_alone(given | {"class_weight": None, "validation_split": validation_split or None})
                source = Batches(self, opener_of(x, epochs - initial_epoch), class_weight=given["class_weight"])
            else:
                source, held = self._arrays(x, y, given, batch_size, validation_split)
                stateful.check_batches(self.layers, source.count, batch_size, shuffle)
                if chunk is not None:
                    chunks.check_resets(self.layers, source.batch)
            if ranks is not None:
                ranks.check(self, source, chunk)
            validate = self._validation(validation_data, held, source, batch_size, epochs - initial_epoch, ranks)
            settings = {"examples": source.count, "batch_size": batch_size, "shuffle": shuffle, "chunk": chunk}
            before = self._course if resume else None
            if before is not None:
                before.check(settings, initial_epoch)
                if ranks is not None and before.within_epoch:
                    raise ValueError("resume: expected a run saved between epochs beside all_reduce, got one within")
            if isinstance(source, Arrays):
                self._build_for(source.batch)
            course = before or self._new_course(settings, initial_epoch)
            if ranks is not None:
                if isinstance(source, Arrays):
                    ranks.note(source.batch, source.targets)
                ranks.begin(self, [settings, epochs, course.order_now, self.iterations, validate is None])
        with self._recomputing(recompute):
            Loop(self, source, validate, course, hooks, epochs, shown, ranks).run(resumed=course is before)
        return course.history

    def _train_on_batch(self, x: Any, y: Any, given: dict[str, Any], recompute: Recompute) -> dict[str, float]:
        """What `train_on_batch` does."""
        self._check_compiled(training=True)
        recompute = measures.check_recompute(self.layers, recompute)
        measures.check_states(self.layers[-1], self.loss)
        batch, targets = checked(self, x, y, given, whole=False)
        stateful.check_batches(self.layers, len(targets), len(targets), shuffle=False)
        self._build_for(batch)
        rows = np.arange(len(targets))
        totals = Totals(self)
        with self._recomputing(recompute):
            self._update(self._converted(batch), targets, totals, finite.Place(1, 1, rows, rows))
        return totals.means()

    def _arrays(
        self, x: Any, y: Any, options: dict[str, Any], batch_size: int, split: float
    ) -> tuple[Arrays, Arrays | None]:
        """Return the examples to train with, and the last ones that were held back to validate with."""
        if hasattr(x, "__next__"):
            raise ValueError(f"y: expected None beside an iterable of batches (x, y), got {type(y).__name__}")
        if not 0 <= check_number(split, "validation_split") < 1:
            raise ValueError(f"validation_split: expected a number of at least 0 and less than 1, got {split!r}")
        own = options if not split else options | {"class_weight": None}  # which does not act on what validates
        source = Arrays(self, *checked(self, x, y, own), batch_size)
        if not split:
            return source, None
        source, held = source.split(split)
        if options["class_weight"] is not None:
            again = {"sample_weight": source.targets.weights, "class_weight": options["class_weight"]}
            shape = self._output_shape(source.batch)
            source.targets = self._targets(source.targets.labels, source.batch, shape, **again)
        return source, held

    def _new_course(self, settings: dict[str, Any], first: int) -> Course:
        """A run that begins; its orders of the examples are those behind the last run's."""
        before = 0 if self._course is None else self._course.next_order
        begun = [getattr(layer, "_state", None) for layer in self.layers]
        return Course(settings, first, max(first, before), begun)
