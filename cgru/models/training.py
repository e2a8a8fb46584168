"""The loop that trains a model.

An update is computed aside, with new parameters and a new optimizer state in arrays of their own, which then take the
places of those in use; these are written by the next update, unless somebody still holds one of them. Ctrl-C can come
at any moment: before the exchange nothing has changed, and one that it interrupts is made again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import losses, metrics, optimizers
from cgru.checks import check_bool, check_int
from cgru.layers import GRU, Dense, Layer
from cgru.locks import owned, unshared
from cgru.losses import Loss
from cgru.metrics import Function, Metric
from cgru.models import examples, finite, stateful
from cgru.models.model import Model
from cgru.models.progress import figures, progress_of
from cgru.models.runs import Evaluation, FusedRun, Run, Totals, metrics_of
from cgru.models.targets import Targets, targets
from cgru.optimizers import Optimizer, State
from cgru.sequences import Batch
from cgru.typing import (
    Array,
    ClassWeight,
    IntArray,
    LossName,
    MetricFunction,
    MetricName,
    OptimizerName,
    Parameter,
    Shape,
    States,
    Validation,
)

if TYPE_CHECKING:
    from typing_extensions import Self

_POSITIVE = ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2")  # activations of states from 0 to 1


class History:
    """What `fit` reports.

    Attributes
    ----------
    epochs : list of int
        The finished epochs, counted from 0.
    history : dict
        Name ("loss", "accuracy", "val_loss", ...) -> list with one number for each finished epoch.
    """

    def __init__(self) -> None:
        self._results: list[dict[str, float]] = []  # one dict an epoch: an append is whole or has not happened

    def __repr__(self) -> str:
        count = len(self._results)
        last = f", the last: {figures(self._results[-1])}" if count else ""
        return f"<History of {count} epoch{'' if count == 1 else 's'}{last}>"

    @property
    def epochs(self) -> list[int]:
        return list(range(len(self._results)))

    @property
    def history(self) -> dict[str, list[float]]:
        names = self._results[0] if self._results else {}
        return {name: [results[name] for results in self._results] for name in names}


class Trainable(Model):
    """A model that can be trained: a subclass implements `build`, `_forward` and `_backward`."""

    _options = ("optimizer", "loss", "metrics")  # of `compile`
    optimizer: Optimizer | Any  # None before `compile`, as the two below
    loss: Loss | Any
    metrics: list[Metric | Function] | Any
    history: History | None
    _states: tuple[State, State] | None  # the optimizer's: the current one and the spare
    _proposed: dict[Parameter, Array] | Any  # new parameters, computed aside
    _logits: Array | None  # memory for those of a batch, while `fit` runs

    def __init__(self, layers: Sequence[Layer], seed: SupportsIndex | None = None) -> None:
        super().__init__(layers, seed)
        self.history = None
        self.optimizer = self.loss = self.metrics = None
        self._states = self._proposed = self._logits = None

    # -- what a subclass implements

    def build(self, input_size: SupportsIndex | None = None) -> Self:
        """Create the parameters of all layers, once."""
        raise NotImplementedError

    def _forward(
        self,
        batch: Batch,
        states: States | None = None,
        training: bool = False,
        key: Any = None,
        end: int | None = None,
    ) -> tuple[Batch, States, list[Any]]:
        """Return (Batch of outputs, list of the layers' states, list of their tapes); nothing is kept. With `end`, of
        the layers before that one."""
        raise NotImplementedError

    def _backward(self, d_out: Array, tapes: list[Any], at_logits: bool) -> dict[Parameter, Array]:
        """Return dict (layer index, parameter name) -> gradient, of the trainable layers, from the gradient of the
        outputs, or with `at_logits` from that at the input of the last activation."""
        raise NotImplementedError

    # -- training

    def _instead_of_change(self, name: str, value: str) -> str:
        if name in Trainable._options:
            return f"compile({name}={value}, ...)"
        return super()._instead_of_change(name, value)

    def compile(
        self,
        optimizer: OptimizerName | Optimizer = "adam",
        loss: LossName | Loss | None = None,
        metrics: Sequence[MetricName | Metric | Function | MetricFunction] = (),
    ) -> None:
        """Choose how to train; the optimizer starts afresh.

        Parameters
        ----------
        optimizer : str or Optimizer
            "adam", or one from `cgru.optimizers` with other settings.
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
        optimizer, loss = optimizers.get(optimizer), losses.get(loss)  # type: ignore[arg-type]  # None is refused
        metrics = _get_metrics(metrics, loss)
        _check_range(self.layers[-1], loss)
        vars(self).update(optimizer=optimizer, loss=loss, metrics=metrics)  # what is read-only outside of here
        self._states = None

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        epochs: SupportsIndex = 1,
        batch_size: SupportsIndex = 32,
        shuffle: bool = True,
        validation_data: Validation | None = None,
        verbose: bool | Literal[0, 1] = 1,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight | None = None,
    ) -> History:
        """Train on examples `x` with labels `y` (see the class).

        Parameters
        ----------
        x, y, lengths, mask
            As described for the class.
        epochs : int
            How often to go through the examples.
        batch_size : int
            Number of examples for an update.
        shuffle : bool
            Whether the order is drawn anew in each epoch, from the model's seed.
        validation_data : tuple, optional
            (x, y) or (x, y, dict(lengths=..., mask=..., sample_weight=...)), evaluated after each epoch.
        verbose : {0, 1}
            1: a progress bar if tqdm is installed, else a line an epoch. 0: nothing.
        sample_weight : array_like of shape (N,), or of the steps (N, T) or a list of N arrays (T_i,); optional
            What each example, or each step, weighs in the loss: finite numbers of at least 0, not all 0. The loss of a
            batch is the sum of value times weight by the number of values, as in Keras: a weight of 0 still counts as
            one. Metrics are not weighted.
        class_weight : dict class -> weight, or "balanced"; optional
            What the classes weigh; those that the dict lacks weigh 1. "balanced" is n / (K * count of the class), as in
            scikit-learn, over the n labels that count. With `sample_weight` both are multiplied. It does not act on
            `validation_data`.

        Returns
        -------
        History
            Also kept in `history`. The figures of an epoch are means over its batches, as they were in training.

        Raises
        ------
        RuntimeError
            If `compile` was not called.
        TypeError, ValueError
            If an argument does not fit, before anything is trained; or, later, if the examples hold a number that is
            not finite.
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
        self._check_compiled()
        epochs, batch_size = check_int(epochs, "epochs"), check_int(batch_size, "batch_size", 1)
        shuffle = check_bool(shuffle, "shuffle")
        if verbose not in (0, 1):
            raise ValueError(f"verbose: expected 0 or 1, got {verbose!r}")
        batch, shape = examples.inputs(self.layers, x, lengths, mask)
        _check_states(self.layers[-1], self.loss)
        if not len(batch.data):
            raise ValueError("x: expected at least one example, got none")
        labels = self._targets(y, batch, shape, sample_weight=sample_weight, class_weight=class_weight)
        validation = self._validation(validation_data, batch, batch_size)
        stateful.check_batches(self.layers, len(labels), batch_size, shuffle)
        self._build_for(batch)
        begun = [getattr(layer, "_state", None) for layer in self.layers]
        self.history = history = History()
        updates = math.ceil(len(labels) / batch_size)
        try:
            with progress_of(epochs, updates, verbose) as progress:
                for epoch in range(1, epochs + 1):
                    self._keep_states(begun)
                    order = self._order.permutation(len(labels)) if shuffle else np.arange(len(labels))
                    totals = Totals(self)
                    for number, start in enumerate(range(0, len(labels), batch_size), start=1):
                        place = finite.Place(epoch, number, order[start : start + batch_size])
                        self._update(*examples.rows_of(self.layers, batch, labels, place.rows), totals, place)
                        progress.update()
                    results = totals.means()
                    if validation is not None:
                        states = stateful.first_states(self.layers, min(batch_size, len(validation[1])))
                        values, _ = self._evaluate(*validation, batch_size, states)
                        results |= {f"val_{name}": value for name, value in values.items()}
                    history._results.append(results)
                    progress.epoch(results)
        finally:
            self._logits = None
        return history

    def evaluate(
        self,
        x: ArrayLike,
        y: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        batch_size: SupportsIndex = 32,
        sample_weight: ArrayLike | None = None,
    ) -> dict[str, float]:
        """Return a dict with the mean loss and the metrics on examples `x` with labels `y`; dropout does not act.

        `sample_weight` weighs the loss, as in `fit`.

        Raises
        ------
        RuntimeError
            If `compile` was not called.
        TypeError, ValueError
            If an argument does not fit.
        """
        self._check_compiled()
        batch_size = check_int(batch_size, "batch_size", 1)
        batch, shape = examples.inputs(self.layers, x, lengths, mask)
        _check_states(self.layers[-1], self.loss)
        labels = self._targets(y, batch, shape, sample_weight=sample_weight)
        stateful.check_one_batch(self.layers, len(labels), batch_size)
        results, states = self._evaluate(batch, labels, batch_size)
        self._keep_states(states)
        return results

    # -- the work

    def _check_compiled(self) -> None:
        if self.loss is None:
            raise RuntimeError("the model has no loss yet: call compile(optimizer, loss) first")

    def _validation(self, data: Validation | None, like: Batch, batch_size: int) -> tuple[Batch, Targets] | None:
        if data is None:
            return None
        x, y, options = examples.validation_arguments(data)
        weights = options.pop("sample_weight", None)
        try:
            batch, shape = examples.inputs(self.layers, x, **options, like=like)
            if not len(batch.data):
                raise ValueError("x: expected at least one example, got none")
            labels = self._targets(y, batch, shape, sample_weight=weights)
            stateful.check_equal_batches(self.layers, len(labels), batch_size)
            return batch, labels
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation_data: {error}") from None

    def _targets(self, y: ArrayLike, batch: Batch, shape: Shape, **weights: Any) -> Targets:
        return targets(self.layers, self.loss, self.metrics, y, batch, shape, **weights)

    def _build_for(self, batch: Batch) -> None:
        self.build(batch.data.shape[-1] if batch.data.ndim > 1 else None)

    def _chunks(self, batch: Batch, batch_size: int) -> list[IntArray]:
        """Return index arrays that cover the rows, rows of like length together; one, empty, if there are no rows."""
        count = len(batch.data)
        order = np.arange(count)
        if batch.lengths is not None and not stateful.stateful_layers(self.layers):
            order = np.argsort(-batch.lengths, kind="stable")
        return [order[start : start + batch_size] for start in range(0, max(1, count), batch_size)]

    def _evaluate(
        self, batch: Batch, labels: Targets, batch_size: int, states: States | None = None
    ) -> tuple[dict[str, float], States]:
        """Return (dict of means, states after the last batch); the states are those of the first batch's start."""
        totals, after = Evaluation(self), states or [None] * len(self.layers)
        for rows in self._chunks(batch, batch_size):
            after = totals.batch(*examples.rows_of(self.layers, batch, labels, rows), rows, after)
            after = stateful.carried(self.layers, after)
        return totals.means(), after

    def _update(self, batch: Batch, labels: Targets, totals: Totals, place: finite.Place) -> None:
        """One update from a batch; adds what it saw to `totals`. It is made whole, or refused whole."""
        with np.errstate(all="ignore"):  # what is not finite is looked for below
            run = self._run(batch, labels)
            seen = run.seen(totals)
            if not math.isfinite(seen["loss"][0]):
                raise finite.loss_error(self, batch, run.row_losses(len(labels)), place)
            gradients = run.gradients()
            parameters = {(i, name): self.layers[i].parameters[name] for i, name in gradients}
            current, spare = self._optimizer_states(parameters)
            proposed = self._proposed = unshared(self._proposed)
            known = self.optimizer.propose(parameters, gradients, current, proposed, spare)
            if not known and not finite.all_finite(gradients.values(), squares=True):
                raise finite.gradient_error(self, batch, labels, gradients, place)
            if not known and not finite.all_finite(proposed.values()):
                raise finite.update_error(self, proposed, place)
        self._publish((spare, current), run.states)
        totals.add(seen)

    def _gradients(
        self, batch: Batch, labels: Targets, states: States | None = None, key: Any = None
    ) -> dict[Parameter, Array]:
        """The gradients that a batch gives, dict (layer index, parameter name) -> array; nothing is updated."""
        return self._run(batch, labels, states, key).gradients()

    def _run(self, batch: Batch, labels: Targets, states: States | None = None, key: Any = None) -> Run | FusedRun:
        """The forward pass of a batch in training, with its loss."""
        in_place = self.loss.knows("replace_logits") and self._fuses_loss("forward_batch", "backward_batch")
        in_place = in_place and False not in [metric.fuses_with(self.loss) for metric in metrics_of(self)]
        return (FusedRun if in_place else Run)(self, batch, labels, states, key)

    def _fuses_loss(self, *methods: str) -> bool:
        """Whether the loss knows its gradient at the input of the last layer's activation, and the layer has these
        methods from `Dense`."""
        last = self.layers[-1]
        return (
            isinstance(last, Dense)
            and self.loss.knows("logit_gradients")
            and last.activation == self.loss.fused_activation
            and all(getattr(type(last), name) is getattr(Dense, name) for name in methods)
        )

    def _logits_of(self, rows: int, layer: Dense) -> Array:
        """Memory for the logits (rows, units) of a batch: what is large comes from the system, page by page, so it is
        asked for once."""
        kept, size = self._logits, rows * layer.units
        if kept is None or kept.size < size or kept.dtype != layer.dtype:
            kept = self._logits = np.empty(size, layer.dtype)
        return kept[:size].reshape(rows, layer.units)

    def _optimizer_states(self, parameters: Mapping[Parameter, Array]) -> tuple[State, State]:
        if self._states is None or not self._states[0].fits(parameters) or self._proposed.keys() != parameters.keys():
            states = self.optimizer.start(parameters), self.optimizer.start(parameters)
            if self._states is not None:  # other layers are trainable now
                states[0].take_over(self._states[0])
            self._proposed = {key: np.empty_like(array) for key, array in parameters.items()}
            self._states = states
        return self._states

    def _publish(self, optimizer_states: tuple[State, State], states: States) -> None:
        """Exchange the parameters for those proposed."""
        new: dict[int, dict[str, Array]] = {}
        for (i, name), array in self._proposed.items():
            new.setdefault(i, dict(self.layers[i]._built_parameters()))[name] = array
        spare = {(i, name): self.layers[i]._built_parameters()[name] for i, name in self._proposed}
        with self._lock:
            try:
                self._exchange(new, spare, optimizer_states, states)
            except KeyboardInterrupt:
                self._exchange(new, spare, optimizer_states, states)
                raise

    def _exchange(
        self,
        new: dict[int, dict[str, Array]],
        spare: dict[Parameter, Array],
        optimizer_states: tuple[State, State],
        states: States,
    ) -> None:
        """Doing it twice is doing it once."""
        for i, parameters in new.items():
            self.layers[i]._publish(parameters)
        self._proposed, self._states = spare, optimizer_states
        self._keep_states(states)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_logits": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._proposed = self._proposed and {key: owned(array) for key, array in self._proposed.items()}


