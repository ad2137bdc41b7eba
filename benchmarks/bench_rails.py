"""``tent bench rails``: two hosts of a test bed joined by four shaped rails: what they carry together, what a lost one
costs, and how small reads fare beside bulk. Needs root (network namespaces)."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from tent_core.errors import PermissionDenied
from tent_core.testbed import CUTS, Testbed

from .common import Report, Say, percentile, quiet

__all__ = ["measure"]

_MIB = 1 << 20
_SETTINGS = {"cluster.secret": "of a benchmark", "engine.deadline_ms": 60_000}
_SLICE = 2e-3  # no slice of the sprayer takes longer, seconds
_UNEQUAL = (2000, 2000, 1000, 250)
_EQUAL = (4000, 4000, 4000, 4000)
_SINK = """
import socket, sys
listener = socket.create_server((sys.argv[1], 7))
while True:
    stream, _ = listener.accept()
    left, buffer = int(stream.recv(16)), bytearray(1 << 20)
    while left > 0:
        left -= stream.recv_into(buffer)
    stream.send(b"x")
"""
_SOURCE = """
import socket, sys, time
size = int(sys.argv[2])
block = bytes(1 << 20)
with socket.socket() as stream:
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    stream.connect((sys.argv[1], 7))
    stream.sendall(b"%16d" % size)
    started = time.monotonic()
    for _ in range(size >> 20):
        stream.sendall(block)
    stream.recv(1)
    print(time.monotonic() - started)
