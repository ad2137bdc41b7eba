"""How things are measured here.

A figure is a ratio between two measurements of one run, and the two are interleaved: ours, the floor, ours, the floor.
The ratio is the median of the pairs' ratios, so that a machine which is busy for a while slows both sides of a pair.
Nothing here judges: aims are printed beside what was reached.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Pairs", "Report", "Say", "interleave", "percentile", "quiet", "targets"]

Timer = Callable[[], float]
Say = Callable[[str], None]


def quiet(text: str) -> None:
    """For whoever does not want to know what is being measured."""


@dataclass(frozen=True)
class Pairs:
    """Seconds of ours and of the floor, pair by pair."""

    ours: tuple[float, ...]
    floor: tuple[float, ...]

    @property
    def speed(self) -> float:
        """How fast ours is beside the floor: above 1 is faster."""
        return statistics.median(floor / own for own, floor in zip(self.ours, self.floor, strict=True))

    @property
    def time(self) -> float:
        """How long ours takes beside the floor: below 1 is faster."""
        return statistics.median(own / floor for own, floor in zip(self.ours, self.floor, strict=True))


def interleave(ours: Timer, floor: Timer, pairs: int) -> Pairs:
    """``pairs`` measurements of each, alternating, after one of each that does not count. Who goes first alternates."""
    ours()
    floor()
    own_times, floor_times = [], []
    for index in range(pairs):
        if index % 2:
            floor_times.append(floor())
            own_times.append(ours())
        else:
            own_times.append(ours())
            floor_times.append(floor())
    return Pairs(tuple(own_times), tuple(floor_times))


def percentile(values: Sequence[float], p: float) -> float:
    """The value that ``p`` per cent of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]


def targets(kind: str) -> dict[str, dict[str, Any]]:
    """The figures aimed at, from targets.toml: name -> what, aim, at, unit."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[import-not-found, no-redef]
    text = Path(__file__).with_name("targets.toml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = tomllib.loads(text).get(kind, {})
    return found


@dataclass
class Report:
    """The figures of one benchmark. ``ratios`` are named as in targets.toml; ``figures`` are for reading."""

    kind: str
    say: Say = quiet  # what is being measured now
    ratios: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def speeds(self, ours: str, floor: str, pairs: Pairs, nbytes: int) -> None:
        """Add both speeds, in GB/s, as a figure for reading."""
        both = [round(nbytes / statistics.median(times) / 1e9, 2) for times in (pairs.ours, pairs.floor)]
        self.figures[f"{ours} and {floor}, GB/s"] = both

    def lines(self) -> list[tuple[str, str, str, str]]:
        """(name, reached, aimed, what) for every target, measured or not."""
        rows = []
        known = targets(self.kind)
        for name, target in known.items():
            sign = "≥" if target["at"] == "least" else "≤"
            unit = f" {target['unit']}" if "unit" in target else ""
            reached = f"{self.ratios[name]:.2f}{unit}" if name in self.ratios else "not measured"
            rows.append((name, reached, f"{sign} {target['aim']}{unit}", target["what"]))
        rows += [(name, f"{value:.2f}", "", "") for name, value in self.ratios.items() if name not in known]
        return rows

    def show(self) -> None:
        """Print a table of what was reached beside what was aimed at, then what is for reading."""
        rows = [("figure", "reached", "aim", "what"), *self.lines()]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for name, value in self.figures.items():
            print(f"{name}: {value}")
        for note in self.notes:
            print(f"note: {note}")
