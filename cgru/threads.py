"""How many threads a call uses, and who may say so: the program, OMP_NUM_THREADS, threadpoolctl."""

from __future__ import annotations

import sys
from typing import SupportsIndex

from cgru.checks import check_int
from cgru.contexts import ThreadSetting
from cgru.kernels import get_num_threads, set_num_threads, swap_thread_limit

__all__ = ["get_num_threads", "limit_threads", "register_threadpoolctl", "set_num_threads"]


class limit_threads(ThreadSetting):
    """Context in which calls from this Python thread use at most n threads; other threads go on as they were.

    Parameters
    ----------
    n : int or None
        From 1 on; more than `set_num_threads` allows are not used. None lifts the limit of a context around this one.

    Raises
    ------
    TypeError, ValueError
        If n is not an integer of at least 1.
    RuntimeError
        If it is closed in another thread than the one that opened it.

    Notes
    -----
    Coroutines of one thread share the limit: it holds for those as well that run while this one waits.

    Examples
    --------
    >>> import cgru
    >>> with cgru.limit_threads(1):
    ...     cgru.get_num_threads()
    1
    """

    def __init__(self, n: SupportsIndex | None) -> None:
        super().__init__("limit_threads", n if n is None else check_int(n, "n", 1), swap_thread_limit)


def register_threadpoolctl() -> None:
    """Let `threadpoolctl.threadpool_limits` limit cgru as it limits BLAS and OpenMP.

    Done at import where threadpoolctl was imported before; call it where it comes later. Calling it again does nothing.

    Raises
    ------
    ImportError
        If threadpoolctl is not installed.
    """
    try:
        import threadpoolctl
    except ImportError:
        raise ImportError('threadpoolctl is not installed: pip install "cgru[threads]"') from None
    if any(controller.__name__ == "CgruController" for controller in threadpoolctl._ALL_CONTROLLERS):
        return

    class CgruController(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = internal_api = "cgru"
        filename_prefixes = ("runtime",)  # cgru/kernels/runtime...
        check_symbols = ("cgru_pool_of_threads",)

        def get_num_threads(self) -> int:
            return get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            set_num_threads(num_threads)

        def get_version(self) -> str:
            from cgru._version import __version__

            return __version__

    threadpoolctl.register(CgruController)


if "threadpoolctl" in sys.modules:
    register_threadpoolctl()
