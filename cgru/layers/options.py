"""Options about the parameters and the outputs of a layer: initializers, regularizers, constraints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from cgru import constraints, initializers, regularizers
from cgru.layers.parameters import Parameterized, role
from cgru.layers.rows import from_valid_rows
from cgru.typing import Array, BoolArray, Initializer

_KINDS = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}


def kind_of(option: str) -> Any:
    """The module of an option that names one of its things, or None."""
    return _KINDS.get(option.rpartition("_")[2])


def in_config(option: str, value: Any) -> Any:
    kind = kind_of(option)
    return value if kind is None else kind.config_of(value)


class Optioned(Parameterized):
    """What a layer does with such options. Of a parameter "kernel" they are kernel_initializer, kernel_regularizer and
    kernel_constraint; of "recurrent_kernel" recurrent_initializer and so on."""

    activity_regularizer: Any = None
    trainable: Any
    _regularizers: Mapping[str, Any] = MappingProxyType({})  # option -> object: every pass asks for them

    def _keep(self, **options: Any) -> None:
        """Check and keep options whose names end in _initializer, _regularizer and _constraint."""
        for name, value in options.items():
            setattr(self, name, kind_of(name).check(value, name))
        given = [name for name, value in options.items() if kind_of(name) is regularizers and value is not None]
        self._regularizers = dict(self._regularizers) | {name: regularizers.get(getattr(self, name)) for name in given}

    def _check_axes(self) -> None:
        """ValueError if a constraint is about axes that its parameter does not have. Called when options are set."""
        seen = set()
        for name, shape in self.parameter_shapes(None):
            if role(name) in seen:  # the other layers and directions have the same shapes, and may be very many
                return
            seen.add(role(name))
            constraint = self.constraint_of(name)
            if isinstance(constraint, constraints.Norm):
                constraint.check_axes(shape, f"{role(name)}_constraint")

    def _option_for(self, name: str, what: str) -> Any:
        return getattr(self, f"{role(name)}_{what}", None)

    def _initial(self, name: str) -> Initializer:
        return initializers.get(self._option_for(name, "initializer"))

    def constraint_of(self, name: str) -> Any:
        """Return what is to be done with the parameter called `name` after each update, or None."""
        return constraints.get(self._option_for(name, "constraint"))

    def penalty(self) -> float:
        """Return what the regularizers of the parameters add to the loss; 0.0 if the layer is not trainable."""
        return sum((regularizers.value_of(*one) for _, *one in self._regularized()), 0.0)

    def penalty_gradients(self) -> dict[str, Array]:
        """Return its gradients: dict name -> array, of the parameters that have a regularizer."""
        return {name: regularizers.gradient_of(*one) for name, *one in self._regularized()}

    def add_penalties(self, grads: dict[str, Array]) -> dict[str, Array]:
        """Return gradients of the parameters with those of the penalties added."""
        return grads | {name: grads[name] + d for name, d in self.penalty_gradients().items() if name in grads}

    def _regularized(self) -> Iterator[tuple[str, Any, Array, str]]:
        """Yield (name, regularizer, array, option) of parameters that have a regularizer."""
        for name, array in self._built_parameters().items() if self._regularizers and self.trainable else ():
            option = f"{role(name)}_regularizer"
            if option in self._regularizers:
                yield name, self._regularizers[option], array, option

    def _activity(self, y: Array, valid: BoolArray | None, training: bool) -> tuple[float, Array | None]:
        """Return (penalty on the outputs `y` (N, ...) at the valid steps, its gradient, if `training`, or None)."""
        if self.activity_regularizer is None or not len(y):
            return 0.0, None
        regularizer = self._regularizers["activity_regularizer"]
        rows = y if valid is None else y[valid]
        penalty = regularizers.value_of(regularizer, rows, "activity_regularizer") / len(y)
        if not training:
            return penalty, None
        d = regularizers.gradient_of(regularizer, rows, "activity_regularizer") / y.dtype.type(len(y))
        return penalty, d if valid is None else from_valid_rows(d, y.shape[:-1], valid)
