"""What threads, forks, copies and pickles must not tear apart: locks that are free in a forked child, where no thread
is left to give them back, and arrays that are one's own."""

from __future__ import annotations

import copy
import os
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cgru.typing import AnyArray, Array

if TYPE_CHECKING:
    from typing_extensions import Self

_Key = TypeVar("_Key")
_PATIENCE = 1.0  # seconds that a fork waits for those who write parameters
_owners: weakref.WeakValueDictionary[int, Locked]
_owners = weakref.WeakValueDictionary()  # by id, because an owner's class may compare by value
_fork = threading.local()


class Locked:
    """Base of what many threads may use: `_lock` guards what it holds and goes into no copy and no pickle.

    A fork waits for those who have the lock, so that the child sees nothing half written. If somebody keeps it longer
    than that, or waits for the fork himself, the child gets a new lock.
    """

    def __init__(self) -> None:
        self._renew_lock()

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()
        _owners[id(self)] = self

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            state = self.__dict__.copy()
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew_lock()

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # two of them share no array that one of them writes


def owned(array: AnyArray) -> AnyArray:
    """`array` itself where it is a usual one with memory of its own, else such a copy.

    What comes out of a pickle may be read-only, mapped from a file, or the memory of the object that was pickled.
    """
    usual = type(array) is np.ndarray and array.flags.owndata and array.flags.carray
    return array if usual else np.array(array, array.dtype.newbyteorder("="), order="C", subok=False)


def unshared(arrays: Mapping[_Key, Array]) -> dict[_Key, Array]:
    """The dict of arrays, with a new array, of any values, in the place of each that somebody else holds: the array,
    a view of it, or what was made of it."""
    return {
        key: arrays[key] if count <= _ALONE and arrays[key].flags.owndata else np.empty_like(arrays[key])
        for key, count in _references(arrays).items()
    }


def _references(arrays: Mapping[_Key, Array]) -> dict[_Key, int]:
    return {key: sys.getrefcount(array) for key, array in arrays.items()}


_ALONE = _references({0: np.empty(0)})[0]  # of an array that only its dict holds: versions of Python count differently


def _before_fork() -> None:
    """Hold all locks at one moment. Nobody is waited for while others are held: that would be a deadlock."""
    held = _fork.held = []
    end = time.monotonic() + _PATIENCE
    while True:
        for owner in list(_owners.values()):
            lock = owner._lock
            if not lock.acquire(blocking=False):
                break
            held.append(lock)
        else:
            return
        _release()
        if time.monotonic() > end:
            return
        time.sleep(0.0005)


def _release() -> None:
    held = getattr(_fork, "held", ())
    while held:
        held.pop().release()


def _after_fork_in_child() -> None:
    _release()
    for owner in list(_owners.values()):
        if owner._lock.acquire(blocking=False):  # free, or of the thread that forked
            owner._lock.release()
        else:
            owner._renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_release, after_in_child=_after_fork_in_child)
