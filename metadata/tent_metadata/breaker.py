"""A circuit breaker per server: after a failure, calls fail in microseconds, and one caller at a time tries again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

__all__ = ["Breaker"]

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
PROBE_LIMIT_S = 5.0  # a probe whose caller vanished (an interrupt) is given up after this


class Breaker:
    """Closed: everybody passes. Open: nobody, until a pause is over; then ONE caller, whose outcome decides.

    The pause doubles with each failed probe up to ``LONGEST_PAUSE_S``; jitter keeps many processes from probing a
    returning server in step. Thread-safe; `admits` costs one comparison while closed.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, jitter: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._lock = threading.Lock()
        self._until = 0.0  # 0: closed
        self._streak = 0
        self._probing = False
        self.reason = ""

    @property
    def is_open(self) -> bool:
        return self._until != 0.0

    def admits(self) -> bool:
        """Whether this caller may talk to the server. True obliges it to report `succeeded` or `failed`."""
        if self._until == 0.0:
            return True
        with self._lock:
            if self._until == 0.0:
                return True
            now = self._clock()
            if now < self._until:
                return False
            self._probing = True
            self._until = now + PROBE_LIMIT_S
            return True

    def succeeded(self) -> None:
        if self._until == 0.0 and not self._probing:
            return
        with self._lock:
            self._until, self._streak, self._probing, self.reason = 0.0, 0, False, ""

    def failed(self, reason: str) -> None:
        """Opens it. Callers that were under way together count as one failure."""
        with self._lock:
            now = self._clock()
            if self._until > now and not self._probing:
                return
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._streak, 10))
            self._streak += 1
            self._probing = False
            self._until = now + pause * (0.5 + 0.5 * self._jitter())
            self.reason = reason
