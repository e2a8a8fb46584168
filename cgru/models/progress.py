"""What `fit` shows while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


class _Silent:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self) -> None:
        pass

    def epoch(self, results: Mapping[str, float]) -> None:
        pass


class _Lines(_Silent):
    """A line an epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._epoch, self._started = epochs, 0, time.perf_counter()

    def epoch(self, results: Mapping[str, float]) -> None:
        self._epoch += 1
        now = time.perf_counter()
        print(f"epoch {self._epoch}/{self._epochs}  {figures(results)}  {now - self._started:.2f} s", flush=True)
        self._started = now


class _Bar(_Silent):
    """tqdm's bar over all updates, with the figures of the last finished epoch beside it."""

    def __init__(self, tqdm: Any, epochs: int, updates: int) -> None:
        self._epochs, self._epoch = epochs, 0
        self._bar = tqdm(total=epochs * updates, unit="update", file=sys.stderr)

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self) -> None:
        self._bar.update()

    def epoch(self, results: Mapping[str, float]) -> None:
        self._epoch += 1
        self._bar.set_postfix_str(f"epoch {self._epoch}/{self._epochs}  {figures(results)}", refresh=False)


def figures(results: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in results.items())


def progress_of(epochs: int, updates: int, verbose: bool | int) -> _Silent:
    if not verbose:
        return _Silent()
    try:
        from tqdm import tqdm
    except ImportError:
        return _Lines(epochs)
    return _Bar(tqdm, epochs, updates)
