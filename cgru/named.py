"""Things of one kind that options name: by a string, as an object with settings, or as the dict that stands for one in
a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from cgru.checks import check_name
from cgru.configured import Configured


class Kind:
    """A kind of things, such as initializers: their base class, and which are known by name.

    Parameters
    ----------
    base : type
        What the objects are instances of.
    what : str
        What messages call one, with its article: "an initializer".
    known : dict
        Name -> function that makes the object with its usual settings.
    callable_form : str
        The arguments of functions that do as well; empty if none do.
    """

    def __init__(
        self, base: type[Configured], what: str, known: Mapping[str, Callable[[], Any]], callable_form: str = ""
    ) -> None:
        self.base, self.what, self.known, self.callable_form = base, what, dict(known), callable_form

    @cached_property
    def classes(self) -> dict[str, type[Any]]:
        """The classes of what is known, by their names."""
        made = {type(make()) for make in self.known.values()}
        return {cls.__name__: cls for cls in made}

    def check(self, value: Any, argument: str, optional: bool = False) -> Any:
        """Return what an option keeps: the name, the object, the function, or None where that is allowed. The TypeError
        or ValueError calls it `argument`, and lists the names."""
        if isinstance(value, self.base) or (value is None and optional):
            return value
        if isinstance(value, Mapping):
            return self._from_config(value, argument)
        if self.callable_form and callable(value) and not isinstance(value, type):
            self._check_function(value, argument)
            return value
        others = [self.what]
        if self.callable_form:
            others.append(f"a function of {self.callable_form}")
        if optional:
            others.append("None")
        if isinstance(value, type) and issubclass(value, self.base):
            raise TypeError(f"{argument}: expected {self.what}, got the class: write {value.__name__}()")
        return check_name(value, argument, self.known, "".join(f" or {other}" for other in others))

    def _check_function(self, function: Callable[..., Any], argument: str) -> None:
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # of some that are written in C nothing is known
            return
        try:
            signature.bind(*self.callable_form.split(","))
        except TypeError:
            form = self.callable_form
            raise TypeError(f"{argument}: expected a function of {form}, got one of {signature}") from None

    def get(self, value: Any, argument: str) -> Any:
        """Return the object or function that an option means; None stays None."""
        value = self.check(value, argument, optional=True)
        return self.known[value]() if isinstance(value, str) else value

    def config_of(self, value: Any) -> Any:
        """Return what stands for an option in a configuration: a name, a dict of "class" and "config", None; or the
        value itself, where nothing else can."""
        if isinstance(value, self.base) and type(value) is self.classes.get(type(value).__name__):
            return {"class": type(value).__name__, "config": value.get_config()}
        return value

    def _from_config(self, config: Mapping[str, Any], argument: str) -> Any:
        name = config.get("class", config.get("class_name"))  # the latter as Keras has it
        arguments = config.get("config", {})
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            raise ValueError(f"{argument}: expected a dict of 'class' and 'config', got {dict(config)!r}")
        if name not in self.classes:
            raise ValueError(f"{argument}: expected a class among {sorted(self.classes)}, got {name!r}")
        try:
            return self.classes[name](**arguments)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{argument}: {name}: {error}") from None
