"""Callbacks: what is done beside training, at its beginning, after epochs and at its end.

A callback is any object with some of the methods of `Callback`; it need not be of that class. What it may do to the
training it does through the `Training` that `on_train_begin` hands to it: a callback knows neither models nor files.
"""

from __future__ import annotations

import math
import os
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias

from cgru.checks import check_bool, check_int, check_name, check_number
from cgru.configured import Configured
from cgru.typing import Array, Path

Logs: TypeAlias = Mapping[str, float]
Mode: TypeAlias = Literal["auto", "min", "max"]

HOOKS = ("on_train_begin", "on_epoch_begin", "on_batch_end", "on_epoch_end", "on_train_end")


class Training(Protocol):
    """What a callback sees of the training, and what it may do to it.

    Attributes
    ----------
    epochs : int
        The number of the last epoch, as `fit` was given it.
    epoch : int
        The epoch that runs, or, between two, that comes; counted from 0.
    batches : int or None
        Updates of an epoch, or batches with `chunk`; None where that is not known.
    names : list of str
        What `logs` will hold: "loss", "accuracy", "val_loss", ...
    resumed : bool
        Whether a run goes on that was begun before.
    learning_rate : float
        Of the next update; may be set.
    """

    epochs: int
    epoch: int
    batches: int | None
    names: list[str]
    resumed: bool
    learning_rate: float

    def stop(self) -> None:
        """Let this epoch be the last."""

    def get_weights(self) -> list[Array]:
        """Return copies of the model's parameters."""

    def set_weights(self, weights: list[Array]) -> None:
        """Copy `weights` into the model."""

    def save(self, path: str, training_state: bool = True) -> None:
        """Have the model saved, in one piece, once all callbacks have seen this epoch or batch."""

    def check_saving(self, training_state: bool = True) -> None:
        """Raise now what `save` would raise because of what the model is."""


