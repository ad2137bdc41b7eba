"""``tent bench rails``: two hosts of a test bed joined by shaped rails: what they carry together, what that costs, and
how small reads fare beside bulk. Needs root (network namespaces)."""

from __future__ import annotations

import statistics

from .common import Report, Say, percentile, quiet
from .pairs import EQUAL, UNEQUAL, Pair, need_root, pair_over, raw_at_once, raw_rates, raw_stream, raw_sum

__all__ = ["measure"]

_MIB = 1 << 20
_SLICE = 2e-3  # no slice of the sprayer takes longer, seconds
_BULK = 64 * _MIB
_SMALL = 64 << 10


def _sums(report: Report, name: str, rates: tuple[int, ...], quick: bool) -> None:
    sizes = {"64MiB": 64 * _MIB} if quick else {"64MiB": 64 * _MIB, "1GiB": 1 << 30}
    with pair_over(rates, max(sizes.values())) as pair:
        _learn(pair)
        for title, size in sizes.items():
            for op in ("write", "read"):
                report.say(f"{name} rails, {op} {title}")
                ratios, at_once = [], []
                for _ in range(3 if quick else 5):
                    raw = raw_sum(pair.bed, 0.25)
                    rate = size / pair.caller.ask("seconds", op, size)
                    ratios.append(rate / raw)
                    if rates == EQUAL:
                        at_once.append(rate / raw_at_once(pair.bed, 0.25))
                report.ratios[f"sum_{name}_{op}_{title}"] = statistics.median(ratios)
                if at_once:
                    report.ratios[f"at_once_{name}_{op}_{title}"] = statistics.median(at_once)
        alone = raw_rates(pair.bed, 0.25)
        whole = {op: _whole(pair, op, sum(alone)) for op in ("write", "read")}
    for op in ("write", "read"):
        report.ratios[f"whole_{name}_{op}_4MiB"] = whole[op]
    best = _best_split(report, name, rates, alone, quick)
    for op in ("write", "read"):
        report.ratios[f"split_{name}_{op}_4MiB"] = whole[op] / best[op]


def _learn(pair: Pair) -> None:
    for op in ("write", "read"):
        pair.caller.ask("seconds", op, 64 * _MIB)


def _whole(pair: Pair, op: str, raw: float) -> float:
    """Time of 4 MiB from start to end over the time that its bytes take at the rails' sum."""
    spent = [float(pair.caller.ask("seconds_drained", op, 4 * _MIB)) for _ in range(9)]
    return statistics.median(spent) * raw / (4 * _MIB)


def _best_split(
    report: Report, name: str, rates: tuple[int, ...], raw: list[float], quick: bool
) -> dict[str, float]:
    """What `_whole` is with the best of the splits that are fixed beforehand: in proportion to what each rail alone
    reaches, and from there, rail by rail, with more and with less of it, for as long as that helps. The same code
    otherwise."""
    best: dict[str, float] = {}

    def tried(split: list[float]) -> bool:
        settings = {
            "engine.policy": "fixed",
            "rails.rates": [f"rail{i}={max(1, round(share * 8e-6))}Mbit" for i, share in enumerate(split)],
        }
        better = False
        with pair_over(rates, 64 * _MIB, **settings) as pair:
            _learn(pair)
            for op in ("write", "read"):
                spent = _whole(pair, op, sum(raw))
                better = better or spent < 0.99 * best.get(op, spent * 2)
                best[op] = min(spent, best.get(op, spent))
        return better

    split = raw
    report.say(f"{name} rails, 4 MiB split beforehand")
    tried(split)
    for rail in range(len(raw)) if not quick else ():
        for factor in (1.15, 0.85, 0.0):
            report.say(f"{name} rails, 4 MiB split beforehand, rail {rail} x {factor}")
            other = [share * (factor if i == rail else 1) for i, share in enumerate(split)]
            if tried(other):
                split = other
                break
    return best


def _policies(report: Report) -> None:
    """The same code with slices bound at submit: in turn, and as TENT's paper describes it."""
    for policy in ("robin", "paper"):
        report.say(f"unequal rails, policy {policy}")
        with pair_over(UNEQUAL, 64 * _MIB, **{"engine.policy": policy}) as pair:
            _learn(pair)
            raw = raw_sum(pair.bed, 0.25)
            for op in ("write", "read"):
                spent = [pair.caller.ask("seconds", op, 64 * _MIB) for _ in range(5)]
                report.ratios[f"{policy}_unequal_{op}_64MiB"] = 64 * _MIB / statistics.median(spent) / raw
                report.ratios[f"{policy}_whole_unequal_{op}_4MiB"] = _whole(pair, op, raw)


