"""Loads that run beside the steps: the request waits in vLLM's queue, and nobody else waits for it.

vLLM keeps the blocks of such a request, even of an aborted one, until it is told that the load has ended. So every
fetch is reported exactly once, and not before nothing can land in its blocks any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tent_core.store.reason import PageStatus

from .guard import Guard, log
from .plan import Fetch
from .settings import Settings
from .store_pages import Moving, StorePages

# Where a fetch is all there is to do, the step waits for it so long instead of spinning.
_IDLE_WAIT_S = 0.002
_RELEASE_S = 30.0


@dataclass
class _Running:
    req_id: str
    moving: Moving
    started: float
    weights: str
    """The version of the weights under which it was begun."""
    give_up: float
    """When it is cancelled; later, when its release is no longer waited for."""
    cancelled: bool = False


@dataclass
class Ended:
    """What became of fetches since the last time."""

    finished: set[str]
    """Requests whose load has ended, well or not."""
    failed: set[str]
    """Those of them whose pages did not all come."""
    lost: list[tuple[int, bytes]]
    """(group, key) of the pages that did not come."""
    nbytes: int = 0
    seconds: float = 0.0


class Fetches:
    """For vLLM's worker thread."""

    def __init__(
        self, pages: StorePages, guard: Guard, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pages = pages
        self._guard = guard
        self._timeout = settings.load_timeout_ms / 1000
        self._clock = clock
        self._running: list[_Running] = []
        self._ended = Ended(set(), set(), [])
        self._weights = ""

    def start(self, fetches: Iterable[Fetch], found: str, weights: str) -> None:
        """Before anything else may write to their blocks; those of earlier owners are let go already. `found`: the
        version of the weights under which they were looked up; `weights`: the one of the step."""
        self._weights = weights
        for fetch in fetches:
            if found != weights:
                self._guard.count("load.other_weights", len(fetch.pages))
                self._fail(fetch)
                continue
            running = self._guard.run("load", lambda fetch=fetch: self._start(fetch), lambda: None)  # type: ignore[misc]
            if running is not None:
                self._running.append(running)
            else:
                self._fail(fetch)

    def _start(self, fetch: Fetch) -> _Running | None:
        if len(fetch.pages.keys) != len(fetch.pages) or not self._pages.ready(self._weights):
            self._guard.count("load.not_ready", len(fetch.pages))
            return None
        now = self._clock()
        moving = self._pages.get(fetch.pages, self._timeout)
        return _Running(fetch.req_id, moving, now, self._weights, now + self._timeout)

    def _fail(self, fetch: Fetch) -> None:
        self._ended.finished.add(fetch.req_id)
        self._ended.failed.add(fetch.req_id)
        groups = fetch.pages.groups
        places = range(len(fetch.pages.keys))
        self._ended.lost += [
            (int(groups[i]) if groups is not None else 0, fetch.pages.keys[i]) for i in places
        ]

    def cancel(self, req_ids: Iterable[str]) -> None:
        """Their requests have ended: what is still to come is in vain."""
        wanted = set(req_ids)
        for running in self._running:
            if running.req_id in wanted and not running.cancelled:
                self._cancel(running)
                self._guard.count("load.aborted")

    def _cancel(self, running: _Running) -> None:
        running.cancelled = True
        running.give_up = self._clock() + _RELEASE_S
        running.moving.cancel()

    def take(self, *, idle: bool) -> Ended:
        """What has ended. `idle`: the step had nothing else to do, so that a short wait costs nobody anything."""
        if idle and self._running and not self._ended.finished:
            self._running[0].moving.wait(_IDLE_WAIT_S)
        self._running = [running for running in self._running if not self._over(running)]
        ended, self._ended = self._ended, Ended(set(), set(), [])
        return ended

    def _over(self, running: _Running) -> bool:
        now = self._clock()
        if not running.moving.done and now > running.give_up and not running.cancelled:
            self._guard.count("load.timeouts")
            self._cancel(running)
        if not running.moving.released:
            if not running.cancelled or now < running.give_up:
                return False
            self._pages.halted = True
            log.critical("a load was not released within %d s: TENT moves nothing more", _RELEASE_S)
        self._note(running, now)
        return True

    def _note(self, running: _Running, now: float) -> None:
        pages, status = running.moving.pages, running.moving.status
        came = status == PageStatus.HIT
        if running.weights != self._weights:
            # The weights changed while it was under way: its request would go on from another model's cache.
            self._guard.count("load.other_weights", len(pages))
            came = np.zeros(len(pages), dtype=bool)
        ended = self._ended
        ended.finished.add(running.req_id)
        ended.nbytes += running.moving.bytes_of(came)
        ended.seconds += now - running.started
        if not came.all():
            ended.failed.add(running.req_id)
            groups = pages.groups if pages.groups is not None else np.zeros(len(pages), dtype=np.int64)
            ended.lost += [(int(groups[i]), pages.keys[i]) for i in np.flatnonzero(~came)]
        count_pages(self._guard, "load", running.moving, came, now - running.started)

    def close(self) -> None:
        for running in self._running:
            self._cancel(running)
        for running in self._running:
            running.moving.wait_released()


def count_pages(guard: Guard, what: str, moving: Moving, moved: NDArray[np.bool_], seconds: float) -> None:
    """Counters of one batch of pages by what became of them; `moved`: the ones whose bytes count."""
    status = moving.status
    for reason, count in zip(*np.unique(status, return_counts=True), strict=True):
        guard.count(f"{what}.{PageStatus(int(reason)).name.lower()}", int(count))
    guard.count(f"{what}.bytes", moving.bytes_of(moved))
    guard.count(f"{what}.microseconds", int(seconds * 1e6))
