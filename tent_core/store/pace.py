"""How fast a node tells the directory again what it holds: fast for one node, and bearable for a thousand at once.

A directory that has lost its memory is filled again by every node at the same time, while serving goes on asking it. A
node cannot see the others, but it sees how long its batches take. It leaves the directory alone for several times as
long as the last one took, so an overrun server is asked less by everybody; after a batch that got no answer in time it
waits twice as long as before, at random, so that nodes do not come back in step.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

__all__ = ["Pace"]

LEAST_S = 0.005  # between two batches, of an idle server
_SHARE = 4.0  # of the time that a batch took, left to others
_QUICK_S = 0.01  # a batch that takes longer has waited behind others
_SLOWEST_S = 5.0  # as long as there are answers
_FIRST_S = 0.25
_LONGEST_S = 16.0


class Pace:
    """Used by one thread. Durations are seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._backoff = 0.0
        self.next = 0.0
        """When the next batch may go, by the clock."""

    @property
    def due(self) -> bool:
        return self._clock() >= self.next

    def took(self, seconds: float) -> None:
        """A full batch was answered after so long. One that was not full was the last: nothing has to wait."""
        self._backoff = 0.0 if self._backoff < _FIRST_S else self._backoff / 1.25
        waited = max(1.0, seconds / _QUICK_S)
        gap = max(min(_SLOWEST_S, _SHARE * seconds * waited * waited), self._backoff)
        self.next = self._clock() + max(LEAST_S, gap * (0.5 + self._jitter()))

    def failed(self) -> None:
        """A batch was not answered, or refused."""
        self._backoff = min(_LONGEST_S, max(_FIRST_S, 2 * self._backoff))
        self.next = self._clock() + self._backoff * (0.5 + 0.5 * self._jitter())
