"""What is made from a handful of options, keeps them, and shows them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn


class Configured:
    """Base class of whatever has options: they are read-only after construction, because other forms are made from
    them that would not see a change; `get_config` gives them back, and the repr is the call that sets them.

    A class lists in `_options` what its constructor takes and keeps; those of its bases come with it. Each may be set
    once. Attributes of any other name are free, in subclasses as well.
    """

    _options: tuple[str, ...] = ()
    _read_only: frozenset[str] = frozenset()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls._read_only = frozenset(name for base in cls.__mro__ for name in base.__dict__.get("_options", ()))

    if not TYPE_CHECKING:  # a checker would then let any name be set

        def __setattr__(self, name: str, value: object) -> None:
            if name in self._read_only and name in self.__dict__:
                self._refuse_change(name, repr(value))
            super().__setattr__(name, value)

        def __delattr__(self, name: str) -> None:
            if name in self._read_only:
                self._refuse_change(name, "...")
            super().__delattr__(name)

    def _refuse_change(self, name: str, value: str) -> NoReturn:
        raise AttributeError(f"{name} is read-only after construction: {self._instead_of_change(name, value)}")

    def _instead_of_change(self, name: str, value: str) -> str:
        return f"make a new {type(self).__name__}({name}={value}, ...)"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as a dict that JSON can hold."""
        classes = type(self).__mro__
        return {name: getattr(self, name) for cls in classes for name in cls.__dict__.get("_options", ())}

    def _arguments(self) -> dict[str, Any]:
        """What the repr shows them as."""
        return self.get_config()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._shown())})"

    def _shown(self) -> Iterator[str]:
        """Yield the arguments worth showing: those without a default, and those that differ from it."""
        defaults = inspect.signature(type(self)).parameters
        for name, value in self._arguments().items():
            default = defaults[name].default if name in defaults else inspect.Parameter.empty
            if name in defaults and default is inspect.Parameter.empty:
                yield repr(value)
            elif value != default:
                yield f"{name}={value!r}"


def made_from(config: Mapping[str, Any], classes: Mapping[str, Any], name: str) -> Any:
    """Return the object that {"class": name, "config": dict} describes, of one of the `classes` by name; what is wrong
    with it is called `name`."""
    if not isinstance(config, Mapping) or config.keys() != {"class", "config"}:
        raise ValueError(f"{name}: expected a dict of 'class' and 'config', got {config!r}")
    which, arguments = config["class"], config["config"]
    if not isinstance(which, str) or which not in classes:
        raise ValueError(f"{name}: expected a class among {sorted(classes)}, got {which!r}")
    if not isinstance(arguments, Mapping):
        raise TypeError(f"{name}: expected a dict of {which}'s arguments, got {arguments!r}")
    return classes[which].from_config(arguments)
