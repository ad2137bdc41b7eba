"""``tent bench memory``: shared memory beside memcpy between warm mappings of the same size."""

from __future__ import annotations

from functools import partial

from .common import Report, Say, interleave, quiet
from .floors import Floors, NativeCaller
from .moves import Caller, callers, mover
from .rivals import beside

__all__ = ["measure"]

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
    return max(2, (64 if quick else 512) * _MIB // size) if size >= _MIB else (200 if quick else 2000)


def _sizes(report: Report, tents: dict[str, Caller], floors: Floors, quick: bool) -> None:
    for suffix, tent in tents.items():
        for name, size in _SIZES.items():
            count = _count(size, quick)
            for op in ("write", "read"):
                report.say(f"{op} {name}{suffix}")
                pairs = interleave(
                    partial(tent.timed, op, size, count),
                    partial(floors.memcpy, size, count),
                    3 if quick else 11,
                )
                report.ratios[f"shm_{op}_{name}{suffix}"] = pairs.speed
                report.speeds(f"shm {op} {name}{suffix}", "memcpy", pairs, size * count)


def _latency(report: Report, tents: dict[str, Caller], quick: bool) -> None:
    for suffix, tent in tents.items():
        for op in ("write", "read"):
            report.say(f"{op} 4KiB{suffix}, one at a time")
            tent.latency(op, 4096, 100)
            median, high = tent.latency(op, 4096, 2_000 if quick else 20_000)
            report.ratios[f"shm_{op}_4KiB_p50_us{suffix}"] = median
            report.figures[f"shm {op} 4KiB{suffix}, p50 and p99, us"] = [round(median, 2), round(high, 2)]


def _threads(report: Report, floors: Floors, quick: bool) -> None:
    report.say("two copying threads")
    size, pairs = 16 * _MIB, 3 if quick else 9
    count = _count(size, quick)
    one_thread, two_threads = ({**_SETTINGS, "engine.copy_threads": n} for n in (1, 2))
    with mover(size, one_thread) as one, mover(size, two_threads) as two:
        ours = interleave(
            partial(two.timed, "write", size, count), partial(one.timed, "write", size, count), pairs
        )
    report.ratios["two_copy_threads_16MiB"] = ours.speed
    plain = interleave(partial(floors.memcpy, size, count, 2), partial(floors.memcpy, size, count, 1), pairs)
    report.figures["two threads of memcpy / one, 16MiB"] = round(plain.speed, 2)


def _cold(report: Report, floors: Floors, quick: bool) -> None:
    """Into memory that was never touched, where the kernel's clearing of pages is most of the time."""
    report.say("cold memory")
    size = 64 * _MIB
    with mover(size, _SETTINGS) as tent:

        def fresh() -> float:
            warm, tent.segment = tent.segment, tent.engine.allocate(size, name="fresh")
            try:
                return tent.timed("read", size, 1)
            finally:
                tent.segment.close()
                tent.segment = warm

        pairs = interleave(fresh, partial(floors.cold, size), 3 if quick else 9)
    report.ratios["cold_read_64MiB"] = pairs.speed
    report.speeds("cold: shm read 64MiB", "memcpy into untouched memory", pairs, size)


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; takes seconds when ``quick``, else a minute or two."""
    report = Report("memory", say)
    if not NativeCaller.available():
        report.notes.append("no C++ caller: it is built by 'bash tests/run.sh bench' (TENT_BENCH_NATIVE)")
    with Floors() as floors:
        with callers("shm", 64 * _MIB, _SETTINGS) as tents:
            _sizes(report, tents, floors, quick)
            _latency(report, tents, quick)
        _threads(report, floors, quick)
        _cold(report, floors, quick)
    with mover(64 * _MIB, _SETTINGS) as tent:
        beside(report, "shm_", "memory", tent, rivals, quick)
    return report
