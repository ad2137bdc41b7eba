"""Reads and writes between this process and an owner, timed. Shared by the benchmarks of memory and TCP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np

from tent_core import Engine, Intent

from .common import percentile
from .floors import NativeCaller
from .owner import SEGMENT, owner

__all__ = ["Caller", "Mover", "callers", "mover"]


class Caller(Protocol):
    """Whoever asks the engine to move bytes: a Python program, or a C++ one."""

    def timed(self, op: str, nbytes: int, count: int, ranges: int = 1) -> float: ...

    def latency(self, op: str, nbytes: int, count: int) -> tuple[float, float]: ...


class Mover:
    """Times transfers of one size between a local segment and the owner's."""

    def __init__(self, engine: Engine, peer: Any, nbytes: int) -> None:
        self.engine = engine
        self.peer = peer
        self.nbytes = nbytes
        self.segment = engine.allocate(nbytes, name="local")
        self.segment.view[:] = 0
        self.remote = peer.segment(SEGMENT)

    def intent(self, op: str, size: int, ranges: int = 1, base: int = 0) -> Intent:
        """``ranges`` ranges of ``size`` bytes, one after the other on both sides, from ``base`` on."""
        offsets = np.arange(ranges, dtype=np.uint64) * np.uint64(size) + np.uint64(base)
        return Intent(
            op=op,
            peer=self.peer,
            local=offsets + np.uint64(self.segment.address),
            remote_segment=self.remote.id,
            remote_offset=offsets,
            length=np.full(ranges, size, dtype=np.uint64),
        )

    def timed(self, op: str, nbytes: int, count: int, ranges: int = 1) -> float:
        """Seconds for ``count`` intents until the last is in place.

        They walk through the segment, as the floors do. Live transfers may not share a destination: two are under way,
        or one where the segment has room for one only.
        """
        slots = min(self.nbytes // (nbytes * ranges), count, 256)
        intents = [self.intent(op, nbytes, ranges, slot * nbytes * ranges) for slot in range(slots)]
        started = time.perf_counter()
        before = None
        for index in range(count):
            if before is not None and slots < 2:
                before.result()
                before = None
            transfer = self.engine.submit(intents[index % slots])
            if before is not None:
                before.result()
            before = transfer
        if before is not None:
            before.result()
        return time.perf_counter() - started

    def latency(self, op: str, nbytes: int, count: int) -> tuple[float, float]:
        """One intent at a time, submit to result: median and 99th percentile, in microseconds."""
        times = []
        for _ in range(count):
            intent = self.intent(op, nbytes)
            started = time.perf_counter()
            self.engine.run(intent)
            times.append((time.perf_counter() - started) * 1e6)
        return percentile(times, 50), percentile(times, 99)


@contextmanager
def mover(nbytes: int, settings: dict[str, Any]) -> Iterator[Mover]:
    """Two processes with a warm segment of ``nbytes`` each, connected."""
    with owner(nbytes, settings) as blob, Engine(settings) as engine:
        peer = engine.connect(blob)
        try:
            yield Mover(engine, peer, nbytes)
        finally:
            peer.close()


@contextmanager
def callers(transport: str, nbytes: int, settings: dict[str, Any]) -> Iterator[dict[str, Caller]]:
    """The callers there are, by the suffix of their figures: C++ without one, Python with ``_python``."""
    with ExitStack() as stack:
        found: dict[str, Caller] = {}
        if NativeCaller.available():
            found[""] = stack.enter_context(NativeCaller(transport))
        found["_python"] = stack.enter_context(mover(nbytes, settings))
        yield found
