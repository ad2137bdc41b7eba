"""Keeps every fault away from SGLang's threads.

An exception, or an answer that is not what SGLang expects, ends one of its storage threads for the life of the
process. So each call of the backend runs inside :meth:`Guard.run`: whatever happens in it, SGLang gets an answer
that means *miss*, a counter rises, and a line is logged at most once an interval for each kind of fault.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger("tent.sglang")

Answer = TypeVar("Answer")


class Guard:
    """Counts and limits. Thread-safe; no call blocks on I/O."""

    def __init__(self, *, interval: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`interval`: seconds between two log lines of one kind."""
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._spoke: dict[str, float] = {}

    def run(self, what: str, call: Callable[[], Answer], otherwise: Callable[[], Answer]) -> Answer:
        """`call()`, or `otherwise()` when it raises. `what` names the call in counters and logs."""
        try:
            return call()
        except Exception as fault:
            self.count(f"{what}.faults")
            # As text: a handler that keeps its records would keep the error's frames, and the memory they refer to.
            text = str(fault) or type(fault).__name__
            self.warn(
                f"{what}:{type(fault).__name__}", "%s failed, taken as a miss: %s", what, text, trace=fault
            )
            return otherwise()

    def count(self, name: str, by: int = 1) -> None:
        if by:
            with self._lock:
                self._counts[name] += by

    def counts(self) -> dict[str, int]:
        """A copy of all counters."""
        with self._lock:
            return dict(self._counts)

    def warn(self, kind: str, message: str, *args: object, trace: BaseException | None = None) -> None:
        """Logs `message`, unless one of the same `kind` was logged within the interval; says how many it held back."""
        now = self._clock()
        with self._lock:
            last = self._spoke.get(kind)
            if last is not None and now - last < self._interval:
                self._held[kind] += 1
                return
            self._spoke[kind] = now
            held = self._held.pop(kind, 0)
        suffix = f" ({held} more like it since the last line)" if held else ""
        # The trace helps whoever mends it, at the level of somebody who asked for details.
        show_trace = trace if trace is not None and log.isEnabledFor(logging.DEBUG) else None
        log.warning(message + suffix, *args, exc_info=show_trace)
