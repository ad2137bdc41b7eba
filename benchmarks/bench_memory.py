"""``tent bench memory``: shared memory beside memcpy between warm mappings of the same size."""

from __future__ import annotations

from tent_core.config import format_size

from .common import Report, interleave, percentile
from .floors import Floors
from .moves import Mover, mover

__all__ = ["main"]

_MIB = 1 << 20
_SETTINGS = {"tcp.enabled": False}
_SIZES = {
    "4KiB": 4 << 10,
    "64KiB": 64 << 10,
    "256KiB": 256 << 10,
    "1MiB": _MIB,
    "16MiB": 16 * _MIB,
    "64MiB": 64 * _MIB,
}


def _count(size: int, quick: bool) -> int:
    """Copies in one measurement: enough that starting and stopping the clock does not show."""
    return max(1, (32 if quick else 256) * _MIB // size) if size >= _MIB else (200 if quick else 2000)


def _sizes(report: Report, tent: Mover, floors: Floors, quick: bool) -> None:
    for name, size in _SIZES.items():
        count = _count(size, quick)
        for op in ("write", "read"):
            pairs = interleave(
                lambda op=op, size=size, count=count: tent.timed(op, size, count),  # type: ignore[misc]
                lambda size=size, count=count: floors.memcpy(size, count),  # type: ignore[misc]
                5 if quick else 15,
            )
            report.ratios[f"shm_{op}_{name}"] = pairs.speed
            report.figures[f"shm {op} {name} GB/s, memcpy GB/s"] = [
                round(size * count / min(times) / 1e9, 2) for times in (pairs.ours, pairs.floor)
            ]


def _latency(report: Report, tent: Mover, quick: bool) -> None:
    for op in ("write", "read"):
        tent.one_by_one(op, 4096, 100)
        times = [seconds * 1e6 for seconds in tent.one_by_one(op, 4096, 2_000 if quick else 20_000)]
        report.ratios[f"shm_{op}_4KiB_p50_us"] = percentile(times, 50)
        report.figures[f"shm {op} 4KiB p50, p99 us (Python caller)"] = [
            round(percentile(times, p), 2) for p in (50, 99)
        ]


def _threads(report: Report, floors: Floors, quick: bool) -> None:
    size, pairs = 16 * _MIB, 3 if quick else 9
    settings = {**_SETTINGS, "engine.copy_threads": 1}
    with mover(size, settings) as one, mover(size, {**settings, "engine.copy_threads": 2}) as two:
        count = _count(size, quick)
        result = interleave(
            lambda: two.timed("write", size, count), lambda: one.timed("write", size, count), pairs
        )
    report.ratios["two_copy_threads_16MiB"] = result.speed
    floor = interleave(lambda: floors.memcpy(size, count, 2), lambda: floors.memcpy(size, count, 1), pairs)
    report.figures["two memcpy threads / one, 16MiB"] = round(floor.speed, 2)


def _cold(report: Report, floors: Floors, quick: bool) -> None:
    """Into memory that was never touched, where the kernel's clearing of pages is most of the time."""
    size = 64 * _MIB

    def fresh() -> float:
        with_new = tent.engine.allocate(size, name=None)
        old, tent.segment = tent.segment, with_new
        try:
            return tent.timed("read", size, 1)
        finally:
            tent.segment = old
            with_new.close()

    with mover(size, {**_SETTINGS, "store.prefault": False}) as tent:
        pairs = interleave(fresh, lambda: floors.cold(size), 3 if quick else 9)
    report.figures[f"cold: shm read {format_size(size)} / memcpy into untouched memory"] = round(
        pairs.speed, 2
    )


def measure(quick: bool) -> Report:
    """Run it; takes seconds when ``quick``, else about a minute."""
    report = Report("memory")
    with Floors() as floors:
        with mover(64 * _MIB, _SETTINGS) as tent:
            _sizes(report, tent, floors, quick)
            _latency(report, tent, quick)
        _threads(report, floors, quick)
        _cold(report, floors, quick)
    return report


def main(*, quick: bool = False, as_json: bool = False) -> int:
    measure(quick).show(as_json)
    return 0
