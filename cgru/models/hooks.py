"""The callbacks of a run: checked, called one after the other, and named where one fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cgru.callbacks import HOOKS


class Hooks:
    """The callbacks of one `fit`.

    Parameters
    ----------
    callbacks : list of objects with some of the methods of `cgru.callbacks.Callback`

    Raises
    ------
    TypeError
        If one of them is a class, has none of the methods, or others whose names begin with "on_".
    """

    def __init__(self, callbacks: Sequence[Any] | None) -> None:
        if callbacks is None:
            callbacks = []
        if not isinstance(callbacks, (list, tuple)):
            raise TypeError(f"callbacks: expected a list of callbacks, got {type(callbacks).__name__}")
        for i, callback in enumerate(callbacks):
            _check(callback, f"callbacks[{i}]")
            if any(callback is other for other in callbacks[:i]):
                raise ValueError(f"callbacks: expected each one once, got {type(callback).__name__} again at index {i}")
        self.callbacks = list(callbacks)
        self._called = {hook: [c for c in self.callbacks if callable(getattr(c, hook, None))] for hook in HOOKS}

    def wants(self, hook: str) -> bool:
        """Whether any of them has this method."""
        return bool(self._called[hook])

    def call(self, hook: str, *arguments: Any) -> None:
        """Call this method of those that have it.

        Raises
        ------
        TypeError, ValueError
            If one of them raised that.
        RuntimeError
            If one of them raised something else, which is the cause; as above, the message names class and method.
        """
        for callback in self._called[hook]:
            try:
                getattr(callback, hook)(*arguments)
            except Exception as error:
                raise failure(callback, hook, error) from error

    def get_states(self) -> list[dict[str, Any]]:
        """Return the class and the state of those that have one, in their order."""
        return [{"class": type(c).__name__, "state": state} for c, state in self._states() if state]

    def _states(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        for callback in self.callbacks:
            if callable(getattr(callback, "get_state", None)):
                try:
                    state = callback.get_state()
                    if not isinstance(state, dict):
                        raise TypeError(f"expected a dict, got {type(state).__name__}")
                except Exception as error:
                    raise failure(callback, "get_state", error) from error
                yield callback, state

    def set_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Give back what `get_states` returned.

        Raises
        ------
        ValueError
            If those that have a state are not the ones that it was asked of.
        """
        kept = [callback for callback, state in self._states() if state]
        expected, got = [entry["class"] for entry in states], [type(callback).__name__ for callback in kept]
        if expected != got:
            raise ValueError(
                f"callbacks: expected those of the run that is resumed, {', '.join(expected) or 'none'}, in this "
                f"order, got {', '.join(got) or 'none'}"
            )
        for callback, entry in zip(kept, states, strict=True):
            try:
                callback.set_state(entry["state"])
            except Exception as error:
                raise failure(callback, "set_state", error) from error


def failure(callback: Any, hook: str, error: Exception) -> Exception:
    """The error for a callback that raised `error`."""
    kind = type(error) if type(error) in (TypeError, ValueError) else RuntimeError
    said = str(error) if kind is not RuntimeError else f"{type(error).__name__}: {error}"
    return kind(f"callbacks: {type(callback).__name__}.{hook}: {said}")


def _check(callback: Any, name: str) -> None:
    if isinstance(callback, type):
        written = callback.__name__
        raise TypeError(f"{name}: expected an object, got the class {written}: write {written}(...)")
    methods = [m for m in dir(type(callback)) if m.startswith("on_")] + [m for m in vars_of(callback) if m in HOOKS]
    unknown = [method for method in methods if method not in HOOKS]
    if unknown:
        raise TypeError(
            f"{name}: expected methods among {', '.join(HOOKS)}, as cgru.callbacks.Callback has them, "
            f"got {unknown[0]} of {type(callback).__name__}"
        )
    if not methods:
        raise TypeError(
            f"{name}: expected an object with a method among {', '.join(HOOKS)}, got {type(callback).__name__}"
        )


def vars_of(callback: Any) -> dict[str, Any]:
    return getattr(callback, "__dict__", {})
