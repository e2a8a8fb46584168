"""The history of a training."""

from __future__ import annotations

from collections.abc import Iterable

from cgru.models.progress import figures


class History:
    """What `fit` reports.

    Attributes
    ----------
    epochs : list of int
        The finished epochs, counted from 0.
    history : dict
        Name ("loss", "accuracy", "val_loss", ...) -> list with one number for each finished epoch.
    """

    def __init__(self, first: int = 0, results: Iterable[dict[str, float]] = ()) -> None:
        self._first = first
        self._results = list(results)  # one dict an epoch: an append is whole or has not happened

    def __repr__(self) -> str:
        count = len(self._results)
        last = f", the last: {figures(self._results[-1])}" if count else ""
        return f"<History of {count} epoch{'' if count == 1 else 's'}{last}>"

    @property
    def epochs(self) -> list[int]:
        return list(range(self._first, self._first + len(self._results)))

    @property
    def history(self) -> dict[str, list[float]]:
        names = self._results[0] if self._results else {}
        return {name: [results[name] for results in self._results] for name in names}
