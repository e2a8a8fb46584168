"""Losses of numbers: the errors of regression."""

from __future__ import annotations

import numpy as np

from cgru.checks import check_positive
from cgru.losses.base import Loss
from cgru.typing import AnyArray, Array


class MeanSquaredError(Loss):
    """(output - label)^2, averaged over the outputs.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import losses
    >>> losses.get("mse")(np.array([[1.0], [2.0]]), np.array([1.0, 5.0]))
    4.5
    """

    name = "mean_squared_error"

    def values(self, outputs: Array, labels: AnyArray) -> Array:
        with np.errstate(over="ignore"):
            return np.square(outputs - labels).mean(axis=1)

    def gradients(self, outputs: Array, labels: AnyArray) -> Array:
        return (outputs - labels) * outputs.dtype.type(2 / outputs.shape[1])


class MeanAbsoluteError(Loss):
    """``|output - label|``, averaged over the outputs; where they are equal the gradient is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import losses
    >>> losses.get("mae")(np.array([[1.0], [2.0]]), np.array([1.0, 5.0]))
    1.5
    """

    name = "mean_absolute_error"

    def values(self, outputs: Array, labels: AnyArray) -> Array:
        return np.abs(outputs - labels).mean(axis=1)

    def gradients(self, outputs: Array, labels: AnyArray) -> Array:
        return np.sign(outputs - labels) / outputs.shape[1]


class Huber(Loss):
    """``e^2 / 2`` where ``|e| <= delta``, else ``delta |e| - delta^2 / 2``, averaged over the outputs.

    ``e = output - label``.

    Parameters
    ----------
    delta : float
        Positive.

    Raises
    ------
    TypeError, ValueError
        If `delta` is no positive, finite number.

    Examples
    --------
    >>> import numpy as np
    >>> from cgru import losses
    >>> losses.Huber(delta=2)(np.array([[1.0], [2.0]]), np.array([0.0, 5.0]))
    2.25
    """

    name = "huber"
    _options = ("delta",)

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = check_positive(delta, "delta")

    def values(self, outputs: Array, labels: AnyArray) -> Array:
        size = np.abs(outputs - labels)
        square = np.minimum(size, self.delta)  # the part of |e| up to delta
        return (square * (size - 0.5 * square)).mean(axis=1)

    def gradients(self, outputs: Array, labels: AnyArray) -> Array:
        return np.clip(outputs - labels, -self.delta, self.delta) / outputs.shape[1]
