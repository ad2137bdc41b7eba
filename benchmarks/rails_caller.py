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

    def until_told(self, op: str, size: int, depth: int) -> list[tuple[float, float]]:
        """Transfers in a closed loop, ``depth`` at a time, until a line comes: (start, end) of each."""
        places = min(2 * depth, self.remote.length // size)
        under_way: deque[tuple[float, Any]] = deque()
        done, count = [], 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            while len(under_way) < depth:
                under_way.append(
                    (time.monotonic(), self.engine.submit(self.intent(op, size, count % places * size)))
                )
                count += 1
            begun, transfer = under_way.popleft()
            transfer.result()
            done.append((begun, time.monotonic()))
        sys.stdin.readline()
        for _, transfer in under_way:
            transfer.result()
        return done

    def small_ones(self, count: int, loaded: bool) -> list[float]:
        """Seconds of ``count`` interactive reads of 64 KiB, one at a time, beside 64 MiB of bulk at a time or not."""
        bulk = None
        spent = []
        for _ in range(count):
            if loaded and (bulk is None or bulk.done):
                bulk = self.engine.submit(self.intent("read", 64 * _MIB, _MIB, "bulk"))
            started = time.monotonic()
            self.engine.run(self.intent("read", 64 << 10, 0, "interactive"))
            spent.append(time.monotonic() - started)
        if bulk is not None:
            bulk.result()
        return spent


def main() -> None:
    with Engine(json.loads(sys.argv[1])) as engine:
        caller = _Caller(engine, sys.argv[2])
        print(json.dumps("ready"), flush=True)
        for line in iter(sys.stdin.readline, ""):
            what, *rest = json.loads(line)
            print(json.dumps(getattr(caller, what)(*rest)), flush=True)


if __name__ == "__main__":
    main()
