"""Penalties on parameters and outputs, which the loss of a model has on top: named as Keras names them."""

from __future__ import annotations

from typing import Any

import numpy as np

from cgru.checks import check_finite
from cgru.configured import Configured
from cgru.named import Kind
from cgru.typing import Array, RegularizerLike, Shape

__all__ = ["L1", "L1L2", "L2", "Regularizer", "get"]


class Regularizer(Configured):
    """Base class of the penalties: a subclass implements `value` and `gradient`.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> penalty = cgru.regularizers.L2(0.1)
    >>> penalty.value(np.array([1.0, 2.0])), penalty.gradient(np.array([1.0, 2.0]))
    (0.5, array([0.2, 0.4]))
    """

    def value(self, array: Array) -> float:
        """Return the penalty of an array."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method value(array), which it does not have")

    def gradient(self, array: Array) -> Array:
        """Return its gradient, of the shape and type of the array."""
        raise NotImplementedError(f"{type(self).__name__}: expected a method gradient(array), which it does not have")


class L1L2(Regularizer):
    """``l1 * sum(abs(w)) + l2 * sum(w**2)``; the gradient of the first is zero where w is.

    Parameters
    ----------
    l1, l2 : float
        At least 0. Like Keras' L1L2, which has zeros as defaults; as a name, "l1_l2" is 0.01 for both.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a finite number of at least 0.
    """

    _options = ("l1", "l2")

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1, self.l2 = check_finite(l1, "l1", 0), check_finite(l2, "l2", 0)

    def value(self, array: Array) -> float:
        total = 0.0
        if self.l1:
            total += self.l1 * float(np.abs(array).sum(dtype=np.float64))
        if self.l2:
            total += self.l2 * float(np.square(array, dtype=np.float64).sum())
        return total

    def gradient(self, array: Array) -> Array:
        d = array * array.dtype.type(2 * self.l2)
        if self.l1:
            d += np.sign(array) * array.dtype.type(self.l1)
        return d


class L1(L1L2):
    """``l1 * sum(abs(w))``.

    Parameters
    ----------
    l1 : float
        At least 0.
    """

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=l1)

    def get_config(self) -> dict[str, Any]:
        return {"l1": self.l1}


class L2(L1L2):
    """``l2 * sum(w**2)``.

    Parameters
    ----------
    l2 : float
        At least 0.
    """

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=l2)

    def get_config(self) -> dict[str, Any]:
        return {"l2": self.l2}


l1, l2, l1_l2 = L1, L2, L1L2  # as Keras has them, too


def check(value: RegularizerLike, argument: str) -> Any:
    """Return what an option keeps: the name, the object, or None; the error calls it `argument` and lists the names."""
    return _KIND.check(value, argument, optional=True)


def get(value: RegularizerLike, argument: str = "regularizer") -> Any:
    """Return the `Regularizer` that a name means, "l1", "l2" or "l1_l2"; None and objects are returned as they are.

    Raises
    ------
    TypeError, ValueError
        If there is no such regularizer; the message lists the names.
    """
    return _KIND.get(value, argument)


def value_of(regularizer: Regularizer, array: Array, argument: str) -> float:
    """Return the penalty of an array; the ValueError about what it is instead calls the option `argument`."""
    with np.errstate(all="ignore"):  # what is not finite is looked for where it matters, here and below
        return float(_numbers(regularizer.value(array), (), "value", argument))


def gradient_of(regularizer: Regularizer, array: Array, argument: str) -> Array:
    """Return its gradient, checked in the same way."""
    with np.errstate(all="ignore"):
        return np.asarray(_numbers(regularizer.gradient(array), array.shape, "gradient", argument), array.dtype)


def _numbers(returned: Any, shape: Shape, method: str, argument: str) -> Array:
    numbers = np.asarray(returned)
    if numbers.dtype.kind not in "fiu" or numbers.shape != shape:
        raise ValueError(
            f"{argument}: expected numbers of shape {shape} from its method {method}, got shape {numbers.shape}, dtype "
            f"{numbers.dtype}"
        )
    return numbers


_KIND = Kind(Regularizer, "a Regularizer", {"l1": L1, "l1_l2": lambda: L1L2(0.01, 0.01), "l2": L2})
config_of = _KIND.config_of
