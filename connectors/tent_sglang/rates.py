"""Sizes and speeds of the transfers since SGLang last asked."""

from __future__ import annotations

import threading
from collections import deque

# SGLang asks on every scheduler iteration when it collects metrics; without metrics nobody ever does.
_KEPT = 1024


class Rates:
    """(pages, GB/s) of recent transfers, bounded. Thread-safe, no I/O."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[int, float]] = deque(maxlen=_KEPT)

    def add(self, pages: int, nbytes: int, seconds: float) -> None:
        """One transfer of `pages` pages, `nbytes` bytes in all."""
        if pages and seconds > 0:
            with self._lock:
                self._recent.append((pages, nbytes / seconds / 1e9))

    def take(self) -> tuple[list[int], list[float]]:
        """(pages, GB/s) of each transfer since the last call, oldest first."""
        with self._lock:
            taken, self._recent = self._recent, deque(maxlen=_KEPT)
        return [pages for pages, _ in taken], [rate for _, rate in taken]
