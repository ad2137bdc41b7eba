"""``tent bench sched``: what scheduling costs: CPU time of one slice, posted, accounted and followed by the next, over
links that answer at once. The program is native/bench_sched.cpp."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from tent_core.sim.chart import Panel, svg

from .common import Report, Say, quiet
from .floors import built

__all__ = ["measure", "write_page"]

_HEAD = ("shape", "links", "slices in flight", "ns a slice", "with recorder", "allocations per 1,000")


def _rows(program: Path, *words: str) -> list[dict[str, Any]]:
    said = subprocess.run([str(program), *words], check=True, capture_output=True, text=True).stdout
    rows: list[dict[str, Any]] = json.loads(said)
    return rows


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; seconds when ``quick``, else about a minute."""
    del rivals
    report = Report("sched", say)
    program = built("tent_bench_sched")
    if program is None:
        report.notes.append(
            "no tent_bench_sched: it is built by 'bash tests/run.sh bench' (TENT_BENCH_NATIVE)"
        )
        return report
    slices = "100000" if quick else "3000000"
    say("shapes")
    plain, recorded = _rows(program, slices), _rows(program, "--recorder", slices)
    shapes = [
        [*_cells(a), b["ns_per_slice"], a["allocations_per_1000_slices"]]
        for a, b in zip(plain, recorded, strict=True)
    ]
    report.figures["shapes"] = [dict(zip(_HEAD, row, strict=True)) for row in shapes]
    report.ratios["slices_per_second"] = 1e3 / max(row["ns_per_slice"] for row in plain)
    report.ratios["us_per_slice_recorded"] = max(row["ns_per_slice"] for row in recorded) / 1e3
    report.ratios["allocations_per_1000_slices"] = max(row["allocations_per_1000_slices"] for row in plain)
    say("growth")
    growth = _rows(program, "--growth", "30000" if quick else "1000000")
    for name in ("links", "outstanding"):
        rows = [row for row in growth if row["name"] == name]
        report.figures[f"growth with {name}"] = [(row[name], row["ns_per_slice"]) for row in rows]
        report.ratios[f"growth_{name}"] = rows[-1]["ns_per_slice"] / rows[0]["ns_per_slice"]
    return report


def _cells(row: dict[str, Any]) -> list[Any]:
    return [row["name"], row["links"], row["outstanding"], row["ns_per_slice"]]


def write_page(report: Report, command: str, folder: Path) -> None:
    """scheduler-cost.md and .svg: the shapes as a table, the growth as a plot."""
    if "shapes" not in report.figures:
        return
    lines = [
        "# What scheduling costs",
        "",
        f"Made by `{command}` on {os.cpu_count()} cores of {platform.machine()}, which other work shared. A slice is",
        "64 KiB of a flow: bound to a link, posted, answered at once, accounted for. Times are the thread's CPU",
        "time, on one core; *with recorder* includes the flight recorder, as an engine runs. How to read it:",
        "docs/benchmarks.md.",
        "",
        "| " + " | ".join(_HEAD) + " |",
        "|" + "---|" * len(_HEAD),
    ]
    for row in report.figures["shapes"]:
        name, links, flying, ns, recorded, allocated = (row[key] for key in _HEAD)
        lines.append(f"| {name} | {links} | {flying} | {ns:.0f} | {recorded:.0f} | {allocated:.2f} |")
    lines += ["", "How it grows:", "", "![CPU time of a slice](scheduler-cost.svg)", ""]
    panels = []
    for name, title in (
        ("links", "links of one peer, all to all"),
        ("outstanding", "slices in flight, four links"),
    ):
        points = report.figures[f"growth with {name}"]
        said = ", ".join(f"{ns:.0f} ns with {n:,}" for n, ns in points)
        lines.append(f"- {title}: {said}")
        panels.append(
            Panel(f"CPU time of a slice, by {name}", title, {name: points}, name_x=_count, name_y=_time)
        )
    (folder / "scheduler-cost.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "scheduler-cost.svg").write_text(svg(panels), encoding="utf-8")


def _count(n: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if n >= 0.99 * size:
            return f"{n / size:.0f}{unit}"
    return f"{n:.0f}"


def _time(ns: float) -> str:
    return f"{ns / 1000:g} µs" if ns >= 1000 else f"{ns:g} ns"
