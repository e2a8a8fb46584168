"""What computes the matrix products: our own kernels, or SciPy's BLAS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cgru.kernels import get_backend, set_backend, swap_backend
from cgru.typing import BackendName

__all__ = ["backend", "get_backend", "set_backend"]


@contextmanager
def backend(name: BackendName) -> Iterator[None]:
    """Context in which the calls of this Python thread use another backend; other threads go on as they were.

    Parameters
    ----------
    name : {"native", "blas"}
        See `set_backend`.

    Raises
    ------
    ValueError
        If there is no such backend.

    Examples
    --------
    >>> import cgru
    >>> with cgru.backend("blas"):
    ...     cgru.get_backend()
    'blas'
    """
    before = swap_backend(name)
    try:
        yield
    finally:
        swap_backend(before)
