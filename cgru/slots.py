"""Slots for the states of streams: who has which, who is using them now, who gives way when there is none left.

A state is a row of 64-bit words in one array, so that those of any streams are brought together, and written back, by
one copy. A call claims its streams, computes aside, and writes at the end: on an error nothing has changed, and threads
wait for each other only where they want the same stream.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from itertools import repeat, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgru.locks import Locked
from cgru.typing import Array, IntArray

Words = NDArray[np.uint64]


class Claim:
    """The streams of one call, which no other call may touch until it ends."""

    def __init__(self, keys: list[Hashable], held: set[Hashable]) -> None:
        self.keys, self.held = keys, held
        self.slots: IntArray = np.empty(0, np.intp)
        self.new: IntArray = np.empty(0, np.intp)  # places in `keys` of the streams that begin
        self.free: list[int] = []  # slots of theirs that were free
        self.victims: list[Hashable] = []  # streams that give way to the others
        self.written = False


class Slots(Locked):
    """A bounded number of states, each under a key.

    Parameters
    ----------
    count : int
        How many there may be.
    idle : float or None
        Seconds without a step after which a stream is dropped.
    replace : bool
        Whether those that took no step for longest give way where there is no slot left.
    """

    def __init__(self, count: int, idle: float | None, replace: bool) -> None:
        super().__init__()
        self.count, self.idle, self.replace = count, idle, replace
        self.words: Words = np.zeros((count, 0), np.uint64)
        self.of_key: dict[Hashable, int] = {}
        self._keys: list[Hashable] = [None] * count  # of each slot
        self._taken = np.zeros(count, bool)
        self._used = np.zeros(count)  # when each stream took its last step; infinite where one begins
        self._due = np.inf  # nobody is idle before

    def _renew_lock(self) -> None:
        super()._renew_lock()
        self._changed = threading.Condition(self._lock)
        self._claims: list[Claim] = []
        self._queue: list[list[set[Hashable] | None]] = []  # of calls that wait: which streams each of them wants
        self._process = os.getpid()  # a fork's child has none of the threads whose claims these are

    # -- a call

    def enter(self, claim: Claim) -> Words:
        """Claim slots when no other call has these streams; return their states, at the places of new ones anything.

        Raises
        ------
        ValueError
            If a key that is new is not equal to itself: it would not be found again.
        RuntimeError
            If there are more streams than slots.
        """
        with self._changed:
            while not self._place(claim):
                self._changed.wait()
            rows = self.words.take(claim.slots, axis=0)
            try:
                self._taken[claim.free], self._used[claim.free] = True, np.inf
                self._claims.append(claim)
            except BaseException:
                self._end(claim)
                raise
        return rows

    def _place(self, claim: Claim) -> bool:
        """Find the slots of a claim when no other call has its streams; False if those are all in use that may give
        way to them."""
        self._wait(claim.held)
        self._drop_idle()
        claim.slots = np.fromiter(map(self.of_key.get, claim.keys, repeat(-1)), np.intp, len(claim.keys))
        claim.new = np.flatnonzero(claim.slots < 0)
        if not len(claim.new):
            return True
        check_found_again([claim.keys[place] for place in claim.new.tolist()])
        room = self._room(claim)
        if room is not None:
            claim.slots[claim.new] = room
        return room is not None

    def write(self, claim: Claim, rows: Words) -> None:
        """Let these be the states of the streams of a claim."""
        with self._lock:
            whole(lambda: self._write(claim, rows))

    def leave(self, claim: Claim) -> None:
        """End a claim, written or not."""
        with self._changed:
            if any(other is claim for other in self._claims):
                self._end(claim)

    def _write(self, claim: Claim, rows: Words) -> None:
        for key in claim.victims:
            self.of_key.pop(key, None)
        self.words[claim.slots] = rows
        now = self._used[claim.slots] = time.monotonic()
        for place, slot in zip(claim.new.tolist(), claim.slots[claim.new].tolist(), strict=True):
            self._keys[slot] = claim.keys[place]
            self.of_key[claim.keys[place]] = slot
        if self.idle is not None:
            self._due = min(self._due, now + self.idle)
        claim.written = True

    def _end(self, claim: Claim) -> None:
        if not claim.written:
            self._taken[claim.free] = False
        self._claims = [other for other in self._claims if other is not claim]
        self._changed.notify_all()

    def _wait(self, keys: set[Hashable] | None) -> None:
        """Wait until no other call has one of these streams, or, with None, any. Who came first goes first: those that
        want many would never find all of them at rest."""
        if self._process != os.getpid():
            self._claims, self._queue, self._process = [], [], os.getpid()
            self._taken[:] = False
            self._taken[list(self.of_key.values())] = True
        if not self._claims and not self._queue:
            return
        queue, own = self._queue, [keys]
        queue.append(own)
        try:
            while self._is_barred(own):
                self._changed.wait()
        finally:
            queue[:] = (other for other in queue if other is not own)
            self._changed.notify_all()

    def _is_barred(self, own: list[set[Hashable] | None]) -> bool:
        """Whether a call that waits does so for another one, which has its streams or came before it."""
        (keys,) = own
        if any(keys is None or not claim.held.isdisjoint(keys) for claim in self._claims):
            return True
        before = takewhile(lambda other: other is not own, self._queue)
        return any(keys is None or others is None or not others.isdisjoint(keys) for (others,) in before)

    def _is_claimed(self, key: Hashable) -> bool:
        return any(key in claim.held for claim in self._claims)

    # -- who has to go

    def _room(self, claim: Claim) -> list[int] | None:
        """Slots for the streams that begin; None if other calls use those that may give way."""
        wanted = len(claim.new)
        claim.free = np.flatnonzero(~self._taken)[:wanted].tolist()
        missing = wanted - len(claim.free)
        if not missing:
            return claim.free
        others = [key for key in self.of_key if key not in claim.held and not self._is_claimed(key)]
        if self.replace and missing > len(others) and len(claim.keys) <= self.count and self._claims:
            return None
        if not self.replace or missing > len(others):
            idle = "" if self.idle is None else f", none of them idle for {self.idle:g} s"
            raise RuntimeError(
                f"keys: expected at most max_streams={self.count} streams, got {wanted} new beside "
                f"{len(self.of_key)}{idle}: drop some, or make Streams with a larger max_streams, "
                'with idle=seconds, or with when_full="replace"'
            )
        used = self._used[[self.of_key[key] for key in others]]
        claim.victims = [others[i] for i in np.argsort(used, kind="stable")[:missing]]
        claim.held.update(claim.victims)
        return claim.free + [self.of_key[key] for key in claim.victims]

    def _drop_idle(self) -> None:
        now = time.monotonic()
        if self.idle is None or now <= self._due:
            return
        slots = np.flatnonzero(self._taken & (self._used < now - self.idle)).tolist()
        self._forget([key for key in map(self._keys.__getitem__, slots) if not self._is_claimed(key)])
        self._due = float(np.min(self._used[self._taken], initial=np.inf)) + self.idle

    def drop(self, keys: set[Hashable]) -> int:
        """Forget these streams; return how many of them there were."""
        with self._changed:
            self._wait(keys)
            return self._forget([key for key in keys if key in self.of_key])

    def _forget(self, keys: list[Hashable]) -> int:
        slots = [self.of_key[key] for key in keys]

        def forget() -> None:
            for key, slot in zip(keys, slots, strict=True):
                self.of_key.pop(key, None)
                self._keys[slot] = None
            self._taken[slots] = False

        whole(forget)
        return len(keys)

    # -- all of them

    def everything(self) -> tuple[list[Hashable], Array, Words]:
        """The keys, the seconds since their last steps, and the states."""
        with self._lock:
            keys = list(self.of_key)
            slots = np.array([self.of_key[key] for key in keys], np.intp)
            return keys, time.monotonic() - self._used[slots], self.words[slots]

    def become(self, keys: list[Hashable], ages: Array, rows: Words) -> None:
        """Have these streams, and no others."""
        count = len(keys)
        words, used, taken = np.zeros_like(self.words), np.zeros(self.count), np.zeros(self.count, bool)
        words[:count], used[:count], taken[:count] = rows, time.monotonic() - ages, True

        def change() -> None:
            self.words, self._used, self._taken, self._due = words, used, taken, -np.inf
            self._keys = keys + [None] * (self.count - count)
            self.of_key = dict(zip(keys, range(count), strict=True))

        with self._changed:
            self._wait(None)
            whole(change)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            keys, ages, rows = self.everything()
        return {"made": (self.count, self.idle, self.replace), "all": (keys, ages, rows)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        keys, ages, rows = state["all"]
        Slots.__init__(self, *state["made"])
        self.words = np.zeros((self.count, rows.shape[1]), np.uint64)
        self.become(keys, ages, rows)


def check_found_again(keys: list[Hashable]) -> None:
    """ValueError if a key is not equal to itself, as NaN is not: nobody finds its stream again."""
    for key in keys:
        if key != key:
            raise ValueError(f"keys: expected keys that are equal to themselves, got {key!r}")


def whole(change: Callable[[], None]) -> None:
    """Make a change that may be made twice, all of it even if Ctrl-C comes."""
    try:
        change()
    except KeyboardInterrupt:
        change()
        raise
