"""One line of the log for a fault that repeats, with how often it did."""

from __future__ import annotations

import logging
import threading
import time

__all__ = ["Rarely"]


class Rarely:
    """At most one message of a kind in ``interval`` seconds; the next one says how many were left out. Any thread."""

    def __init__(self, log: logging.Logger, interval: float) -> None:
        self._log = log
        self._interval = interval
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    def warning(self, kind: str, text: str, *values: object) -> None:
        now = time.monotonic()
        with self._lock:
            if now < self._next.get(kind, 0.0):
                self._silent[kind] = self._silent.get(kind, 0) + 1
                return
            self._next[kind] = now + self._interval
            silent = self._silent.pop(kind, 0)
        more = f" ({silent} more of this kind since the last one)" if silent else ""
        self._log.warning(text + "%s", *values, more)
