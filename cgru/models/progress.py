"""What `fit` shows while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Self

Verbose: TypeAlias = bool | Literal[0, 1, 2, "auto"]


class _Silent:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def begin(self, epoch: int, updates: int | None, done: int = 0) -> None:
        pass

    def update(self) -> None:
        pass

    def end(self, epoch: int, results: Mapping[str, float]) -> None:
        pass


class _Lines(_Silent):
    """A line an epoch, on standard output."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._started = epochs, 0.0

    def begin(self, epoch: int, updates: int | None, done: int = 0) -> None:
        self._started = time.perf_counter()

    def end(self, epoch: int, results: Mapping[str, float]) -> None:
        seconds = time.perf_counter() - self._started
        self._show(f"epoch {epoch + 1}/{self._epochs}  {figures(results)}  {seconds:.2f} s")

    def _show(self, line: str) -> None:
        print(line, flush=True)


class _Bar(_Lines):
    """The same lines, and below them tqdm's bar for the epoch that runs, on standard error."""

    def __init__(self, tqdm: Any, epochs: int) -> None:
        super().__init__(epochs)
        self._bar = tqdm(unit="update", file=sys.stderr, leave=False)

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def begin(self, epoch: int, updates: int | None, done: int = 0) -> None:
        super().begin(epoch, updates)
        self._bar.reset(updates)
        self._bar.update(done)
        self._bar.set_description(f"epoch {epoch + 1}/{self._epochs}")

    def update(self) -> None:
        self._bar.update()

    def _show(self, line: str) -> None:
        self._bar.write(line)  # to standard output, with the bar out of the way
        sys.stdout.flush()


def figures(results: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in results.items())


def check_verbose(verbose: Verbose) -> int:
    """Return 0, 1 or 2; the ValueError names the argument."""
    if isinstance(verbose, str) and verbose == "auto":
        return 1
    if isinstance(verbose, str) or verbose not in (0, 1, 2):
        raise ValueError(f"verbose: expected 0, 1, 2 or 'auto', got {verbose!r}")
    return int(verbose)


def progress_of(epochs: int, verbose: int) -> _Silent:
    if not verbose:
        return _Silent()
    if verbose == 1:
        try:
            from tqdm import tqdm
        except ImportError:
            return _Lines(epochs)
        return _Bar(tqdm, epochs)
    return _Lines(epochs)
