"""Prefix look-ups on a thread of their own: the scheduler's thread asks, goes on, and asks again.

A look-up of one request covers all of its full blocks, over the namespaces of all ranks: a block is a hit when every
rank's shard of it is. The pages found are pinned for a while, so that they are still there when the worker comes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tent_core.store.reason import PageStatus

from .guard import Guard

_STOP = None
_MOST_FAILED_PAGES = 65536


class PrefixLookup:
    """One request's look-up. Made and read on the scheduler's thread; answered on the service's."""

    def __init__(self, keys: list[bytes], asked_at: float) -> None:
        self.keys = keys
        self.asked_at = asked_at
        self.answered_at = 0.0
        self.hit: NDArray[np.bool_] | None = None
        self.pins: list[Any] = []
        self._lock = threading.Lock()
        self._dropped = False

    @property
    def done(self) -> bool:
        return self.hit is not None

    def leading_hits(self, start: int) -> int:
        """How many pages in a row are there from page `start` on."""
        if self.hit is None:
            return 0
        rest = self.hit[start:]
        return int(len(rest) if rest.all() else np.argmin(rest))

    def answer(self, hit: NDArray[np.bool_], pins: list[Any], now: float) -> None:
        with self._lock:
            self.answered_at = now
            self.hit = hit
            self.pins = pins
            dropped = self._dropped
        if dropped:
            self._release()

    def drop(self) -> None:
        """Nobody needs the answer any more: give the pins back. Idempotent."""
        with self._lock:
            self._dropped = True
            done = self.hit is not None
        if done:
            self._release()

    def _release(self) -> None:
        with self._lock:
            pins, self.pins = self.pins, []
        for pin in pins:
            pin.release()


class LookupService:
    """A thread, a queue and what is known to be broken. `submit` and `failed` are for the scheduler's thread."""

    def __init__(
        self,
        ask: Callable[[list[bytes]], tuple[list[NDArray[np.uint8]], list[Any]]],
        guard: Guard,
        *,
        pause: float,
        failed_for: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask(keys)` does the I/O: a status per key for each rank, and the pins. Its faults are misses.

        `pause`: seconds without waiting after the directory was found down. `failed_for`: seconds for which a page
        that failed to load counts as absent.
        """
        self._ask = ask
        self._guard = guard
        self._pause = pause
        self._failed_for = failed_for
        self._clock = clock
        self._failed: dict[bytes, float] = {}
        self._down_until = 0.0
        self._queue: queue.SimpleQueue[PrefixLookup | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tent-vllm-lookup", daemon=True)
        self._thread.start()

    def submit(self, keys: Sequence[bytes]) -> PrefixLookup:
        lookup = PrefixLookup(list(keys), self._clock())
        self._queue.put(lookup)
        return lookup

    @property
    def directory_down(self) -> bool:
        """Whether waiting for a look-up is a waste of time just now."""
        return self._clock() < self._down_until

    def failed(self, keys: Sequence[bytes]) -> None:
        """These pages were found and could not be loaded: absent for a while, so that nothing loops."""
        now = self._clock()
        if len(self._failed) + len(keys) > _MOST_FAILED_PAGES:
            self._failed = {key: until for key, until in self._failed.items() if until > now}
        if len(self._failed) + len(keys) <= _MOST_FAILED_PAGES:
            self._failed.update((key, now + self._failed_for) for key in keys)

    def usable(self, lookup: PrefixLookup, start: int, end: int) -> int:
        """Leading hits of `lookup` from page `start`, before `end`, that have not failed of late."""
        count = min(lookup.leading_hits(start), max(0, end - start))
        if self._failed:
            now = self._clock()
            for i, key in enumerate(lookup.keys[start : start + count]):
                if self._failed.get(key, 0.0) > now:
                    return i
        return count

    def close(self, timeout: float) -> None:
        """Ends the thread; a look-up under way is waited for up to `timeout` seconds."""
        self._queue.put(_STOP)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (lookup := self._queue.get()) is not _STOP:
            hit, pins = self._guard.run("lookup", lambda: self._answer(lookup.keys), lambda: (None, []))
            lookup.answer(np.zeros(len(lookup.keys), dtype=bool) if hit is None else hit, pins, self._clock())

    def _answer(self, keys: list[bytes]) -> tuple[NDArray[np.bool_] | None, list[Any]]:
        statuses, pins = self._ask(keys)
        if not statuses:
            return None, pins
        if any((status == PageStatus.DIRECTORY_DOWN).any() for status in statuses):
            self._down_until = self._clock() + self._pause
        hit = np.logical_and.reduce([status == PageStatus.HIT for status in statuses])
        for status in statuses:
            for reason, count in zip(*np.unique(status[: len(keys)], return_counts=True), strict=True):
                self._guard.count(f"lookup.{PageStatus(int(reason)).name.lower()}", int(count))
        return hit, pins
