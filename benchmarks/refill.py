"""A directory server that has lost its memory, and many nodes that fill it again beside look-ups: in virtual time.

The nodes' pace is the real one (`tent_core.store.pace`); the server answers in order of arrival and takes a fixed time
for each page. What is not answered within the directory's time-out has been done all the same, and is sent again.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tent_core.store.pace import LEAST_S, Pace

__all__ = ["EveryFewMs", "Refill", "refill"]

BATCH = 256
_LOOKUP_KEYS = 64
_ARRIVE_S = 0.3  # within which all nodes have noticed


class Pacing(Protocol):
    next: float

    def took(self, seconds: float) -> None: ...
    def failed(self) -> None: ...


class EveryFewMs:
    """For comparison: as fast as the server answers, and again after a quarter of a second."""

    def __init__(self, clock: Callable[[], float], _jitter: Callable[[], float]) -> None:
        self._clock = clock
        self.next = 0.0

    def took(self, seconds: float) -> None:
        self.next = self._clock() + LEAST_S

    def failed(self) -> None:
        self.next = self._clock() + 0.25


@dataclass(frozen=True)
class Refill:
    seconds: float | None
    """Until every page was known again. None: not within the time given."""
    known: int
    sent_again: int
    """Pages in batches that got no answer in time."""
    answered: float
    """Share of the look-ups meanwhile that were answered in time."""


def refill(
    nodes: int,
    pages: int,
    *,
    publish_s: float,
    lookup_s: float,
    lookups_per_s: float = 500.0,
    timeout_s: float = 0.1,
    limit_s: float = 1500.0,
    pacing: Callable[[Callable[[], float], Callable[[], float]], Pacing] = Pace,
    seed: int = 1,
) -> Refill:
    """``pages`` of each of ``nodes``. ``publish_s``, ``lookup_s``: what the server takes for a page, and for a key."""
    rng = random.Random(seed)
    now = [0.0]
    paces = [pacing(lambda: now[0], rng.random) for _ in range(nodes)]
    left = [pages] * nodes
    events = [(rng.random() * _ARRIVE_S, node) for node in range(nodes)]
    heapq.heapify(events)
    free = next_lookup = ended = 0.0
    known = again = asked = answered = 0
    while events and now[0] < limit_s:
        at, node = heapq.heappop(events)
        while next_lookup < at:  # they come in between
            free = max(free, next_lookup) + _LOOKUP_KEYS * lookup_s
            asked += 1
            answered += free - next_lookup <= timeout_s
            next_lookup += rng.expovariate(lookups_per_s)
        count = min(BATCH, left[node])
        free = max(free, at) + count * publish_s
        took = free - at
        now[0] = at + min(took, timeout_s)
        if took > timeout_s:
            again += count
            paces[node].failed()
        else:
            left[node] -= count
            known += count
            ended = max(ended, free)
            paces[node].took(took)
        if left[node]:
            heapq.heappush(events, (paces[node].next, node))
        now[0] = at
    return Refill(None if events else ended, known, again, answered / max(1, asked))
