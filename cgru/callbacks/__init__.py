"""Callbacks: what is done beside training, at its beginning, after epochs and at its end.

A callback is any object with some of the methods of `Callback`; it need not be of that class. What it may do to the
training it does through the `Training` that `on_train_begin` hands to it: a callback knows neither models nor files.
"""

from __future__ import annotations

from cgru.callbacks.base import HOOKS, Callback, LambdaCallback, Training
from cgru.callbacks.plateaus import EarlyStopping, ReduceLROnPlateau
from cgru.callbacks.records import CSVLogger, ModelCheckpoint

__all__ = [
    "HOOKS", "CSVLogger", "Callback", "EarlyStopping", "LambdaCallback", "ModelCheckpoint", "ReduceLROnPlateau",
    "Training",
]  # fmt: skip
