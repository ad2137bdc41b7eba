"""Load or compute: what each would take, from what the workers measured and the store predicts.

Nothing known: load. Otherwise a hit is offered only when loading it is expected to be faster than computing it. What is
not loaded is not measured either, so while loading does not pay, a few pages are loaded now and then to see.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# The first steps of a process compile, fault memory in and fill caches.
_WARM_UP_STEPS = 2
# What a new sample leaves of the old ones' weight.
_KEPT = 0.8
_PROBE_S = 10.0


class Rate:
    """Amount per second, over the last few samples, the large ones weighing more."""

    def __init__(self) -> None:
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        self._amount = self._amount * _KEPT + amount
        self._seconds = self._seconds * _KEPT + seconds

    @property
    def value(self) -> float:
        """0: not known."""
        return self._amount / self._seconds if self._seconds > 0 else 0.0


class Line:
    """seconds = fixed + bytes x slope, fitted to the last few samples."""

    def __init__(self) -> None:
        self._n = self._b = self._s = self._bb = self._bs = 0.0

    def add(self, nbytes: float, seconds: float) -> None:
        mib = nbytes / (1 << 20)
        for name, value in (
            ("_n", 1.0),
            ("_b", mib),
            ("_s", seconds),
            ("_bb", mib * mib),
            ("_bs", mib * seconds),
        ):
            setattr(self, name, getattr(self, name) * _KEPT + value)

    def seconds(self, nbytes: float) -> float:
        """0 when nothing was measured."""
        if not self._n:
            return 0.0
        mib, mean_b, mean_s = nbytes / (1 << 20), self._b / self._n, self._s / self._n
        spread = self._bb / self._n - mean_b * mean_b
        slope = (
            (self._bs / self._n - mean_b * mean_s) / spread
            if spread > 1e-6 * (mean_b * mean_b + 1e-9)
            else -1.0
        )
        fixed = mean_s - slope * mean_b
        if slope < 0 or fixed < 0:
            return mib * mean_s / mean_b if mean_b else mean_s
        return fixed + mib * slope


class Costs:
    """For the scheduler's thread. No I/O."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._prefill = Rate()
        self._loads = Line()
        self._steps = 0
        self._probed = clock()

    def computed(self, tokens: int, seconds: float) -> None:
        """A step computed so many tokens of prompts in so many seconds."""
        self._steps += 1
        if self._steps > _WARM_UP_STEPS and tokens > 0 and seconds > 0:
            self._prefill.add(tokens, seconds)

    def loaded(self, nbytes: int, seconds: float) -> None:
        """A load took so long; `nbytes` is what came."""
        if seconds > 0:
            self._loads.add(nbytes, seconds)

    @property
    def tokens_per_second(self) -> float:
        """Prefill; 0: not known yet."""
        return self._prefill.value

    def to_compute(self, tokens: int) -> float:
        """Seconds; 0: not known."""
        rate = self.tokens_per_second
        return tokens / rate if rate else 0.0

    def to_load(self, nbytes: int, predicted: float) -> float:
        """Seconds, by what loads took and by what the store expects: the longer of the two."""
        return max(predicted, self._loads.seconds(nbytes))

    def pays(self, tokens: int, nbytes: int, predicted: float) -> bool:
        """Whether loading these tokens is expected to be faster than computing them."""
        compute = self.to_compute(tokens)
        return not compute or self.to_load(nbytes, predicted) < compute

    def probe_due(self) -> bool:
        """While nothing is loaded: whether it is time to load a little and see. True at most every few seconds."""
        now = self._clock()
        if now - self._probed < _PROBE_S:
            return False
        self._probed = now
        return True
