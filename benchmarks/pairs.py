"""Two hosts of a test bed, a process of ours on each, for the benchmarks over shaped rails. Needs root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tent_core.errors import PermissionDenied
from tent_core.testbed import Testbed

__all__ = [
    "EQUAL",
    "UNEQUAL",
    "Caller",
    "Pair",
    "need_root",
    "pair_over",
    "raw_at_once",
    "raw_rates",
    "raw_stream",
    "raw_sum",
]

_MIB = 1 << 20
_SETTINGS = {"cluster.secret": "of a benchmark", "engine.deadline_ms": 60_000}
UNEQUAL = (2000, 2000, 1000, 250)
EQUAL = (4000, 4000, 4000, 4000)
# Both ends of a raw stream, in blocks of 1 MiB that are spread over 64 MiB, as a transfer's are. Each prints the
# processor's seconds that its stream took.
_SINK = """
import resource, socket, sys
buffer = memoryview(bytearray(b"x" * (64 << 20)))
listener = socket.create_server((sys.argv[1], 7))
print("listens", flush=True)
stream, _ = listener.accept()
before = resource.getrusage(resource.RUSAGE_SELF)
left, at = int(stream.recv(16)), 0
while left > 0:
    took = stream.recv_into(buffer[at : (at >> 20) + 1 << 20])
    left, at = left - took, (at + took) % (64 << 20)
stream.send(b"x")
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""
_SOURCE = """
import resource, socket, sys, time
size = int(sys.argv[2])
blocks = memoryview(bytearray(b"x" * (64 << 20)))
with socket.socket() as stream:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    stream.connect((sys.argv[1], 7))
    stream.sendall(b"%16d" % size)
    print("connected", flush=True)
    sys.stdin.readline()
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    for i in range(size >> 20):
        at = i % 64 << 20
        stream.sendall(blocks[at : at + (1 << 20)])
    stream.recv(1)
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""


class Caller:
    """A process of rails_caller.py on host 0, over all rails or those of ``bind``. One request at a time."""

    def __init__(self, bed: Testbed, settings: str, descriptor: str, bind: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", f"{__package__ or 'benchmarks'}.rails_caller", settings, descriptor]
        if bind:
            command = ["env", f"TENT_NODE_BIND={','.join(bind)}", *command]
        self.process = bed.run(0, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def tell(self, *what: Any) -> None:
        print(json.dumps(what), file=self.process.stdin, flush=True)

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the caller's process ended; its error is above")
        return json.loads(line)

    def ask(self, *what: Any) -> Any:
        self.tell(*what)
        return self.answer()

    def during(self, act: Callable[[], Any], *what: Any) -> Any:
        """A closed loop while ``act`` happens, such as rails_caller's until_told."""
        self.tell(*what)
        act()
        self.tell()
        return self.answer()


class Pair:
    """An owner on host 1, and callers on host 0: the first of them is ``caller``."""

    def __init__(self, bed: Testbed, nbytes: int, more: dict[str, Any]) -> None:
        self.bed = bed
        self._settings = json.dumps({**_SETTINGS, **more})
        command = [sys.executable, "-m", f"{__package__ or 'benchmarks'}.owner", str(nbytes), self._settings]
        self.owner = bed.run(1, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.owner.stdout is not None
        self._descriptor = self.owner.stdout.readline().strip()
        self._callers: list[Caller] = []
        self.caller = self.another_caller()

    def another_caller(self, rails: Sequence[int] = ()) -> Caller:
        """Another engine of host 0, over these rails alone where any are named."""
        bind = [self.bed.address(0, rail) for rail in rails]
        self._callers.append(Caller(self.bed, self._settings, self._descriptor, bind))
        return self._callers[-1]

    def cpu_seconds(self) -> float:
        """What all of its processes have used."""
        return sum(_cpu_seconds(one.pid) for one in (self.owner, *(c.process for c in self._callers)))

    def close(self) -> None:
        for process in (*(c.process for c in self._callers), self.owner):
            process.communicate()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def pair_over(rates: Sequence[int], nbytes: int, **settings: Any) -> Iterator[Pair]:
    with Testbed.up(rates, name=f"bench{os.getpid() % 100_000}") as bed:
        pair = Pair(bed, nbytes, settings)
        try:
            yield pair
        finally:
            pair.close()


def need_root(kind: str) -> None:
    if os.geteuid() != 0:
        raise PermissionDenied(f"tent bench {kind} makes network namespaces: run it as root")


def _sizes(bed: Testbed, seconds: float) -> dict[int, int]:
    """Rail: bytes that take about so long there."""
    return {row.rail: max(4, int(row.mbit / 8 * seconds)) * _MIB for row in bed.show()[: bed.rails]}


def raw_rates(bed: Testbed, seconds: float) -> list[float]:
    """Bytes a second that a single TCP stream reaches on each rail, one after the other."""
    return [size / raw_stream(bed, rail, size)[0] for rail, size in _sizes(bed, seconds).items()]


def raw_sum(bed: Testbed, seconds: float) -> float:
    return sum(raw_rates(bed, seconds))


def raw_at_once(bed: Testbed, seconds: float) -> float:
    """Bytes a second that single TCP streams reach together, one on each rail, all at once: where the processors and
    not the rails are the limit, that is less than the sum."""
    streams = [_RawStream(bed, rail, size) for rail, size in _sizes(bed, seconds).items()]
    for stream in streams:
        stream.start()
    return sum(stream.size / stream.end()[0] for stream in streams)


def raw_stream(bed: Testbed, rail: int, size: int) -> tuple[float, float]:
    """One TCP stream, cubic, from host 0 to host 1: its seconds, and those of the processor at both ends."""
    stream = _RawStream(bed, rail, size)
    stream.start()
    return stream.end()


class _RawStream:
    """A process at each end, which connect; ``start`` lets the bytes flow."""

    def __init__(self, bed: Testbed, rail: int, size: int) -> None:
        self.size = size
        address = bed.address(1, rail)
        self._sink = bed.run(1, [sys.executable, "-c", _SINK, address], stdout=subprocess.PIPE, text=True)
        assert self._sink.stdout is not None
        self._sink.stdout.readline()  # it listens
        command = [sys.executable, "-c", _SOURCE, address, str(size)]
        self._source = bed.run(0, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._source.stdout is not None
        self._source.stdout.readline()  # it is connected

    def start(self) -> None:
        print(file=self._source.stdin, flush=True)

    def end(self) -> tuple[float, float]:
        seconds, sending = (float(value) for value in self._source.communicate()[0].split())
        return seconds, sending + float(self._sink.communicate()[0])
