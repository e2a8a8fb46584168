"""Callbacks that write files: the model, and the figures."""

from __future__ import annotations

import os
import string
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

from cgru.callbacks.base import Callback, Logs, Mode, Monitor, Training, path_text
from cgru.checks import check_bool, check_int, check_number
from cgru.configured import Configured
from cgru.typing import Path


class ModelCheckpoint(Monitor):
    """Save the model after epochs, or also after every few batches. Of ranks that train together, rank 0 does.

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
    RuntimeError
        In `fit`, before anything is trained, if no file can be written there.
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
        self.path = path_text(path)
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
        self._best, self._batches = self.worst, 0
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
        named_later = "{" in os.path.dirname(self.path)
        training.check_saving(self.training_state, None if named_later else self.path)
        self._best = self.worst if self.initial_value_threshold is None else self.initial_value_threshold
        self._batches = 0

    def _after_batch(self, batch: int, logs: Logs) -> None:
        self._batches += 1
        assert isinstance(self.every, int)
        if self._batches % self.every == 0 and batch + 1 != self.training.batches:  # that is left to the epoch's end
            self._save(self.training.epoch, {})

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.save_best_only:
            if not self.better(logs[self.monitor], self._best):
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
        return super().get_state() | {"best": self._best, "batches": self._batches}

    def set_state(self, state: dict[str, Any]) -> None:
        if self.save_best_only:
            super().set_state(state)
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

    Of ranks that train together, rank 0 writes.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type.
    RuntimeError
        In `fit`, before anything is trained, if the file cannot be written.
    """

    _options = ("path", "separator", "append")

    def __init__(self, path: Path, separator: str = ",", append: bool = False) -> None:
        self.path = path_text(path)
        if not isinstance(separator, str) or not separator:
            raise TypeError(f"separator: expected a text, got {separator!r}")
        self.separator = separator
        self.append = check_bool(append, "append")

    def on_train_begin(self, training: Training) -> None:
        super().on_train_begin(training)
        self._columns = ["epoch", *training.names]
        self._writes = not training.rank
        if not self._writes:
            return
        keep = training.resumed or self.append
        with open(self.path, "a" if keep else "w", encoding="utf-8", newline="") as file:
            begins = file.tell() == 0
            if begins:
                self._write(file, self._columns)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if not self._writes:
            return
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            self._write(file, [str(epoch), *(repr(float(logs[name])) for name in self._columns[1:])])

    def _write(self, file: Any, values: Sequence[str]) -> None:
        file.write(self.separator.join(values) + "\n")  # in one piece, when the file is closed

    def get_state(self) -> dict[str, Any]:
        return {"size": os.path.getsize(self.path) if self._writes else 0}

    def set_state(self, state: dict[str, Any]) -> None:
        if self._writes and state["size"] < os.path.getsize(self.path):
            os.truncate(self.path, state["size"])
