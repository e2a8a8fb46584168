"""Arrays whose first element starts a cache line, which NumPy's own need not: a vector that lies across two lines costs
two reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cgru.typing import Array

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    array = empty(shape, dtype)
    array.fill(0)
    return array
