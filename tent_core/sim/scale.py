"""How a cluster fares as it grows: many readers or writers of one owner, a switch that everybody shares, 1,000 nodes.

The scenarios are files, in the folder scenarios/ beside this one. See docs/simulator.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tent_core.config.files import read_table
from tent_core.sim import paper
from tent_core.sim.chart import Panel, svg
from tent_core.sim.results import DONE, Result
from tent_core.sim.run import run

__all__ = ["Table", "measure", "page", "plot", "scenario"]

_MS = 1_000_000
ASKERS = (1, 4, 8, 16, 31)
NODES = (16, 64, 250, 1000)


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    head: tuple[str, ...]
    rows: list[tuple[Any, ...]] = field(default_factory=list)


def scenario(name: str, **counts: int) -> dict[str, Any]:
    """One of the files, with other numbers of nodes: ``scenario("incast-reads", reader=4)``."""
    described = read_table(Path(__file__).parent / "scenarios" / f"{name}.toml", "scenario")
    for node in described["node"]:
        node["count"] = counts.get(node["name"], node.get("count", 0))
    return described


def _late(result: Result, load: int, percent: float, **window: int) -> float:
    """Percentile of a load's times, microseconds; 0 where none is done."""
    took = result.times(load, **window)
    return float(np.percentile(took, percent)) / 1e3 if len(took) else 0.0


def _shares(result: Result, load: int) -> list[int]:
    """Bytes that each asker of a load moved."""
    t = result.report["transfers"]
    workloads = [i for i, row in enumerate(result.loads) if row == load]
    return [int(t["bytes"][(t["workload"] == i) & (t["fate"] == DONE)].sum()) for i in workloads]


def _health(result: Result) -> tuple[float, int, int]:
    alarms = result.alarms()
    return 100 * result.reissued_share(), alarms["suspected"], alarms["down"]


_HEALTH = ("re-issued %", "false alarms", "links lost to them")


def incast(op: str, askers: Sequence[int]) -> Table:
    who = {"reads": "reader", "writes": "writer"}[op]
    table = Table(
        f"incast-{op}",
        f"One owner, many {who}s: each has four {op} of 1 MiB under way, one of them small interactive ones too",
        (
            f"{who}s",
            "GB/s",
            "% of its rails",
            "least / mean share",
            "P50 ms",
            "P99 ms",
            "64 KiB P50 µs",
            "64 KiB P99 µs",
            *_HEALTH,
            "failed",
        ),
    )
    for count in askers:
        described = scenario(f"incast-{op}", **{who: count, "other": 2 if count < 8 else count + 1})
        result = run(described)
        shares = _shares(result, 0)
        seconds = result.report["end"] / 1e9
        rate = sum(shares) / seconds
        whole = 2 * 25e9 / 8
        table.rows.append(
            (
                count,
                rate / 1e9,
                100 * rate / whole,
                min(shares) * len(shares) / sum(shares),
                _late(result, 0, 50) / 1e3,
                _late(result, 0, 99) / 1e3,
                _late(result, 1, 50),
                _late(result, 1, 99),
                *_health(result),
                result.fates()["failed"] + result.report["violated"],
            )
        )
    return table


def switch(nodes: int = 32) -> Table:
    """Before, while and after half of the nodes fill the switch that all share."""
    described = scenario("congested-switch", calm=nodes, busy=nodes)
    rate = nodes * 12.5  # Gbit/s: an eighth of what the rails carry
    described["switch"][0]["rate"] = f"{rate:g}Gbit"
    result = run(described)
    table = Table(
        "switch",
        f"{2 * nodes} nodes behind a switch of {rate:g} Gbit/s; from 100 ms to 300 ms half of them fill it",
        ("window", "GB/s", "% of the switch", "calm 1 MiB P50 µs", "calm 1 MiB P99 µs"),
    )
    for name, start, end in (("before", 20, 100), ("full", 120, 300), ("after", 320, 480)):
        window = {"after": start * _MS, "before": end * _MS}
        moved = result.goodput(start * _MS, end * _MS)
        table.rows.append(
            (
                name,
                moved / 1e9,
                100 * moved * 8 / (rate * 1e9),
                _late(result, 0, 50, **window),
                _late(result, 0, 99, **window),
            )
        )
    lost, suspected, down = _health(result)
    table.rows.append(
        (f"in all: {lost:.2f} % re-issued, {suspected} false alarms, {down} links lost to them",) + ("",) * 4
    )
    return table


