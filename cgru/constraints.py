"""What parameters are made to fulfil after each update: named as Keras names them.

A constraint acts on the proposed parameters, before they take the places of those in use: an update is whole with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

from cgru.checks import check_finite, check_int
from cgru.configured import Configured
from cgru.named import Kind
from cgru.typing import Array, ConstraintLike, Shape

__all__ = ["Constraint", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "get"]

_EPSILON = 1e-7  # what Keras adds to norms


class Constraint(Configured):
    """Base class of the constraints: callables of a parameter that return what becomes of it.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> cgru.constraints.NonNeg()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    def __call__(self, array: Array) -> Array:
        """Return a new array of the same shape and type."""
        raise NotImplementedError


class NonNeg(Constraint):
    """Negative numbers become 0."""

    def __call__(self, array: Array) -> Array:
        return np.maximum(array, 0)


class Norm(Constraint):
    """One that scales vectors by their norm."""

    _options: tuple[str, ...] = ("axis",)

    def __init__(self, axis: SupportsIndex | Sequence[SupportsIndex]) -> None:
        axes: Any = axis if isinstance(axis, (list, tuple)) else [axis]
        checked = [check_int(one, "axis", -8) for one in axes]
        if not checked:
            raise ValueError("axis: expected at least one axis, got none")
        self.axis = checked if isinstance(axis, (list, tuple)) else checked[0]

    def _norms(self, array: Array) -> Array:
        axes = self.check_axes(array.shape, "axis")
        return np.sqrt(np.square(array).sum(axis=axes, keepdims=True))

    def check_axes(self, shape: Shape, argument: str) -> tuple[int, ...]:
        """Return the axes; ValueError, calling the constraint `argument`, if parameters of `shape` do not have them."""
        axes = tuple(self.axis) if isinstance(self.axis, list) else (self.axis,)
        if not all(-len(shape) <= axis < len(shape) for axis in axes):
            raise ValueError(f"{argument}: expected axes of a parameter of shape {shape}, got axis={self.axis}")
        return axes


class MaxNorm(Norm):
    """Vectors along `axis` that are longer than `max_value` become as long as that.

    Parameters
    ----------
    max_value : float
        At least 0.
    axis : int or list of int
        0: a kernel's columns, the weights of each output; of a GRU's kernel, of each unit in each gate. In the kernel
        of a convolution those are ``[0, 1]``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.
    """

    _options = ("max_value",)

    def __init__(self, max_value: float = 2.0, axis: SupportsIndex | Sequence[SupportsIndex] = 0) -> None:
        super().__init__(axis)
        self.max_value = check_finite(max_value, "max_value", 0)

    def __call__(self, array: Array) -> Array:
        norms, one = self._norms(array), array.dtype.type
        return array * (np.minimum(norms, one(self.max_value)) / (one(_EPSILON) + norms))


class UnitNorm(Norm):
    """Vectors along `axis` get the length 1.

    Parameters
    ----------
    axis : int or list of int
        As in `MaxNorm`.
    """

    def __init__(self, axis: SupportsIndex | Sequence[SupportsIndex] = 0) -> None:
        super().__init__(axis)

    def __call__(self, array: Array) -> Array:
        return array / (array.dtype.type(_EPSILON) + self._norms(array))


class MinMaxNorm(Norm):
    """Lengths of vectors along `axis` move into [min_value, max_value], all the way with `rate` 1, or part of it.

    Parameters
    ----------
    min_value, max_value : float
        At least 0, the first no larger than the second.
    rate : float
        From 0 to 1.
    axis : int or list of int
        As in `MaxNorm`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range.
    """

    _options = ("min_value", "max_value", "rate")

    def __init__(
        self,
        min_value: float = 0.0,
        max_value: float = 1.0,
        rate: float = 1.0,
        axis: SupportsIndex | Sequence[SupportsIndex] = 0,
    ) -> None:
        super().__init__(axis)
        self.min_value = check_finite(min_value, "min_value", 0)
        self.max_value = check_finite(max_value, "max_value", 0)
        if self.min_value > self.max_value:
            raise ValueError(f"min_value: expected at most max_value = {self.max_value}, got {self.min_value}")
        self.rate = check_finite(rate, "rate", 0)
        if self.rate > 1:
            raise ValueError(f"rate: expected a number from 0 to 1, got {rate!r}")

    def __call__(self, array: Array) -> Array:
        norms, one = self._norms(array), array.dtype.type
        inside = np.clip(norms, one(self.min_value), one(self.max_value))
        wanted = one(self.rate) * inside + one(1 - self.rate) * norms
        return array * (wanted / (one(_EPSILON) + norms))


# As Keras has them, too.
max_norm, min_max_norm, non_neg, unit_norm = MaxNorm, MinMaxNorm, NonNeg, UnitNorm


def check(value: ConstraintLike, argument: str) -> Any:
    """Return what an option keeps: the name, the object, the function, or None; the error calls it `argument` and lists
    the names."""
    return _KIND.check(value, argument, optional=True)


def get(value: ConstraintLike, argument: str = "constraint") -> Any:
    """Return the constraint that a name means: "max_norm", "min_max_norm", "non_neg" or "unit_norm"; None, objects and
    functions are returned as they are.

    Raises
    ------
    TypeError, ValueError
        If there is no such constraint; the message lists the names.
    """
    return _KIND.get(value, argument)


def act(layers: Sequence[Any], proposed: Mapping[tuple[int, str], Array]) -> bool:
    """Let the constraints of the layers act on proposed parameters, (layer index, name) -> array, in place. Return
    whether there were any."""
    acted = False
    for (i, name), array in proposed.items():
        constraint = layers[i].constraint_of(name)
        if constraint is not None:
            new = np.asarray(constraint(array))
            if new.dtype.kind not in "fiu" or new.shape != array.shape:
                raise ValueError(
                    f"the constraint of {name} in layer {i} ({type(layers[i]).__name__}) returned shape {new.shape}, "
                    f"dtype {new.dtype}, expected numbers of shape {array.shape}"
                )
            array[...] = new
            acted = True
    return acted


_KIND = Kind(
    Constraint,
    "a Constraint",
    {"max_norm": MaxNorm, "min_max_norm": MinMaxNorm, "non_neg": NonNeg, "unit_norm": UnitNorm},
    "(array)",
)
config_of = _KIND.config_of
