"""``tent testbed``: hosts and rails on one machine, to see what TENT does when a rail slows down or breaks."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from tent_core.cli.table import table
from tent_core.faults import FaultPlan
from tent_core.testbed import CUTS, Testbed
from tent_core.testbed.plan import Step, run_plan

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "testbed",
        help="hosts and shaped rails on one machine, with real faults",
        description="Network namespaces as hosts, joined by rails whose rate you set and which you cut. Needs root.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(name, help=help, description=help)
        added.add_argument("--name", default="bed", help="which bed, when there are several (%(default)s)")
        added.set_defaults(run=run)
        return added

    up = action("up", _up, "make hosts and rails")
    up.add_argument(
        "--rails", default="2000,2000,1000,250", metavar="MBIT,...", help="a rate each (%(default)s)"
    )
    up.add_argument("--hosts", type=int, default=2, help="how many hosts (%(default)s)")
    up.add_argument("--mtu", type=int, default=1500, help="bytes of a packet (%(default)s)")
    action("down", _down, "take them away")
    show = action("show", _show, "each host's end of each rail: address, rate, bytes carried")
    show.add_argument("--json", action="store_true", help="machine-readable output")
    shape = action("shape", _shape, "set a rail's rate")
    shape.add_argument("rail", type=int)
    shape.add_argument("mbit", type=float, metavar="MBIT", help="0: as fast as the machine")
    cut = action("cut", _cut, "break a rail")
    cut.add_argument("rail", type=int)
    cut.add_argument(
        "--how", default="down", choices=list(CUTS), help="; ".join(f"{k}: {v}" for k, v in CUTS.items())
    )
    cut.add_argument("--host", type=int, default=0, help="whose end (%(default)s)")
    heal = action("heal", _heal, "mend a rail")
    heal.add_argument("rail", type=int)
    run_plan = action(
        "run-plan", _run_plan, "carry out a fault plan: rails slow down, die and come back by the clock"
    )
    run_plan.add_argument("plan", metavar="FILE", help="TOML or JSON, see docs/faults.md")
    run_plan.add_argument("--json", action="store_true", help="one JSON line for each step")
    execute = action("exec", _exec, "run a command on a host")
    execute.add_argument("host", type=int)
    execute.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="COMMAND", help="the command and its arguments"
    )


def _up(options: argparse.Namespace) -> int:
    try:
        rates = [float(rate) for rate in options.rails.split(",")]
    except ValueError:
        print(f"--rails takes numbers of Mbit/s, separated by commas, not '{options.rails}'")
        return 2
    Testbed.up(rates, hosts=options.hosts, mtu=options.mtu, name=options.name)
    return _print(Testbed.find(options.name), as_json=False)


def _down(options: argparse.Namespace) -> int:
    Testbed.find(options.name).down()
    return 0


def _show(options: argparse.Namespace) -> int:
    return _print(Testbed.find(options.name), as_json=options.json)


def _print(bed: Testbed, *, as_json: bool) -> int:
    carried = {(h, r): c for h in range(bed.hosts) for r, c in enumerate(bed.counters(h))}
    rows = bed.show()
    if as_json:
        both = [
            {**dataclasses.asdict(row), **dataclasses.asdict(carried[row.host, row.rail])} for row in rows
        ]
        print(json.dumps({"name": bed.name, "rails": both}))
        return 0
    head = ("host", "rail", "namespace", "address", "Mbit/s", "state", "sent MB", "received MB")
    cells = []
    for row in rows:
        count = carried[row.host, row.rail]
        rate = f"{row.mbit:g}" if row.mbit else "-"
        moved = (f"{count.sent / 1e6:.1f}", f"{count.received / 1e6:.1f}")
        state = "down" if not row.up else "silent" if row.silent else "up"
        place = (str(row.host), str(row.rail), bed.namespace(row.host), row.address or "none")
        cells.append((*place, rate, state, *moved))
    print(table(head, cells))
    return 0


def _shape(options: argparse.Namespace) -> int:
    Testbed.find(options.name).shape(options.rail, options.mbit)
    return 0


def _cut(options: argparse.Namespace) -> int:
    Testbed.find(options.name).cut(options.rail, options.how, host=options.host)
    return 0


def _heal(options: argparse.Namespace) -> int:
    Testbed.find(options.name).heal(options.rail)
    return 0


def _run_plan(options: argparse.Namespace) -> int:
    plan = FaultPlan.load(options.plan)

    def told(step: Step) -> None:
        print(
            json.dumps(dataclasses.asdict(step)) if options.json else f"{step.at_ns / 1e9:9.3f} s  {step}",
            flush=True,
        )

    run_plan(Testbed.find(options.name), plan, told)
    return 0


def _exec(options: argparse.Namespace) -> int:
    command = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not command:
        print("give a command: tent testbed exec HOST COMMAND ...")
        return 2
    return Testbed.find(options.name).run(options.host, command).wait()
