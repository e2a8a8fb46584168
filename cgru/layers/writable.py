"""The parameters of a layer while they may be written."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike

from cgru.typing import Array


class Writable(MutableMapping[str, Array]):
    """Parameters by name; `p[name] = value` and `p.update` write into the arrays, so that no assignment gets lost."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        array = self._arrays[name]
        try:
            array[...] = value
        except ValueError:
            raise ValueError(f"{name} must fit shape {array.shape}, got {np.shape(value)}") from None

    def __delitem__(self, name: str) -> NoReturn:
        raise TypeError(f"{name} cannot be deleted: the parameters of a layer are fixed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)
