"""Prefix look-ups on a thread of their own: the scheduler's thread asks, goes on, and asks again.

A look-up of one request covers all of its full blocks, over the namespaces of all ranks and KV-cache groups. The pages
found are pinned for a while, so that they are still there when the worker comes.
"""

from __future__ import annotations

import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tent_core.store.reason import PageStatus

from .groups import Groups
from .guard import Guard
from .rank_lookup import Answer

_STOP = None
_MOST_FAILED_PAGES = 65536


class PrefixLookup:
    """One request's look-up. Made and read on the scheduler's thread; answered on the service's."""

    def __init__(self, keys: list[bytes], asked_at: float) -> None:
        self.keys = keys
        self.asked_at = asked_at
        self.answered_at = 0.0
        self.hits: list[NDArray[np.bool_]] | None = None
        """By group, whether each of its blocks is there; None: not known yet."""
        self._holes: list[int] = []
        """The first group's blocks that are not there, in order; the one after the last is none."""
        self.seconds = 0.0
        """What the store expects loading all that was found to take."""
        self.pins: list[Any] = []
        self._lock = threading.Lock()
        self._dropped = False

    @property
    def done(self) -> bool:
        return self.hits is not None

    def answer(self, hits: list[NDArray[np.bool_]], pins: list[Any], now: float) -> None:
        first = hits[0] if hits else np.zeros(0, dtype=bool)
        with self._lock:
            self.answered_at = now
            self._holes = [*np.flatnonzero(~first).tolist(), len(first)]
            self.hits = hits
            self.pins = pins
            dropped = self._dropped
        if dropped:
            self._release()

    def run(self, start: int, end: int) -> int:
        """Of the first group's blocks from `start` to `end`, so many are there without a gap."""
        at = bisect_left(self._holes, start)
        return max(0, min(self._holes[at], end) - start) if at < len(self._holes) else 0

    def drop(self) -> None:
        """Nobody needs the answer any more: give the pins back. Idempotent."""
        with self._lock:
            self._dropped = True
            done = self.hits is not None
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
        ask: Callable[[list[bytes]], Answer | None],
        guard: Guard,
        groups: Groups,
        *,
        pause: float,
        failed_for: float,
        use: Callable[[str], None] = lambda version: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask(keys)` does the I/O. Its faults, and None, are misses.

        `pause`: seconds without waiting after the directory was found down. `failed_for`: seconds for which a page
        that failed to load counts as absent. `use(version)`: what is asked from now on is of these weights.
        """
        self._ask = ask
        self._guard = guard
        self._groups = groups
        self._pause = pause
        self._failed_for = failed_for
        self._use = use
        self._clock = clock
        self._failed: dict[tuple[int, bytes], float] = {}
        self._failed_until = 0.0
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

    def failed(self, group: int, keys: Sequence[bytes]) -> None:
        """These pages were found and could not be loaded: absent for a while, so that nothing loops."""
        now = self._clock()
        self._failed_until = now + self._failed_for
        if len(self._failed) + len(keys) > _MOST_FAILED_PAGES:
            self._failed = {key: until for key, until in self._failed.items() if until > now}
        if len(self._failed) + len(keys) <= _MOST_FAILED_PAGES:
            self._failed.update(((group, key), now + self._failed_for) for key in keys)

    def other_weights(self, version: str) -> None:
        """From now on pages of this version of the weights are looked for; what failed was another's."""
        self._use(version)
        self._failed = {}

    def usable(self, lookup: PrefixLookup, start: int, end: int) -> int:
        """Units that can be loaded from unit `start` on, up to `end`: there, and not failed of late."""
        if lookup.hits is None or end <= start:
            return 0
        if self._failed and self._clock() >= self._failed_until:
            self._failed = {}
        if self._groups.plain and not self._failed:
            return lookup.run(start, end)
        hits = self._without_failed(lookup) if self._failed else lookup.hits
        return self._groups.longest(hits, start, end) - start

    def _without_failed(self, lookup: PrefixLookup) -> list[NDArray[np.bool_]]:
        now, hits = self._clock(), []
        for group, hit in enumerate(lookup.hits or ()):
            keys = self._groups.keys(lookup.keys, group, 0, len(hit))
            hits.append(
                hit & np.array([self._failed.get((group, key), 0.0) <= now for key in keys], dtype=bool)
            )
        return hits

    def close(self, timeout: float) -> None:
        """Ends the thread; a look-up under way is waited for up to `timeout` seconds."""
        self._queue.put(_STOP)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (lookup := self._queue.get()) is not _STOP:
            self._serve(lookup)

    def _serve(self, lookup: PrefixLookup) -> None:
        answer = self._guard.run("lookup", lambda: self._ask(lookup.keys), lambda: None)
        if answer is None:
            lookup.answer([np.zeros(0, dtype=bool)] * len(self._groups.all), [], self._clock())
            return
        self._count(answer)
        lookup.seconds = answer.seconds
        lookup.answer(answer.hits, answer.pins, self._clock())

    def _count(self, answer: Answer) -> None:
        for status in answer.statuses:
            if (status == PageStatus.DIRECTORY_DOWN).any():
                self._down_until = self._clock() + self._pause
            for reason, count in zip(*np.unique(status, return_counts=True), strict=True):
                self._guard.count(f"lookup.{PageStatus(int(reason)).name.lower()}", int(count))
