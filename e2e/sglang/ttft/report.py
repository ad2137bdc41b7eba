"""From answers to figures: percentiles, ratios of pairs with an interval, a table, a page and a plot."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from load import Turn

from tent_core.sim.chart import Panel, svg

__all__ = ["SLOW_POOL", "Block", "figures", "page", "percentile", "plot", "ratio", "table"]

SLOW_POOL = "pool at 1 % of its speed"
# What is aimed at, on a quiet machine.
AIMS = {
    "P90 TTFT, none / Mooncake": "near 4.5",
    "P90 TTFT, TENT / Mooncake": "<= 0.74",
    "prefetch P50, TENT / Mooncake": "<= 0.45",
    "prefetch P90, TENT / Mooncake": "<= 0.45",
    "tokens/s in the closed loop, TENT / Mooncake": ">= 1.36",
    f"P90 TTFT, TENT / none, {SLOW_POOL}": "<= 1.05",
}
_DRAWS = 2000
_COLUMNS = (
    "load",
    "backend",
    "turns",
    "mean",
    "P50",
    "P90",
    "P99",
    "tokens/s",
    "hit rate",
    "prefetch P50",
    "P90 ",
    "of TTFT",
)


@dataclass(frozen=True)
class Block:
    """One load, served once over one backend."""

    backend: str
    load: str
    repetition: int
    turns: list[Turn]
    seconds: float
    prefetches: list[dict[str, float]] = field(default_factory=list)

    @property
    def ttft(self) -> list[float]:
        return [turn.ttft for turn in self.turns]

    @property
    def tokens_per_s(self) -> float:
        return sum(turn.prompt for turn in self.turns) / self.seconds

    @property
    def prefetch(self) -> list[float]:
        """Seconds of each prefetch that brought all it was asked for."""
        return [one["seconds"] for one in self.prefetches if one["pages"] == one["asked"]]


def percentile(values: Sequence[float], p: float) -> float:
    """Between the two nearest ranks."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * p / 100
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def ratio(
    ours: Sequence[Block], theirs: Sequence[Block], of: Callable[[Sequence[Block]], float], seed: int = 1
) -> tuple[float, float, float]:
    """What `of` says of ours over what it says of theirs, and 95 % of it: pairs of one repetition are drawn anew."""
    by = {block.repetition: block for block in theirs}
    pairs = [(block, by[block.repetition]) for block in ours if block.repetition in by]
    draw = random.Random(seed)

    def one(some: Sequence[tuple[Block, Block]]) -> float:
        return of([a for a, _ in some]) / of([b for _, b in some])

    drawn = sorted(one([draw.choice(pairs) for _ in pairs]) for _ in range(_DRAWS))
    return one(pairs), percentile(drawn, 2.5), percentile(drawn, 97.5)


def ttft_at(p: float) -> Callable[[Sequence[Block]], float]:
    return lambda blocks: percentile([t for block in blocks for t in block.ttft], p)


def prefetch_at(p: float) -> Callable[[Sequence[Block]], float]:
    return lambda blocks: percentile([t for block in blocks for t in block.prefetch], p)


def throughput(blocks: Sequence[Block]) -> float:
    return statistics.mean(block.tokens_per_s for block in blocks)


def figures(blocks: Sequence[Block]) -> dict[str, Any]:
    """Name -> (value, low, high): what the page compares."""
    found: dict[str, Any] = {}

    def compare(name: str, load: str, a: str, b: str, of: Callable[[Sequence[Block]], float]) -> None:
        ours, theirs = _of(blocks, load, a), _of(blocks, load, b)
        try:
            found[name] = ratio(ours, theirs, of)
        except (IndexError, ZeroDivisionError, statistics.StatisticsError):
            found[name] = None  # one of the two was not measured, or found nothing

    compare("P90 TTFT, none / Mooncake", "poisson", "none", "mooncake", ttft_at(90))
    compare("P90 TTFT, none / TENT", "poisson", "none", "tent", ttft_at(90))
    for load in dict.fromkeys(block.load for block in blocks):
        if load == "closed loop":
            compare("tokens/s in the closed loop, TENT / Mooncake", load, "tent", "mooncake", throughput)
            continue
        if load == SLOW_POOL:
            compare(f"P90 TTFT, TENT / none, {load}", load, "tent", "none", ttft_at(90))
            continue
        where = "" if load == "poisson" else f", {load}"
        compare(f"P90 TTFT, TENT / Mooncake{where}", load, "tent", "mooncake", ttft_at(90))
        for p in (50, 90):
            compare(f"prefetch P{p}, TENT / Mooncake{where}", load, "tent", "mooncake", prefetch_at(p))
    return found


