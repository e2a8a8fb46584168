"""Callbacks that act when a figure does not become better any more."""

from __future__ import annotations

import math
from typing import Any, SupportsIndex

from cgru.callbacks.base import Logs, Mode, Monitor, Training
from cgru.checks import check_bool, check_finite, check_int, check_number
from cgru.typing import Array


class EarlyStopping(Monitor):
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
        if first or (self.best is not None and self.better(value, self.best, self.min_delta)):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self._best_weights = self.training.get_weights()
            if self.baseline is None or self.better(value, self.baseline, self.min_delta):
                self._wait = 0
        elif self._wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.training.stop()

    def on_train_end(self) -> None:
        if self.restore_best_weights and self._best_weights is not None:
            self.training.set_weights(self._best_weights)

    def get_state(self) -> dict[str, Any]:
        names = ("best", "best_epoch", "stopped_epoch", "_wait", "_best_weights")
        return super().get_state() | {name.lstrip("_"): getattr(self, name) for name in names}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.best, self.best_epoch, self.stopped_epoch = (state[n] for n in ("best", "best_epoch", "stopped_epoch"))
        self._wait, self._best_weights = state["wait"], state["best_weights"]


class ReduceLROnPlateau(Monitor):
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
        self.min_lr = check_finite(min_lr, "min_lr", 0)

    def on_train_begin(self, training: Training) -> None:
        super().on_train_begin(training)
        training.learning_rate = training.learning_rate  # refused where a schedule sets it
        self._best, self._wait, self._cooldown_left = self.worst, 0, 0

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self._cooldown_left:
            self._cooldown_left -= 1
            self._wait = 0
        if self.better(logs[self.monitor], self._best, self.min_delta):
            self._best, self._wait = logs[self.monitor], 0
        elif not self._cooldown_left:
            self._wait += 1
            rate = self.training.learning_rate
            if self._wait >= self.patience and rate > self.min_lr:
                self.training.learning_rate = max(rate * self.factor, self.min_lr)
                self._cooldown_left, self._wait = self.cooldown, 0

    def get_state(self) -> dict[str, Any]:
        own = {"best": self._best, "wait": self._wait, "cooldown_left": self._cooldown_left}
        return super().get_state() | own

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._best, self._wait, self._cooldown_left = (state[name] for name in ("best", "wait", "cooldown_left"))
