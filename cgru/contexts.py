"""Settings of one Python thread that hold while a context is open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from typing import Any


class ThreadSetting(ContextDecorator):
    """Context in which a setting of the calling thread has another value.

    Of several that are open in a thread the one that was opened last counts, in whatever order they close: generators
    and coroutines that share a thread close theirs in any. One object may be opened again, also within itself.

    Parameters
    ----------
    what : str
        What errors call it.
    value : object
    swap : function
        Sets the calling thread's value, None for none of its own, and returns what it was.
    """

    _open = threading.local()

    def __init__(self, what: str, value: Any, swap: Callable[[Any], Any]) -> None:
        self._what, self._value, self._swap = what, value, swap

    def __enter__(self) -> None:
        self._swap(self._value)
        self._settings().append(self)

    def __exit__(self, *error: object) -> None:
        settings = self._settings()
        for i in reversed(range(len(settings))):
            if settings[i] is self:
                del settings[i]
                self._swap(settings[-1]._value if settings else None)
                return
        raise RuntimeError(f"{self._what}: expected to be closed in the thread that opened it")

    def _settings(self) -> list[ThreadSetting]:
        """Those of this kind that are open in this thread, the last one last."""
        kinds: dict[str, list[ThreadSetting]] = self._open.__dict__
        return kinds.setdefault(self._what, [])
