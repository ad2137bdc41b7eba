"""``tent bench tcp``: TCP over loopback beside the best raw socket set-up: cubic, 16 MiB buffers, one stream or two."""

from __future__ import annotations

import statistics

from .common import Report, interleave, percentile
from .floors import Floors
from .moves import Mover, mover

__all__ = ["main"]

_MIB = 1 << 20
_SETTINGS = {"shm.enabled": False}
_SIZES = {"1MiB": _MIB, "64MiB": 64 * _MIB}


def _throughput(report: Report, tent: Mover, floors: Floors, quick: bool) -> None:
    for name, size in _SIZES.items():
        count = max(2, (128 if quick else 1024) * _MIB // size)
        for op, floor in (("write", floors.write), ("read", floors.read)):
            # The better of one stream and two is the floor, chosen before the pairs and then kept.
            times = {streams: min(floor(size, count, streams) for _ in range(2)) for streams in (1, 2)}
            best = min(times, key=lambda streams: times[streams])
            pairs = interleave(
                lambda op=op, size=size, count=count: tent.timed(op, size, count),  # type: ignore[misc]
                lambda floor=floor, size=size, count=count, best=best: floor(size, count, best),  # type: ignore[misc]
                3 if quick else 9,
            )
            report.ratios[f"{op}_{name}"] = pairs.speed
            report.figures[f"tcp {op} {name} GB/s, raw GB/s ({best} streams)"] = [
                round(size * count / statistics.median(values) / 1e9, 2)
                for values in (pairs.ours, pairs.floor)
            ]


def _latency(report: Report, tent: Mover, floors: Floors, quick: bool) -> None:
    count = 300 if quick else 3_000
    all_times: list[float] = []
    raw_high: list[float] = []

    def ours() -> float:
        times = tent.one_by_one("write", 4096, count)
        all_times.extend(times)
        return percentile(times, 50)

    def floor() -> float:
        _, median, high = floors.put(4096, count)
        raw_high.append(high)
        return median / 1e6

    pairs = interleave(ours, floor, 5 if quick else 9)
    report.ratios["put_4KiB_latency"] = pairs.time
    report.figures["tcp put 4KiB p50, p99 us (Python caller)"] = [
        round(percentile(all_times, p) * 1e6, 1) for p in (50, 99)
    ]
    report.figures["raw put 4KiB p50, p99 us"] = [
        round(statistics.median(pairs.floor) * 1e6, 1),
        round(statistics.median(raw_high), 1),
    ]


def _batch(report: Report, tent: Mover, quick: bool) -> None:
    count = 100 if quick else 1_000
    for op in ("write", "read"):
        tent.timed(op, 4096, 10, ranges=128)
        speeds = [128 * 4096 * count / tent.timed(op, 4096, count, ranges=128) / 1e9 for _ in range(5)]
        report.figures[f"tcp {op} 128 x 4KiB in one intent, GB/s"] = round(statistics.median(speeds), 2)
        if op == "write":
            report.ratios["batch_128x4KiB_gbps"] = statistics.median(speeds)


def measure(quick: bool) -> Report:
    """Run it; takes seconds when ``quick``, else about a minute."""
    report = Report("tcp")
    with Floors() as floors, mover(64 * _MIB, _SETTINGS) as tent:
        _throughput(report, tent, floors, quick)
        _latency(report, tent, floors, quick)
        _batch(report, tent, quick)
    return report


def main(*, quick: bool = False, as_json: bool = False) -> int:
    measure(quick).show(as_json)
    return 0