def _get_metrics(
    names: Sequence[MetricName | Metric | Function | MetricFunction], loss: Loss
) -> list[Metric | Function]:
    if not isinstance(names, (list, tuple)):
        raise TypeError(f"metrics: expected a list of names, got {names!r}")
    found = [metrics.get(name) for name in names]
    if len({metric.name for metric in found}) != len(found):
        raise ValueError(f"metrics: expected each name once, got {names!r}")
    if any(metric.name == "loss" for metric in found):
        raise ValueError(f"metrics: expected other names than 'loss', which is the loss', got {names!r}")
    return [metric.for_loss(loss) if isinstance(metric, Metric) else metric for metric in found]


def _check_range(last: Layer, loss: Loss) -> None:
    """Refuse a loss that wants probabilities of a layer that gives others numbers too, or the other way round."""
    wanted = getattr(loss, "from_logits", None)
    if not isinstance(last, Dense) or wanted is None or wanted == (last.activation not in ("softmax", "sigmoid")):
        return
    what = "logits: a linear last layer" if wanted else "probabilities: a softmax (or sigmoid) last layer"
    if not wanted and loss.distribution == "binary":
        what = "probabilities: a sigmoid last layer"
    raise ValueError(f"loss: {loss.name!r} expected {what}, got activation {last.activation!r}")


def _check_states(last: Layer, loss: Loss) -> None:
    """Refuse a loss that wants probabilities of the states of a GRU that may be negative; a batch may show it late."""
    if isinstance(last, GRU) and getattr(loss, "from_logits", True) is False and last.activation not in _POSITIVE:
        raise ValueError(
            f"loss: {loss.name!r} expected probabilities, got the states of a GRU with activation {last.activation!r}: "
            f"put a Dense with a {'sigmoid' if loss.distribution == 'binary' else 'softmax'} behind it"
        )