"""


class _Pair:
    """A caller on host 0 and an owner on host 1."""

    def __init__(self, bed: Testbed, nbytes: int) -> None:
        module = [sys.executable, "-m"]
        package = __package__ or "benchmarks"
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        settings = json.dumps(_SETTINGS)
        self.bed = bed
        self.owner = bed.run(1, [*module, f"{package}.owner", str(nbytes), settings], **pipes)
        assert self.owner.stdout is not None
        descriptor = self.owner.stdout.readline().strip()
        self.caller = bed.run(0, [*module, f"{package}.rails_caller", settings, descriptor], **pipes)
        self._answer()

    def tell(self, *what: Any) -> None:
        assert self.caller.stdin is not None
        print(json.dumps(what), file=self.caller.stdin, flush=True)

    def _answer(self) -> Any:
        assert self.caller.stdout is not None
        line = self.caller.stdout.readline()
        if not line:
            raise RuntimeError("the caller's process ended; its error is above")
        return json.loads(line)

    def ask(self, *what: Any) -> Any:
        self.tell(*what)
        return self._answer()

    def during(self, act: Callable[[], Any], *what: Any) -> list[tuple[float, float]]:
        """A closed loop while ``act`` happens: (start, end) of each transfer."""
        self.tell(*what)
        act()
        self.tell()
        done: list[tuple[float, float]] = [(start, end) for start, end in self._answer()]
        return done

    def close(self) -> None:
        for process in (self.caller, self.owner):
            process.communicate()


@contextmanager
def _bed(rates: tuple[int, ...], nbytes: int) -> Iterator[_Pair]:
    with Testbed.up(rates, name=f"bench{os.getpid() % 100_000}") as bed:
        pair = _Pair(bed, nbytes)
        try:
            yield pair
        finally:
            pair.close()


def _raw_sum(bed: Testbed, seconds: float) -> float:
    """Bytes a second that single TCP streams reach, one rail after the other, summed up."""
    total = 0.0
    for row in bed.show()[: bed.rails]:
        address = bed.address(1, row.rail)
        sink = bed.run(1, [sys.executable, "-c", _SINK, address])
        try:
            size = max(4, int(row.mbit / 8 * seconds)) * _MIB
            command = [sys.executable, "-c", _SOURCE, address, str(size)]
            while True:  # until the sink listens
                source = bed.run(0, command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                said = source.communicate()[0].strip()
                if said:
                    break
            total += size / float(said)
        finally:
            sink.kill()
            sink.wait()
    return total


def _sums(report: Report, name: str, rates: tuple[int, ...], quick: bool) -> None:
    sizes = {"64MiB": 64 * _MIB} if quick else {"64MiB": 64 * _MIB, "1GiB": 1 << 30}
    with _bed(rates, max(sizes.values())) as pair:
        for op in ("write", "read"):
            pair.ask("seconds", op, 64 * _MIB)  # the rails are found out
        for title, size in sizes.items():
            for op in ("write", "read"):
                report.say(f"{name} rails, {op} {title}")
                ratios = []
                for _ in range(3 if quick else 5):
                    raw = _raw_sum(pair.bed, 0.25)
                    ratios.append(size / pair.ask("seconds", op, size) / raw)
                report.ratios[f"sum_{name}_{op}_{title}"] = statistics.median(ratios)
        raw = _raw_sum(pair.bed, 0.25)
        for op in ("write", "read"):
            spent = [pair.ask("seconds", op, 4 * _MIB) for _ in range(9)]
            report.ratios[f"whole_{name}_{op}_4MiB"] = statistics.median(spent) * raw / (4 * _MIB)


def _longest_gap(done: list[tuple[float, float]], since: float) -> float:
    """Between two completions, milliseconds, from shortly before ``since`` on."""
    ends = sorted(end for _, end in done if end > since - 0.05)
    return 1e3 * max((b - a for a, b in pairwise(ends)), default=0.0)


def _faults(report: Report, quick: bool) -> None:
    """1 MiB at a time, two under way, while a rail is cut: the longest time without a completion, and the slowest."""
    repeats = 3 if quick else 30
    with _bed(_UNEQUAL, 64 * _MIB) as pair:
        pair.ask("seconds", "write", 64 * _MIB)
        pair.ask("seconds", "read", 64 * _MIB)
        for how in CUTS:
            for op in ("write", "read"):
                gaps, slowest = [], []
                for again in range(repeats):
                    report.say(f"{how}, {op}s, {again + 1} of {repeats}")
                    cut_at = 0.0

                    def act(how: str = how, rail: int = again % 3) -> None:
                        nonlocal cut_at
                        time.sleep(0.15)
                        cut_at = time.monotonic()
                        pair.bed.cut(rail, how)
                        time.sleep(0.35)
                        pair.bed.heal(rail)
                        time.sleep(0.25)

                    done = pair.during(act, "until_told", op, _MIB, 2)
                    before = statistics.median(end - start for start, end in done if end < cut_at)
                    gaps.append(_longest_gap([one for one in done if one[1] < cut_at + 0.3], cut_at))
                    hit = [end - start for start, end in done if start < cut_at + 0.3 and end > cut_at]
                    slowest.append(1e3 * (max(hit, default=0.0) - before))
                report.ratios[f"lost_{how}_{op}_penalty_ms"] = max(slowest)
                report.figures[f"{how}, {op}s: longest gap and slowest transfer's penalty, ms"] = [
                    [round(value, 1) for value in values] for values in (sorted(gaps), sorted(slowest))
                ]


def _small_ones(report: Report, quick: bool) -> None:
    count = 200 if quick else 2_000
    with _bed(_UNEQUAL, 128 * _MIB) as pair:
        report.say("64 KiB reads, alone and beside bulk")
        pair.ask("small_ones", 20, True)
        idle = pair.ask("small_ones", count, False)
        loaded = pair.ask("small_ones", count, True)
        report.figures["64 KiB interactive read, p50 and p99, us: idle, beside bulk"] = [
            [round(percentile(values, p) * 1e6) for p in (50, 99)] for values in (idle, loaded)
        ]
        beside = percentile(loaded, 99) - _SLICE
        report.ratios["interactive_64KiB_p99"] = beside / percentile(idle, 99)


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; about a minute when ``quick``, else half an hour. PermissionDenied without root."""
    if os.geteuid() != 0:
        raise PermissionDenied("tent bench rails makes network namespaces: run it as root")
    report = Report("rails", say)
    _sums(report, "unequal", _UNEQUAL, quick)
    _sums(report, "equal", _EQUAL, quick)
    _small_ones(report, quick)
    _faults(report, quick)
    return report
