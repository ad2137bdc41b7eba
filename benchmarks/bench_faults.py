"""``tent bench faults``: four shaped rails between two hosts of a test bed, and what a rail costs that is lost, slows
down, flutters or comes back under 1 MiB transfers. Needs root (network namespaces)."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from tent_core.testbed import CUTS

from .common import Report, Say, percentile, quiet
from .pairs import UNEQUAL, Pair, need_root, pair_over

__all__ = ["measure"]

_MIB = 1 << 20
_DEPTH = 2  # transfers under way
_OWN = tuple(f"rail{i}-rail{i}" for i in range(len(UNEQUAL)))  # links of a rail with its partner
Loop = list[tuple[float, float]]  # (start, end) of each transfer


def _loop(pair: Pair, op: str, act: Callable[[], None], depth: int = _DEPTH) -> Loop:
    return [(start, end) for start, end in pair.caller.during(act, "until_told", op, _MIB, depth)]


def _goodput(done: Loop, begin: float, end: float) -> float:
    """Bytes a second that ended in between."""
    return _MIB * sum(begin <= one[1] < end for one in done) / (end - begin)


def _longest_gap(done: Loop, begin: float, end: float) -> float:
    """Between two completions, milliseconds."""
    ends = sorted(one[1] for one in done if begin - 0.05 < one[1] < end)
    return 1e3 * max((b - a for a, b in pairwise(ends)), default=0.0)


class _Cuts:
    """What one kind of fault cost, over its repetitions. Milliseconds."""

    def __init__(self) -> None:
        self.penalties: list[float] = []  # of each transfer that met it
        self.gaps: list[float] = []
        self.returns: list[float] = []  # from a rail's return until it takes slices again
        self.times: dict[str, list[float]] = {"detect": [], "reroute": [], "fence": []}

    def add(self, done: Loop, cut_at: float, healed_at: float, slower: float) -> None:
        """``slower``: the rate of all rails / of those that are left."""
        usual = statistics.median(end - start for start, end in done if end < cut_at)
        self.gaps.append(_longest_gap(done, cut_at, healed_at))
        for start, end in done:
            if not (cut_at < end and start < min(healed_at, cut_at + 0.1)):
                continue
            # What was left of it when the rail was lost takes so much longer on the others.
            before = min(max(0.0, cut_at - start), usual)
            needed = before + (usual - before) * slower
            self.penalties.append(1e3 * max(0.0, end - start - needed))

    def add_faults(self, faults: list[dict[str, int | None]], cut_at: float, healed_at: float) -> None:
        """The four times of the rails' own links, each from the link's last sign of life."""
        for fault in faults:
            at = fault["at_ns"]
            if at is None or at / 1e9 < cut_at - 0.05 or at / 1e9 > healed_at:
                continue
            for name, values in self.times.items():
                value = fault[f"{name}_ns"]
                if value is not None:
                    values.append(value / 1e6)
            if fault["readmit_ns"] is not None:
                self.returns.append(max(0.0, 1e3 * ((at + fault["readmit_ns"]) / 1e9 - healed_at)))


def _all_at_once(what: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=one) for one in what]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _cut_and_heal(pair: Pair, op: str, rails: tuple[int, ...], how: tuple[str, ...], into: _Cuts) -> None:
    cut_at = healed_at = 0.0

    def act() -> None:
        nonlocal cut_at, healed_at
        time.sleep(0.2)
        cut_at = time.monotonic()
        _all_at_once([partial(pair.bed.cut, rail, one) for rail, one in zip(rails, how, strict=True)])
        time.sleep(0.35)
        _all_at_once([partial(pair.bed.heal, rail) for rail in rails])
        healed_at = time.monotonic()
        time.sleep(0.3)

    done = _loop(pair, op, act)
    left = sum(rate for rail, rate in enumerate(UNEQUAL) if rail not in rails)
    into.add(done, cut_at, healed_at, sum(UNEQUAL) / left)
    own = [fault for fault in pair.caller.ask("faults") if fault["name"].endswith(_OWN)]
    into.add_faults(own, cut_at, healed_at)


def _losses(report: Report, quick: bool) -> None:
    repeats = 4 if quick else 40
    kinds: dict[str, tuple[str, ...]] = {how: (how,) for how in CUTS}
    kinds["two-at-once"] = ("blackhole", "down")
    with pair_over(UNEQUAL, 64 * _MIB) as pair:
        for op in ("write", "read"):
            pair.caller.ask("seconds", op, 64 * _MIB)
        for name, how in kinds.items():
            for op in ("write", "read"):
                cuts = _Cuts()
                for again in range(repeats):
                    report.say(f"{name}, {op}s, {again + 1} of {repeats}")
                    rails = tuple((again + i) % 3 for i in range(len(how)))
                    _cut_and_heal(pair, op, rails, how, cuts)
                report.ratios[f"lost_{name}_{op}_p99_ms"] = percentile(cuts.penalties, 99)
                report.ratios[f"lost_{name}_{op}_most_ms"] = max(cuts.penalties)
                report.ratios[f"back_{name}_{op}_ms"] = statistics.median(cuts.returns)
                measured = {
                    "longest gap": cuts.gaps,
                    **cuts.times,
                    "re-admitted after the return": cuts.returns,
                }
                report.figures[f"{name}, {op}s: {', '.join(measured)}; median and most, ms"] = [
                    [round(statistics.median(values), 1), round(max(values), 1)] if values else None
                    for values in measured.values()
                ]


def _slowed(report: Report, quick: bool) -> None:
    """The first rail ten times slower: the rest is 3,450 of 5,250 Mbit/s. Rates settle within 40 ms of tc's return."""
    left = (sum(UNEQUAL) - 0.9 * UNEQUAL[0]) / sum(UNEQUAL)
    for op in ("write", "read"):
        goodputs, tails = [], []
        for again in range(2 if quick else 10):
            report.say(f"a rail slows down ten times, {op}s, {again + 1}")
            with pair_over(UNEQUAL, 64 * _MIB) as pair:
                pair.caller.ask("seconds", op, 64 * _MIB)
                settled = 0.0

                def act(pair: Pair = pair) -> None:
                    nonlocal settled
                    time.sleep(1)
                    pair.bed.shape(0, UNEQUAL[0] / 10)
                    settled = time.monotonic() + 0.04
                    time.sleep(1.04)

                done = _loop(pair, op, act, 4)
            began = settled - 1.04
            since = settled + 0.05
            goodputs.append(
                _goodput(done, since, since + 0.8) / _goodput(done, began + 0.2, began + 0.9) / left
            )
            before = [end - start for start, end in done if began + 0.2 < end < began + 0.9]
            after = [end - start for start, end in done if since < start]
            # Each transfer has the share of the rate that is left.
            tails.append(percentile(after, 99) * left / percentile(before, 99))
        report.ratios[f"slowed_{op}_goodput"] = statistics.median(goodputs)
        report.ratios[f"slowed_{op}_p99"] = statistics.median(tails)


def _fluttering(report: Report, quick: bool) -> None:
    """The second rail's rate alternates between all and a half of it, every 50 ms: what this costs the tail."""
    for op in ("write", "read"):
        report.say(f"a rail flutters, {op}s")
        with pair_over(UNEQUAL, 64 * _MIB) as pair:
            pair.caller.ask("seconds", op, 64 * _MIB)
            changed = 0.0

            def act(pair: Pair = pair) -> None:
                nonlocal changed
                time.sleep(1)
                changed = time.monotonic()
                for turn in range(20 if quick else 100):
                    pair.bed.shape(1, UNEQUAL[1] / (2 if turn % 2 == 0 else 1))
                    time.sleep(0.05)

            done = _loop(pair, op, act, 4)
        before = [end - start for start, end in done if changed - 0.8 < end < changed]
        after = [end - start for start, end in done if changed + 0.1 < start]
        report.ratios[f"flutter_{op}_p99"] = percentile(after, 99) / percentile(before, 99)


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; a minute or two when ``quick``, else about fifteen. PermissionDenied without root."""
    need_root("faults")
    report = Report("faults", say)
    _losses(report, quick)
    _slowed(report, quick)
    _fluttering(report, quick)
    return report
