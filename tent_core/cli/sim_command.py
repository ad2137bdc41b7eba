"""``tent sim``: a cluster in a file, run under a clock of its own, with the faults that the file plans."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from tent_core.cli.table import table
from tent_core.errors import InvalidArgument

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "sim",
        help="a cluster described in a file, simulated: how transfers fare on its links, and when they break",
        description="Runs TENT's own transfer scheduling on simulated nodes and network links, in virtual time: "
        "minutes of a cluster take seconds, nothing is sent, and the same file and seed give the same run. "
        "docs/simulator.md shows a file.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    run = actions.add_parser(
        "run", help="run a scenario", description="Run a scenario once and say how it went."
    )
    run.add_argument("file", type=Path, help="the scenario: TOML, or JSON where it ends in .json")
    run.add_argument("--seed", type=int, help="another seed than the file's")
    run.add_argument("--json", action="store_true", help="machine-readable output")
    run.add_argument("--trace", type=Path, metavar="OUT", help="write a trace for ui.perfetto.dev")
    run.set_defaults(run=_run)
    shrink = actions.add_parser(
        "shrink",
        help="make a scenario that breaks an invariant smaller",
        description="Leave out nodes, transfers and faults as long as an invariant still breaks; print what is left.",
    )
    shrink.add_argument("file", type=Path, help="the scenario that fails")
    shrink.add_argument("--budget", type=int, default=400, help="runs at most (%(default)s)")
    shrink.set_defaults(run=_shrink)
    paper = actions.add_parser(
        "paper",
        help="TENT's policy, the paper's and round robin, in the setting of TENT's paper",
        description="Compare three ways of giving bytes to links: eight 200 Gbit/s rails a node, background traffic, "
        "a rail that is degraded now and then, and one that dies silently once a second.",
    )
    paper.add_argument("--seconds", type=float, default=2.0, help="simulated, for each row (%(default)s)")
    paper.add_argument("--seed", type=int, default=1, help="of background traffic and faults (%(default)s)")
    paper.add_argument("--out", type=Path, metavar="FOLDER", help="write paper-setting.md and .svg there")
    paper.add_argument("--json", action="store_true", help="machine-readable output")
    paper.set_defaults(run=_paper)
    scale = actions.add_parser(
        "scale",
        help="many nodes: readers and writers of one owner, a full switch, up to 1,000 nodes",
        description="Run the scenarios that come with TENT and show how throughput, tail, links and cost change as a "
        "cluster grows. About a minute.",
    )
    scale.add_argument(
        "--nodes", type=int, default=1000, help="of the largest cluster, at most (%(default)s)"
    )
    scale.add_argument("--out", type=Path, metavar="FOLDER", help="write scale.md and .svg there")
    scale.add_argument("--json", action="store_true", help="machine-readable output")
    scale.set_defaults(run=_scale)


def _run(options: argparse.Namespace) -> int:
    from tent_core.sim import run
    from tent_core.sim.trace import trace

    result = run(options.file, seed=options.seed, slices=options.trace is not None)
    if options.trace is not None:
        options.trace.write_text(json.dumps(trace(result)), encoding="utf-8")
    summary = result.summary()
    print(json.dumps(summary) if options.json else _text(summary))
    return 1 if summary["violated"] else 0


def _text(s: dict[str, Any]) -> str:
    head = ("transfers", "done", "failed", "cancelled", "MB", "p50 us", "p90 us", "p99 us", "p99.9 us")
    rows = []
    for load in s["transfers"]:
        at = load["microseconds"]
        times = [f"{at[p]:.0f}" if p in at else "-" for p in ("p50", "p90", "p99", "p99.9")]
        name = f"{load['op']} {load['from']} - {load['to']}"
        counts = [str(load[k]) for k in ("done", "failed", "cancelled")]
        rows.append((name, *counts, f"{load['bytes'] / 1e6:.1f}", *times))
    links = [
        (
            w["name"],
            f"{w['rate'] / 1e6:.1f}",
            f"{w['bytes_used'] / 1e6:.1f}",
            str(w["posted"]),
            str(w["revoked"]),
        )
        for w in s["links"][:32]
    ]
    alarms, penalty = s["false_alarms"], s["penalty_ms"]
    lines = [
        table(head, rows),
        "",
        table(("link", "MB/s believed", "MB carried", "slices", "given up"), links),
        f"... and {len(s['links']) - 32} more links" if len(s["links"]) > 32 else "",
        f"{s['simulated_seconds']:.3f} s simulated, {s['goodput_Bps'] / 1e6:.1f} MB/s, seed {s['seed']}, "
        f"run {s['digest']}",
        f"{100 * s['reissued_share']:.2f} % of slices given up; false alarms: {alarms['suspected']} suspected, "
        f"{alarms['down']} taken down",
    ]
    if penalty["count"]:
        lines.append(
            f"lost to dying links: {penalty['count']} transfers, P99 {penalty['p99']:.1f} ms, "
            f"at most {penalty['max']:.1f} ms"
        )
    lines += [f"INVARIANT {v['invariant']} broken at {v['at_ns']} ns: {v['what']}" for v in s["violations"]]
    return "\n".join(line for line in lines if line is not None)


def _shrink(options: argparse.Namespace) -> int:
    import sys

    from tent_core.sim import Scenario, run, shrink

    scenario = Scenario.load(options.file)
    if not run(scenario).report["violated"]:
        raise InvalidArgument(f"{options.file} breaks no invariant: there is nothing to shrink towards")
    small = shrink(
        scenario.source,
        budget=options.budget,
        tell=lambda line: print(f"still fails {line}", file=sys.stderr),
    )
    print(json.dumps(small, indent=2))
    return 0


def _paper(options: argparse.Namespace) -> int:
    from tent_core.sim.paper import compare
    from tent_core.sim.plot import page, svg

    rows = []
    for row in compare(options.seconds, options.seed):
        rows.append(row)
        if options.json:
            print(json.dumps(dataclasses.asdict(row)))
            continue
        at = "  ".join(f"{v:9.0f}" for v in row.microseconds)
        load = f"{row.size} x {row.concurrent}"
        print(
            f"{load:12} {row.policy:6} {row.gigabytes_per_second:7.1f} GB/s   P50..P99.9 us {at}", flush=True
        )
    if options.out is not None:
        command = f"tent sim paper --seconds {options.seconds:g} --seed {options.seed} --out docs"
        (options.out / "paper-setting.md").write_text(
            page(rows, command, "paper-setting.svg"), encoding="utf-8"
        )
        (options.out / "paper-setting.svg").write_text(svg(rows), encoding="utf-8")
    return 0


def _scale(options: argparse.Namespace) -> int:
    from tent_core.sim.scale import cell, measure, page, plot

    if options.nodes < 2:
        raise InvalidArgument(f"--nodes {options.nodes}: a cluster has two nodes at least")
    tables = []
    for found in measure(options.nodes):
        tables.append(found)
        if options.json:
            print(json.dumps(dataclasses.asdict(found)), flush=True)
        else:
            print(
                f"{found.title}\n{table(found.head, [[cell(v) for v in row] for row in found.rows])}\n",
                flush=True,
            )
    if options.out is not None:
        command = "tent sim scale --out docs" + (f" --nodes {options.nodes}" if options.nodes != 1000 else "")
        (options.out / "scale.md").write_text(page(tables, command, "scale.svg"), encoding="utf-8")
        (options.out / "scale.svg").write_text(plot(tables), encoding="utf-8")
    return 0
