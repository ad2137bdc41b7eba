"""Load or compute: pages that would arrive later than they can be computed are not worth loading.

The store predicts how long a load takes, by what its links deliver now; SGLang's own batches say how fast prompts are
computed. While either is unknown pages are loaded: that is how the first becomes known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# A pool that was too slow is tried again so often, seconds, and with so few tokens: SGLang's own least prefetch.
_AGAIN_S = 5.0
_TRIAL_TOKENS = 256
# Nothing is cut short sooner than this, seconds, nor before it took so many times as long as computing.
_PATIENCE_S = 0.25
_PATIENCE = 1.5


class Worth:
    """Judges loads against computing. Thread-safe, no I/O."""

    def __init__(
        self, rate: Callable[[], float | None], always: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`rate`: prompt tokens computed a second, None while unknown. `always`: everything is worth loading."""
        self._rate = rate
        self._always = always
        self._clock = clock
        self._lock = threading.Lock()
        self._busy_until = 0.0  # when the loads agreed to so far have arrived, if the predictions hold
        self._trial_at = 0.0

    def pages(self, found: int, page_tokens: int, load_s: float) -> int:
        """How many of the first `found` pages to load, which take `load_s` seconds together: all, or none; a few now
        and then when it would be none."""
        rate = None if self._always else self._rate()
        if rate is None or not found:
            return found
        now = self._clock()
        with self._lock:
            wait = max(0.0, self._busy_until - now)
            if wait + load_s <= found * page_tokens / rate:
                self._busy_until = now + wait + load_s
                return found
            if now < self._trial_at:
                return 0
            self._trial_at = now + _AGAIN_S
        return min(found, max(1, _TRIAL_TOKENS // page_tokens))

    def patience(self, tokens: int) -> float | None:
        """Seconds after which a load of so many tokens is to be cut short, because computing them would have been
        done long before; None: no such limit."""
        rate = None if self._always else self._rate()
        return None if rate is None else max(_PATIENCE_S, _PATIENCE * tokens / rate)
