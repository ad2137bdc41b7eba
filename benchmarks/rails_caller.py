"""The caller of ``tent bench rails``: on one host of a test bed, it moves what its standard input says and answers by
a line of JSON. Times are of the monotonic clock, which all processes of a machine share."""

from __future__ import annotations

import base64
import json
import select
import sys
import time
from collections import deque
from typing import Any

from tent_core import Engine, Intent

from .owner import SEGMENT

__all__ = ["main"]

_MIB = 1 << 20
_PACE = 0.01  # seconds from one interactive read to the next


class _Caller:
    def __init__(self, engine: Engine, descriptor: str) -> None:
        self.peer = engine.connect(base64.b64decode(descriptor), 30)
        self.engine = engine
        self.remote = self.peer.segment(SEGMENT)
        self.segment = engine.allocate(self.remote.length, name="local")
        self.segment.view[:] = 2

    def intent(self, op: str, size: int, at: int, priority: str = "normal") -> Intent:
        return Intent(op, self.peer, [self.segment.address + at], self.remote, [at], size, priority=priority)

    def seconds(self, op: str, size: int) -> float:
        """One transfer, until its last byte is in place."""
        started = time.monotonic()
        self.engine.run(self.intent(op, size, 0))
        return time.monotonic() - started

    def seconds_drained(self, op: str, size: int) -> float:
        """The same, right after another transfer has used up what the rails' token buckets pass at once."""
        self.seconds(op, 16 * _MIB)
        return self.seconds(op, size)

    def paced(self, op: str, size: int, count: int) -> list[float]:
        """Seconds of each of ``count`` transfers, one every 10 ms at most."""
        spent = []
        for _ in range(count):
            spent.append(self.seconds(op, size))
            time.sleep(_PACE)
        return spent

    def until_told(
        self, op: str, size: int, depth: int, priority: str = "normal"
    ) -> list[tuple[float, float]]:
        """Transfers in a closed loop, ``depth`` at a time, until a line comes: (start, end) of each."""
        places = min(2 * depth, self.remote.length // size)
        under_way: deque[tuple[float, Any]] = deque()
        done, count = [], 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            while len(under_way) < depth:
                intent = self.intent(op, size, count % places * size, priority)
                under_way.append((time.monotonic(), self.engine.submit(intent)))
                count += 1
            begun, transfer = under_way.popleft()
            transfer.result()
            done.append((begun, time.monotonic()))
        sys.stdin.readline()
        for _, transfer in under_way:
            transfer.result()
        return done

    def faults(self) -> list[dict[str, Any]]:
        """The last fault of each link that ever had one: ``name``, and its times in ns (None: not yet, or never)."""
        return [
            {"name": row["name"], **row["last_fault"]}
            for row in self.engine.stats()["links"]
            if row["last_fault"]
        ]

    def bulk_rate(self, size: int, count: int) -> float:
        """Bytes a second of bulk reads of ``size``, two at a time."""
        bulk = _Bulk(self, size)
        while bulk.ended < count:
            bulk.step(wait=True)
        return bulk.rate()

    def small_ones(self, count: int, size: int, bulk_size: int) -> dict[str, Any]:
        """``count`` interactive reads of ``size``, one every 10 ms, beside two bulk reads of ``bulk_size`` unless that
        is 0: seconds of each, and bytes a second of the bulk."""
        bulk = _Bulk(self, bulk_size) if bulk_size else None
        spent: list[float] = []
        while len(spent) < count or (bulk is not None and bulk.ended < 3):
            if bulk is not None:
                bulk.step(wait=False)
            started = time.monotonic()
            self.engine.run(self.intent("read", size, self.remote.length - size, "interactive"))
            spent.append(time.monotonic() - started)
            time.sleep(max(0.0, _PACE - spent[-1]))
        return {"spent": spent, "bulk_rate": bulk.rate() if bulk else 0.0}


class _Bulk:
    """Two bulk reads under way, again and again."""

    def __init__(self, caller: _Caller, size: int) -> None:
        self._caller, self._size = caller, size
        self._under_way: deque[Any] = deque()
        self._submitted = self.ended = 0
        self._times: list[float] = []

    def step(self, wait: bool) -> None:
        while len(self._under_way) < 2:
            intent = self._caller.intent("read", self._size, self._submitted % 2 * self._size, "bulk")
            self._under_way.append(self._caller.engine.submit(intent))
            self._submitted += 1
        if wait or self._under_way[0].done:
            self._under_way.popleft().result()
            self._times.append(time.monotonic())
            self.ended += 1

    def rate(self) -> float:
        """Between the first end and the last."""
        for transfer in self._under_way:
            transfer.result()
        return self._size * (len(self._times) - 1) / (self._times[-1] - self._times[0])


def main() -> None:
    with Engine(json.loads(sys.argv[1])) as engine:
        caller = _Caller(engine, sys.argv[2])
        print(json.dumps("ready"), flush=True)
        for line in iter(sys.stdin.readline, ""):
            what, *rest = json.loads(line)
            print(json.dumps(getattr(caller, what)(*rest)), flush=True)


if __name__ == "__main__":
    main()
