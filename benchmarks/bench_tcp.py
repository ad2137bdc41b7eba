"""``tent bench tcp``: TCP over loopback beside the best raw socket set-up: cubic, 16 MiB buffers, one stream or two."""

from __future__ import annotations

import statistics
from functools import partial

from .common import Report, Say, interleave, quiet
from .floors import Floors, NativeCaller
from .idle import PEERS, idle_percent
from .moves import Caller, callers
from .rivals import beside

__all__ = ["measure"]

_MIB = 1 << 20
_SETTINGS = {"shm.enabled": False}
_SIZES = {"1MiB": _MIB, "16MiB": 16 * _MIB, "64MiB": 64 * _MIB}


def _throughput(report: Report, tents: dict[str, Caller], floors: Floors, quick: bool) -> None:
    for name, size in _SIZES.items():
        count = max(2, (128 if quick else 1024) * _MIB // size)
        for op in ("write", "read"):
            report.say(f"{op} {name}")
            # The better of one stream and two is the floor, chosen before the pairs and then kept.
            tried = {n: min(floors.stream(op, size, count, n) for _ in range(2)) for n in (1, 2)}
            best = min(tried, key=lambda n: tried[n])
            for suffix, tent in tents.items():
                pairs = interleave(
                    partial(tent.timed, op, size, count),
                    partial(floors.stream, op, size, count, best),
                    3 if quick else 9,
                )
                report.ratios[f"{op}_{name}{suffix}"] = pairs.speed
                report.speeds(f"tcp {op} {name}{suffix}", f"raw, {best} streams", pairs, size * count)


def _latency(report: Report, tents: dict[str, Caller], floors: Floors, quick: bool) -> None:
    count = 300 if quick else 3_000
    for suffix, tent in tents.items():
        highs: list[tuple[float, float]] = []
        raw_highs: list[tuple[float, float]] = []

        def ours(tent: Caller = tent, into: list[tuple[float, float]] = highs) -> float:
            into.append(tent.latency("write", 4096, count))
            return into[-1][0]

        def floor(into: list[tuple[float, float]] = raw_highs) -> float:
            into.append(floors.put(4096, count))
            return into[-1][0]

        report.say(f"put 4KiB{suffix}, one at a time")
        report.ratios[f"put_4KiB_latency{suffix}"] = interleave(ours, floor, 5 if quick else 9).time
        for title, values in ((f"tcp put 4KiB{suffix}", highs), ("raw put 4KiB", raw_highs)):
            medians = [round(statistics.median(column), 1) for column in zip(*values, strict=True)]
            report.figures[f"{title}, p50 and p99, us"] = medians


def _batch(report: Report, tents: dict[str, Caller], quick: bool) -> None:
    count = 100 if quick else 1_000
    for suffix, tent in tents.items():
        for op in ("write", "read"):
            report.say(f"{op} 128 x 4KiB{suffix}")
            tent.timed(op, 4096, 10, 128)
            speeds = [128 * 4096 * count / tent.timed(op, 4096, count, 128) / 1e9 for _ in range(5)]
            name = {"write": "batch_128x4KiB_gbps", "read": "batch_read_128x4KiB_gbps"}[op]
            report.ratios[f"{name}{suffix}"] = statistics.median(speeds)


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; takes seconds when ``quick``, else a minute or two."""
    report = Report("tcp", say)
    if not NativeCaller.available():
        report.notes.append("no C++ caller: it is built by 'bash tests/run.sh bench' (TENT_BENCH_NATIVE)")
    with Floors() as floors, callers("tcp", 64 * _MIB, _SETTINGS) as tents:
        _throughput(report, tents, floors, quick)
        _latency(report, tents, floors, quick)
        _batch(report, tents, quick)
        beside(report, "", "tcp", tents["_python"], rivals, quick)
    report.say(f"idle, {PEERS} peers")
    report.ratios[f"idle_{PEERS}_peers_percent"] = idle_percent(3 if quick else 20)
    return report
