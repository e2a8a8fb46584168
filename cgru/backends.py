"""What computes the matrix products: our own kernels, or SciPy's BLAS."""

from __future__ import annotations

from cgru.contexts import ThreadSetting
from cgru.kernels import BACKENDS, get_backend, set_backend, swap_backend
from cgru.typing import BackendName

__all__ = ["backend", "get_backend", "set_backend"]


class backend(ThreadSetting):
    """Context in which the calls of this Python thread use another backend; other threads go on as they were.

    Parameters
    ----------
    name : {"native", "blas"} or None
        See `set_backend`; None lifts that of a context around this one.

    Raises
    ------
    ValueError
        If there is no such backend.
    RuntimeError
        If it is closed in another thread than the one that opened it.

    Examples
    --------
    >>> import cgru
    >>> with cgru.backend("blas"):
    ...     cgru.get_backend()
    'blas'
    """

    def __init__(self, name: BackendName | None) -> None:
        if name is not None and not (isinstance(name, str) and name in BACKENDS):
            raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
        super().__init__("backend", name, swap_backend)