class Callback:
    """Base class of the callbacks; each method does nothing.

    A class of one's own overrides some of them. What it has to remember beyond a restart goes through `get_state` and
    `set_state`.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> class Stop(cgru.callbacks.Callback):
    ...     def on_epoch_end(self, epoch, logs):
    ...         if logs["loss"] < 0.6:
    ...             self.training.stop()
    >>> model = cgru.Sequential([cgru.GRU(4), cgru.Dense(2, activation="softmax")], seed=0)
    >>> model.compile(cgru.optimizers.Adam(0.05), loss="sparse_categorical_crossentropy")
    >>> history = model.fit(np.ones((4, 3, 2)), [0, 0, 0, 1], epochs=100, callbacks=[Stop()], verbose=0)
    >>> len(history.epochs) < 100
    True
    """

    training: Training

    def on_train_begin(self, training: Training) -> None:
        """Called before the first epoch, when all arguments of `fit` were checked."""
        self.training = training

    def on_epoch_begin(self, epoch: int) -> None:
        """Called before each epoch, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Called after each epoch, validation included; `logs` is name -> figure: "loss", "val_loss", ..."""

    def on_train_end(self) -> None:
        """Called when the last epoch is done; not after an error, nor after Ctrl-C."""

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` needs to go on from here: a dict of numbers, texts, arrays, and lists and dicts of
        them."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned; called after `on_train_begin` in a run that is resumed."""


class _Monitor(Callback, Configured):
    """Base class of what watches one figure."""

    monitor: str
    mode: Mode
    _options: tuple[str, ...] = ("monitor", "mode")

    def __init__(self, monitor: str, mode: Mode) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor: expected a name such as 'val_loss', got {monitor!r}")
        self.monitor = monitor
        self.mode = check_name(mode, "mode", ("auto", "min", "max"))

    @property
    def _upwards(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        return any(part in self.monitor for part in ("acc", "auc", "f1"))

    def _better(self, value: float, reference: float, min_delta: float = 0.0) -> bool:
        """Whether `value` is better than `reference` by more than `min_delta`; NaN never is."""
        return value - min_delta > reference if self._upwards else value + min_delta < reference

    @property
    def _worst(self) -> float:
        return -math.inf if self._upwards else math.inf

    def on_train_begin(self, training: Training) -> None:
        super().on_train_begin(training)
        if self.monitor not in training.names:
            advice = "; validation_data or validation_split gives it" if self.monitor.startswith("val_") else ""
            raise ValueError(f"monitor: expected one of {training.names}, got {self.monitor!r}{advice}")


class EarlyStopping(_Monitor):
    """Stop when a figure has not become better for some epochs.

    Parameters
    ----------
    monitor : str
        The figure: "val_loss", "val_accuracy", ...
    min_delta : float
        What counts as better is better by more than this.
    patience : int
        After so many epochs in a row that were not better, training stops.
    mode : {"auto", "min", "max"}
        Whether less or more is better; "auto" takes more for names with "acc", "auc" or "f1", and else less.
    baseline : float, optional
        Only figures better than this end the wait.
    restore_best_weights : bool
        Whether the model gets the weights of its best epoch at the end. The optimizer stays as it is.
    start_from_epoch : int
        Epochs before this one, counted from 0, are not looked at.

    Attributes
    ----------
    best : float or None
    best_epoch : int or None
        Counted from 0.
    stopped_epoch : int or None
        The epoch after which training was stopped, counted from 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range; in `fit`, before anything is trained, if there is no such
        figure.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> x, y = np.random.default_rng(0).standard_normal((40, 5, 2)), np.arange(40) % 2
    >>> model = cgru.Sequential([cgru.GRU(4), cgru.Dense(2, activation="softmax")], seed=0)
    >>> model.compile(cgru.optimizers.Adam(0.1), loss="sparse_categorical_crossentropy")
    >>> stopping = cgru.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    >>> history = model.fit(x, y, epochs=100, validation_split=0.25, callbacks=[stopping], verbose=0)
    >>> len(history.epochs) == stopping.best_epoch + 3
    True
    """

    _options = ("min_delta", "patience", "baseline", "restore_best_weights", "start_from_epoch")

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: SupportsIndex = 0,
        mode: Mode = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: SupportsIndex = 0,
    ) -> None:
        super().__init__(monitor, mode)
        self.min_delta = abs(check_number(min_delta, "min_delta"))
        self.patience = check_int(patience, "patience")
        self.baseline = None if baseline is None else check_number(baseline, "baseline")
        self.restore_best_weights = check_bool(restore_best_weights, "restore_best_weights")
        self.start_from_epoch = check_int(start_from_epoch, "start_from_epoch")
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self._wait = 0
        self._best_weights: list[Array] | None = None

    def on_train_begin(self, training: Training) -> None:
        super().on_train_begin(training)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if epoch < self.start_from_epoch:
            return
        value = logs[self.monitor]
        first = self.best is None and not math.isnan(value)
        if self.restore_best_weights and self._best_weights is None:
            self._best_weights, self.best_epoch = self.training.get_weights(), epoch
        self._wait += 1
        if first or (self.best is not None and self._better(value, self.best, self.min_delta)):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self._best_weights = self.training.get_weights()
            if self.baseline is None or self._better(value, self.baseline, self.min_delta):
                self._wait = 0
        elif self._wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.training.stop()

    def on_train_end(self) -> None:
        if self.restore_best_weights and self._best_weights is not None:
            self.training.set_weights(self._best_weights)

    def get_state(self) -> dict[str, Any]:
        names = ("best", "best_epoch", "stopped_epoch", "_wait", "_best_weights")
        return {name.lstrip("_"): getattr(self, name) for name in names}

    def set_state(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.stopped_epoch = (state[n] for n in ("best", "best_epoch", "stopped_epoch"))
        self._wait, self._best_weights = state["wait"], state["best_weights"]


class ReduceLROnPlateau(_Monitor):
    """Lower the learning rate when a figure has not become better for some epochs.

    Parameters
    ----------
    monitor : str
        The figure: "val_loss", "val_accuracy", ...
    factor : float
        What the learning rate is multiplied by; more than 0 and less than 1.
    patience : int
        After so many epochs in a row that were not better, it is lowered.
    mode : {"auto", "min", "max"}
        As in `EarlyStopping`.
    min_delta : float
        What counts as better is better by more than this.
    cooldown : int
        Epochs after each lowering that are not counted.
    min_lr : float
        The learning rate never gets lower than this.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range; in `fit`, before anything is trained, if there is no such
        figure, or the learning rate follows a schedule.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> model = cgru.Sequential([cgru.GRU(4), cgru.Dense(2, activation="softmax")], seed=0)
    >>> model.compile(cgru.optimizers.Adam(0.5), loss="sparse_categorical_crossentropy")
    >>> reducing = cgru.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0)
    >>> history = model.fit(np.ones((4, 3, 2)), [0, 1, 0, 1], epochs=3, callbacks=[reducing], verbose=0)
    >>> model.optimizer.learning_rate
    0.125
    """

    _options = ("factor", "patience", "min_delta", "cooldown", "min_lr")

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: SupportsIndex = 10,
        mode: Mode = "auto",
        min_delta: float = 1e-4,
        cooldown: SupportsIndex = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode)
        if not 0 < check_number(factor, "factor") < 1:
            raise ValueError(f"factor: expected a number of more than 0 and less than 1, got {factor!r}")
        self.factor = float(factor)
        self.patience = check_int(patience, "patience")
        self.min_delta = check_number(min_delta, "min_delta")
        self.cooldown = check_int(cooldown, "cooldown")
        self.min_lr = check_number(min_lr, "min_lr")
        if not 0 <= self.min_lr < math.inf:
            raise ValueError(f"min_lr: expected a number of at least 0, got {min_lr!r}")

    def on_train_begin(self, training: Training) -> None:
        super().on_train_begin(training)
        training.learning_rate = training.learning_rate  # refused where a schedule sets it
        self._best, self._wait, self._cooldown_left = self._worst, 0, 0

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self._cooldown_left:
            self._cooldown_left -= 1
            self._wait = 0
        if self._better(logs[self.monitor], self._best, self.min_delta):
            self._best, self._wait = logs[self.monitor], 0
        elif not self._cooldown_left:
            self._wait += 1
            rate = self.training.learning_rate
            if self._wait >= self.patience and rate > self.min_lr:
                self.training.learning_rate = max(rate * self.factor, self.min_lr)
                self._cooldown_left, self._wait = self.cooldown, 0

    def get_state(self) -> dict[str, Any]:
        return {"best": self._best, "wait": self._wait, "cooldown_left": self._cooldown_left}

    def set_state(self, state: dict[str, Any]) -> None:
        self._best, self._wait, self._cooldown_left = (state[name] for name in ("best", "wait", "cooldown_left"))


class ModelCheckpoint(_Monitor):
    """Save the model after epochs, or also after every few batches.

    Parameters
    ----------
    path : str or os.PathLike
        Of the file, which is replaced in one piece each time. It may hold fields of `str.format`: {epoch:03d}, counted
        from 1, and figures of the epoch such as {val_loss:.3f}.
    monitor : str
        The figure that `save_best_only` looks at.
    save_best_only : bool
        Whether to save only after epochs in which the figure was the best so far.
    mode : {"auto", "min", "max"}
        As in `EarlyStopping`.
    training_state : bool
        Whether the file also holds what `fit(..., resume=True)` needs to go on from there.
    every : "epoch" or int
        When to save: after each epoch, or after so many batches, counted over epochs, as well as after each epoch.
    initial_value_threshold : float, optional
        With `save_best_only`: only figures better than this are saved.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, or out of range; in `fit`, before anything is trained, if there is no such
        figure, or the model cannot be saved.
    """

    _options = ("path", "save_best_only", "training_state", "every", "initial_value_threshold")

    def __init__(
        self,
        path: Path,
        monitor: str = "val_loss",
        save_best_only: bool = False,
        mode: Mode = "auto",
        training_state: bool = True,
        every: Literal["epoch"] | SupportsIndex = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.path = _path_text(path)
        self.save_best_only = check_bool(save_best_only, "save_best_only")
        self.training_state = check_bool(training_state, "training_state")
        self.every: str | int = "epoch" if isinstance(every, str) and every == "epoch" else check_int(every, "every", 1)
        self.initial_value_threshold = (
            None if initial_value_threshold is None
            else check_number(initial_value_threshold, "initial_value_threshold")
        )  # fmt: skip
        if self.save_best_only and self.every != "epoch":
            raise ValueError(f"every: expected 'epoch' beside save_best_only=True, got {self.every}")
        try:
            self._fields = {field for _, field, _, _ in string.Formatter().parse(self.path) if field is not None}
        except ValueError as error:
            raise ValueError(f"path: expected fields as str.format has them, got {self.path!r}: {error}") from None
        self._best, self._batches = self._worst, 0
        if self.every != "epoch":
            self.on_batch_end = self._after_batch  # what has no such method costs nothing after batches

    def on_train_begin(self, training: Training) -> None:
        if self.save_best_only:
            super().on_train_begin(training)
        self.training = training
        known = ["epoch", *training.names]
        for field in sorted(self._fields):
            if field not in known:
                raise ValueError(f"path: expected fields among {known}, got {{{field}}} in {self.path!r}")
        if self._fields - {"epoch"} and self.every != "epoch":
            raise ValueError(f"path: expected no field but {{epoch}} beside every={self.every}, got {self.path!r}")
        training.check_saving(self.training_state)
        self._best = self._worst if self.initial_value_threshold is None else self.initial_value_threshold
        self._batches = 0

    def _after_batch(self, batch: int, logs: Logs) -> None:
        self._batches += 1
        assert isinstance(self.every, int)
        if self._batches % self.every == 0 and batch + 1 != self.training.batches:  # that is left to the epoch's end
            self._save(self.training.epoch, {})

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.save_best_only:
            if not self._better(logs[self.monitor], self._best):
                return
            self._best = logs[self.monitor]
        self._save(epoch, logs)

    def _save(self, epoch: int, logs: Logs) -> None:
        try:
            path = self.path.format(epoch=epoch + 1, **logs)
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise ValueError(f"path: expected fields as str.format has them, got {self.path!r}: {error}") from None
        self.training.save(path, self.training_state)

    def get_state(self) -> dict[str, Any]:
        return {"best": self._best, "batches": self._batches}

    def set_state(self, state: dict[str, Any]) -> None:
        self._best, self._batches = state["best"], state["batches"]


class CSVLogger(Callback, Configured):
    """Write the figures of each epoch as a line of a CSV file.

    Parameters
    ----------
    path : str or os.PathLike
        Of the file; its columns are the epoch, counted from 0, and the figures.
    separator : str
        Between columns.
    append : bool
        Whether to write behind what stands in the file. A run that is resumed always does, behind the last line that
        its checkpoint knows: lines of epochs that are run again are written again, not twice.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type.
    OSError
        In `fit`, if the file cannot be written.
    """

    _options = ("path", "separator", "append")

    def __init__(self, path: Path, separator: str = ",", append: bool = False) -> None:
        self.path = _path_text(path)
        if not isinstance(separator, str) or not separator:
            raise TypeError(f"separator: expected a text, got {separator!r}")
        self.separator = separator
        self.append = check_bool(append, "append")

    def on_train_begin(self, training: Training) -> None:
        super().on_train_begin(training)
        self._columns = ["epoch", *training.names]
        keep = training.resumed or self.append
        with open(self.path, "a" if keep else "w", encoding="utf-8", newline="") as file:
            begins = file.tell() == 0
            if begins:
                self._write(file, self._columns)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            self._write(file, [str(epoch), *(repr(float(logs[name])) for name in self._columns[1:])])

    def _write(self, file: Any, values: Sequence[str]) -> None:
        file.write(self.separator.join(values) + "\n")  # in one piece, when the file is closed

    def get_state(self) -> dict[str, Any]:
        return {"size": os.path.getsize(self.path)}

    def set_state(self, state: dict[str, Any]) -> None:
        if state["size"] < os.path.getsize(self.path):
            os.truncate(self.path, state["size"])


class LambdaCallback(Callback):
    """A callback of functions.

    Parameters
    ----------
    on_train_begin, on_epoch_begin, on_batch_end, on_epoch_end, on_train_end : callable, optional
        Called with the arguments of the method of that name.

    Raises
    ------
    TypeError
        If one of them cannot be called.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> model = cgru.Sequential([cgru.GRU(4), cgru.Dense(2, activation="softmax")], seed=0)
    >>> model.compile(loss="sparse_categorical_crossentropy")
    >>> tell = cgru.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, list(logs)))
    >>> history = model.fit(np.ones((4, 3, 2)), [0, 1, 0, 1], epochs=2, callbacks=[tell], verbose=0)
    0 ['loss']
    1 ['loss']
    """

    def __init__(
        self,
        on_train_begin: Callable[[Training], object] | None = None,
        on_epoch_begin: Callable[[int], object] | None = None,
        on_batch_end: Callable[[int, Logs], object] | None = None,
        on_epoch_end: Callable[[int, Logs], object] | None = None,
        on_train_end: Callable[[], object] | None = None,
    ) -> None:
        given = (on_train_begin, on_epoch_begin, on_batch_end, on_epoch_end, on_train_end)
        for name, function in zip(HOOKS, given, strict=True):
            if function is None:
                continue
            if not callable(function):
                raise TypeError(f"{name}: expected a function, got {function!r}")
            setattr(self, name, function)


def _path_text(path: Path) -> str:
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text:
        raise TypeError(f"path: expected a str or os.PathLike that names a file, got {path!r}")
    return text
