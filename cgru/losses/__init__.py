"""Losses, by name or as objects: `MeanSquaredError()` is "mse" or "mean_squared_error"."""

from __future__ import annotations

from cgru.checks import check_name
from cgru.losses.base import Loss
from cgru.losses.crossentropy import BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy
from cgru.losses.errors import Huber, MeanAbsoluteError, MeanSquaredError
from cgru.typing import LossName

__all__ = [
    "BinaryCrossentropy", "CategoricalCrossentropy", "Huber", "Loss", "MeanAbsoluteError", "MeanSquaredError",
    "SparseCategoricalCrossentropy", "get",
]  # fmt: skip

_LOSSES: dict[str, type[Loss]] = {
    loss.name: loss
    for loss in (
        SparseCategoricalCrossentropy, CategoricalCrossentropy, BinaryCrossentropy, MeanSquaredError,
        MeanAbsoluteError, Huber,
    )
}  # fmt: skip
_LOSSES |= {"mse": MeanSquaredError, "mae": MeanAbsoluteError}


def get(loss: LossName | Loss) -> Loss:
    """Return the loss called `loss`; a `Loss` is returned as it is.

    Raises
    ------
    ValueError
        If there is no such loss; the message lists the names.
    TypeError
        If a class of your own lacks `values` or `gradients`, or its `labels` or `distribution` are not such names.
    """
    if not isinstance(loss, Loss):
        return _LOSSES[check_name(loss, "loss", _LOSSES, " or a Loss")]()
    cls = type(loss)
    for method in ("values", "gradients"):
        if getattr(cls, method) is getattr(Loss, method):
            raise TypeError(f"loss: {cls.__name__} has no {method}(outputs, labels)")
    for name, known in (("labels", ("values", "classes")), ("distribution", (None, "binary", "categorical"))):
        if getattr(loss, name) not in known:
            raise TypeError(f"loss: {cls.__name__}.{name}: expected one of {known}, got {getattr(loss, name)!r}")
    return loss
