"""How fast this server computes prompts: what a page that is not loaded costs.

Two hooks of the plug-in tell when SGLang's scheduler starts a batch and when it has its result. They run on the
scheduler's own thread, take a microsecond, and never raise into it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

# Batches of fewer tokens say more about their overhead than about the rate.
_LEAST_TOKENS = 64
_KEPT = 32
# More batches than ever wait for their results; beyond that we have lost count, and start again.
_MOST_WAITING = 64


class Prefill:
    """Tokens a second of the prompts computed lately. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, int]] = deque()  # start, prompt tokens (0: no prompt batch)
        self._ended = 0.0
        self._rates: deque[float] = deque(maxlen=_KEPT)

    def started(self, tokens: int) -> None:
        """A batch goes to the device; `tokens`: of prompts, 0 for a decode step."""
        with self._lock:
            if len(self._waiting) >= _MOST_WAITING:
                self._waiting.clear()
            self._waiting.append((self._clock(), tokens))

    def finished(self) -> None:
        """The result of the oldest batch is there: they come in the order in which they were started."""
        now = self._clock()
        with self._lock:
            if not self._waiting:
                return
            began, tokens = self._waiting.popleft()
            # While another batch was computed this one waited.
            seconds = now - max(began, self._ended)
            self._ended = now
            if tokens >= _LEAST_TOKENS and seconds > 0:
                self._rates.append(tokens / seconds)

    @property
    def rate(self) -> float | None:
        """None before the first prompt. A quick one of the recent batches, the upper quartile: one that was held up
        by something else says less than it could do."""
        with self._lock:
            rates = sorted(self._rates)
        return rates[len(rates) * 3 // 4] if rates else None


#: Of this process, which is one scheduler.
PREFILL = Prefill()


def around_run_batch(
    original: Callable[..., Any], scheduler: Any, batch: Any, *args: Any, **kwargs: Any
) -> Any:
    """Around ``Scheduler.run_batch(batch, …)``."""
    try:
        prompts = batch.forward_mode.is_extend()
        PREFILL.started(int(getattr(batch, "extend_num_tokens", 0) or 0) if prompts else 0)
    except Exception:
        PREFILL.started(0)
    return original(scheduler, batch, *args, **kwargs)


def around_process_result(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Around ``Scheduler.process_batch_result(batch, result)``."""
    try:
        return original(*args, **kwargs)
    finally:
        PREFILL.finished()
