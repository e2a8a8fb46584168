"""What a callback is, and what it sees of the training."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from cgru.checks import check_name
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
    rank : int
        Which one this process is of those that train together (`all_reduce`); 0 where it is alone. Only rank 0 saves.
    """

    epochs: int
    epoch: int
    batches: int | None
    names: list[str]
    resumed: bool
    learning_rate: float
    rank: int

    def stop(self) -> None:
        """Let this epoch be the last."""

    def get_weights(self) -> list[Array]:
        """Return copies of the model's parameters."""

    def set_weights(self, weights: list[Array]) -> None:
        """Copy `weights` into the model."""

    def save(self, path: str, training_state: bool = True) -> None:
        """Have the model saved, in one piece, once all callbacks have seen this epoch or batch."""

    def check_saving(self, training_state: bool = True, path: str | None = None) -> None:
        """Raise now what `save` would raise because of what the model is, or because no file can be written there."""


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


class Monitor(Callback, Configured):
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
    def upwards(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        return any(part in self.monitor for part in ("acc", "auc", "f1"))

    def better(self, value: float, reference: float, min_delta: float = 0.0) -> bool:
        """Whether `value` is better than `reference` by more than `min_delta`; NaN never is."""
        return value - min_delta > reference if self.upwards else value + min_delta < reference

    @property
    def worst(self) -> float:
        return -math.inf if self.upwards else math.inf

    def on_train_begin(self, training: Training) -> None:
        super().on_train_begin(training)
        if self.monitor not in training.names:
            lacks = self.monitor.startswith("val_") and not any(name.startswith("val_") for name in training.names)
            advice = "; validation_data or validation_split gives it" if lacks else ""
            raise ValueError(f"monitor: expected one of {training.names}, got {self.monitor!r}{advice}")

    def get_state(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "upwards": self.upwards}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned; ValueError if it watched another figure, or the other way."""
        watched, now = (state["monitor"], state["upwards"]), (self.monitor, self.upwards)
        if watched != now:
            kept, given = (f"{name!r} with mode={'max' if up else 'min'!r}" for name, up in (watched, now))
            raise ValueError(f"monitor: expected {kept}, as in the run that is resumed, got {given}")


def path_text(path: Path) -> str:
    """Return the name of a file as a str; the TypeError names the argument."""
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text:
        raise TypeError(f"path: expected a str or os.PathLike that names a file, got {path!r}")
    return text