def cluster(nodes: Sequence[int]) -> Table:
    table = Table(
        "cluster",
        "A cluster in which each node reads from four others: 100 ms of it",
        (
            "nodes",
            "links",
            "slices",
            "events",
            "CPU s",
            "CPU µs a slice",
            "GB/s",
            "P50 µs",
            "P99 µs",
            "P99.9 µs",
            *_HEALTH,
            "failed",
        ),
    )
    for count in nodes:
        described = scenario("cluster", n=count)
        began = time.process_time()
        result = run(described)
        spent = time.process_time() - began
        report = result.report
        table.rows.append(
            (
                count,
                len(report["wires"]),
                report["posts"],
                report["events"],
                spent,
                1e6 * spent / report["posts"],
                result.moved() / report["end"],
                *(_late(result, 0, p) for p in (50, 99, 99.9)),
                *_health(result),
                result.fates()["failed"] + report["violated"],
            )
        )
    return table


_UNSTEADY = {
    "duration": "3s",
    "node": [{"name": "a"}, {"name": "b"}],
    "rail": [{"name": f"rail{i}", "rate": "2Gbit", "latency": "30us", "known": True} for i in range(4)],
    "weather": [
        {"kind": "slow", "rails": ["a/rail*"], "on": "5ms", "off": "15ms", "share": [0.02, 0.2]}
        for _ in range(2)
    ],
}


def hedging(seconds: float = 0.5) -> Table:
    """What late slices gain by moving early, and what it costs: one transfer at a time, so that a rail is idle now and
    then."""
    table = Table(
        "hedging",
        "Late slices that move early (`hedge`, a share of the bytes), one transfer at a time",
        ("setting", "transfers", "share", "moved", "GB/s", "P50 µs", "P99 µs", "P99.9 µs", "failed"),
    )
    for size in ("256KiB", "1MiB", "4MiB"):
        for share in (0.0, 0.02, 0.1):
            load = {"from": "a", "to": "b", "bytes": size, "pause": "500us", "deadline": "30s"}
            unsteady = {**_UNSTEADY, "transfers": [load]}
            steady = paper.scenario("water", size, 1, seconds=seconds)
            for name, described in (
                ("four rails, two of them slow now and then", unsteady),
                ("the paper's", steady),
            ):
                result = run({**described, "hedge": share})
                at = (_late(result, 0, p) for p in (50, 99, 99.9))
                broken = result.fates()["failed"] + result.report["violated"]
                moved = result.moved() / result.report["end"]
                table.rows.append((name, size, f"{share:.0%}", result.report["hedged"], moved, *at, broken))
    table.rows.sort(key=lambda row: str(row[0]))
    return table


def measure(nodes: int = 1000) -> Iterator[Table]:
    """All of it; of clusters those of at most ``nodes``."""
    yield incast("reads", ASKERS)
    yield incast("writes", ASKERS)
    yield switch()
    yield cluster([n for n in NODES if n <= nodes] or [nodes])
    yield hedging()


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def page(tables: Sequence[Table], command: str, plot: str) -> str:
    lines = [
        "# As a cluster grows",
        "",
        f"Made by `{command}`; the same command gives the same figures, CPU times apart. What is simulated:",
        "docs/simulator.md. The scenarios: `tent_core/sim/scenarios/`, each also runs by itself (`tent sim run FILE`).",
        "CPU times are of the simulation as a whole, on one core that other work shared: both ends of every link, and",
        "the network between them.",
        "",
        f"![Tail and cost]({plot})",
    ]
    for table in tables:
        lines += [
            "",
            f"## {table.title}",
            "",
            "| " + " | ".join(table.head) + " |",
            "|" + "---|" * len(table.head),
        ]
        lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def plot(tables: Sequence[Table]) -> str:
    """The tail beside the number of askers, and the tail and the cost beside the number of nodes."""
    by_name = {table.name: table for table in tables}

    def line(name: str, column: str) -> list[tuple[float, float]]:
        table = by_name[name]
        at = table.head.index(column)
        return [(float(row[0]), max(float(row[at]), 1e-3)) for row in table.rows]

    both = {"reads": "incast-reads", "writes": "incast-writes"}
    panels = [
        Panel(
            "1 MiB, P99, ms", "askers of one owner", {op: line(name, "P99 ms") for op, name in both.items()}
        ),
        Panel(
            "64 KiB interactive, P99, µs",
            "askers of one owner",
            {op: line(n, "64 KiB P99 µs") for op, n in both.items()},
        ),
        Panel("1 MiB, µs", "nodes", {p: line("cluster", f"{p} µs") for p in ("P50", "P99", "P99.9")}),
        Panel("CPU µs a slice (simulation as a whole)", "nodes", {"cost": line("cluster", "CPU µs a slice")}),
        Panel("links", "nodes", {"links": line("cluster", "links")}),
    ]
    return svg(panels)