def _of(blocks: Sequence[Block], load: str, backend: str) -> list[Block]:
    return [block for block in blocks if (block.load, block.backend) == (load, backend)]


def table(blocks: Sequence[Block]) -> list[tuple[str, ...]]:
    """A row for each load and backend; times in milliseconds."""
    rows = [_COLUMNS]
    for load, backend in dict.fromkeys((block.load, block.backend) for block in blocks):
        some = _of(blocks, load, backend)
        ttft = [t for block in some for t in block.ttft]
        fetched = [t for block in some for t in block.prefetch]
        share = sum(fetched) / sum(ttft) if ttft else 0.0
        prefetch = [f"{percentile(fetched, p) * 1e3:.0f}" for p in (50, 90)] if fetched else ["", ""]
        times = [statistics.mean(ttft), *(percentile(ttft, p) for p in (50, 90, 99))]
        rows.append((
            load, backend, str(len(ttft)), *(f"{t * 1e3:.0f}" for t in times), f"{throughput(some):.0f}",
            f"{hit_rate([turn for block in some for turn in block.turns]):.0%}", *prefetch,
            f"{share:.0%}" if fetched else "",
        ))  # fmt: skip
    return rows


def hit_rate(turns: Sequence[Turn]) -> float:
    """Of all prompt tokens, those that came from the backend."""
    return sum(turn.stored for turn in turns) / max(1, sum(turn.prompt for turn in turns))


def by_turn(blocks: Sequence[Block], load: str) -> list[tuple[str, ...]]:
    """Hit rate and median TTFT (ms) of each turn of a conversation."""
    numbers = sorted({turn.turn for block in blocks if block.load == load for turn in block.turns})
    rows = [("backend", *(f"turn {number}" for number in numbers))]
    for backend in dict.fromkeys(block.backend for block in blocks if block.load == load):
        cells = []
        for number in numbers:
            turns = [t for block in _of(blocks, load, backend) for t in block.turns if t.turn == number]
            cells.append(f"{hit_rate(turns):.0%}, {percentile([t.ttft for t in turns], 50) * 1e3:.0f}")
        rows.append((backend, *cells))
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = ("| " + " | ".join(cell.strip() for cell in row) + " |" for row in rows)
    return [head, "|" + "---|" * len(rows[0]), *rest]


def plain(rows: Sequence[Sequence[str]]) -> str:
    wide = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows
    )


def lines(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = [("figure", "ratio", "95 %", "aim")]
    for name, value in found.items():
        cells = (
            ("not measured", "")
            if value is None
            else (f"{value[0]:.2f}", f"{value[1]:.2f} to {value[2]:.2f}")
        )
        rows.append((name, *cells, AIMS.get(name, "")))
    return rows


def plot(blocks: Sequence[Block]) -> str:
    """TTFT by percentile, for each load."""
    panels = []
    for load in dict.fromkeys(block.load for block in blocks):
        curves = {}
        for backend in dict.fromkeys(block.backend for block in blocks if block.load == load):
            ttft = [t for block in _of(blocks, load, backend) for t in block.ttft]
            curves[backend] = [(float(p), percentile(ttft, p) * 1e3) for p in (50, 75, 90, 99)]
        panels.append(Panel(f"TTFT, {load}", "percentile", curves, name_y="{:g} ms".format))
    return svg(panels)


def page(blocks: Sequence[Block], found: Mapping[str, Any], setting: Sequence[str], command: str) -> str:
    return "\n".join([
        "# Time to first token in SGLang, beside other backends",
        "",
        f"Made by `{command}`. Times in milliseconds.",
        "",
        *setting,
        "",
        "![Time to first token, by percentile](sglang-ttft.svg)",
        "",
        *markdown(lines(found)),
        "",
        *markdown(table(blocks)),
        "",
        "*hit rate*: prompt tokens that came from the backend. *prefetch*: SGLang's reads of a whole history. *of "
        "TTFT*: all prefetches' time over all times to first token.",
        "",
        "Per turn of a conversation under Poisson arrivals: hit rate, and the median time to the first token.",
        "",
        *markdown(by_turn(blocks, "poisson")),
        "",
    ])  # fmt: skip