def _processor(report: Report, quick: bool) -> None:
    """Seconds of the processor per byte, beside one raw stream's, on a rail where slices have 1 MiB."""
    size = 256 * _MIB if quick else 1 << 30
    with pair_over((4000,), size) as pair:
        _learn(pair)
        for op in ("write", "read"):
            report.say(f"processor time, {op}")
            ratios = []
            for _ in range(3):
                raw = raw_stream(pair.bed, 0, size)[1]
                before = pair.cpu_seconds()
                pair.caller.ask("seconds", op, size)
                ratios.append((pair.cpu_seconds() - before) / raw)
            report.ratios[f"processor_{op}"] = statistics.median(ratios)


def _interactive(report: Report, name: str, rates: tuple[int, ...], peers: int, quick: bool) -> None:
    """64 KiB reads, one at a time, beside two bulk reads of 64 MiB by the same peer or by another one of the owner."""
    count = 300 if quick else 3_000
    report.say(f"64 KiB reads, alone and beside bulk: {name}")
    with pair_over(rates, 2 * _BULK + _SMALL) as pair:
        bulk = pair.caller if peers == 1 else pair.another_caller()
        bulk.ask("bulk_rate", _BULK, 4)
        pair.caller.ask("small_ones", 20, _SMALL, 0)
        idle = pair.caller.ask("small_ones", count, _SMALL, 0)["spent"]
        alone = bulk.ask("bulk_rate", _BULK, 8 if quick else 32)
        if peers == 1:
            loaded = pair.caller.ask("small_ones", count, _SMALL, _BULK)
            beside = loaded["bulk_rate"]
        else:
            loaded = {}
            done = bulk.during(
                lambda: loaded.update(pair.caller.ask("small_ones", count, _SMALL, 0)),
                *("until_told", "read", _BULK, 2, "bulk"),
            )
            beside = _BULK * (len(done) - 1) / (done[-1][1] - done[0][1])
        report.figures[f"64 KiB interactive read, {name}: p50 and p99, us: idle, beside bulk"] = [
            [round(percentile(values, p) * 1e6) for p in (50, 99)] for values in (idle, loaded["spent"])
        ]
        waited = percentile(loaded["spent"], 99) - _SLICE
        report.ratios[f"interactive_p99_{name}"] = waited / percentile(idle, 99)
        report.ratios[f"interactive_bulk_{name}"] = beside / alone


def _neighbours(report: Report, quick: bool) -> None:
    """4 MiB of one engine over four rails, beside bulk of another engine of its host over the first of them, with
    `rails.share` and without, in turn: the machine's other load is the same for both."""
    spent: dict[tuple[bool, str], list[float]] = {}
    for turn in range(2 if quick else 8):
        share = turn % 2 == 0
        report.say(f"two engines of one host, rails.share {'on' if share else 'off'}")
        with pair_over(UNEQUAL, 64 * _MIB, **{"rails.share": share}) as pair:
            other = pair.another_caller([0])
            for op in ("write", "read"):
                _learn(pair)
                other.ask("seconds", op, 64 * _MIB)
                times = spent.setdefault((share, op), [])
                other.tell("until_told", op, 8 * _MIB, 2, "bulk")
                times.extend(pair.caller.ask("paced", op, 4 * _MIB, 30))
                other.ask()
    for op in ("write", "read"):
        for p in (50, 99):
            shared, alone = (percentile(spent[share, op], p) for share in (True, False))
            report.ratios[f"neighbours_{op}_p{p}"] = shared / alone


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; a minute or two when ``quick``, else about ten. PermissionDenied without root."""
    need_root("rails")
    report = Report("rails", say)
    _sums(report, "unequal", UNEQUAL, quick)
    _sums(report, "equal", EQUAL, quick)
    if not quick:
        _sums(report, "3_1_1_05", (3000, 1000, 1000, 500), quick)
    _policies(report)
    _processor(report, quick)
    for name, rates in (("four_rails", UNEQUAL), ("one_rail", (2000,))):
        for peers in (1, 2):
            _interactive(report, name if peers == 1 else f"{name}_two_peers", rates, peers, quick)
    _neighbours(report, quick)
    return report
