"""``tent net check``: which NIC, cable or host is sick."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from tent_core.cli.observing import add_config, duration, read_file
from tent_core.cli.table import table
from tent_core.config import load_config
from tent_core.engine import Engine
from tent_core.errors import InvalidArgument
from tent_core.observe.netcheck import Finding, Measured, blame, check
from tent_core.observe.session import Observer

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("net", help="the network between running nodes: which part of it is sick")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    one = actions.add_parser(
        "check",
        help="every node against every other, rail by rail",
        description="Each node reads from each other one over each pair of rails (network interfaces), a few small "
        "probes and a moment of full load, and the sick NIC, cable, switch or host is named: what all slow, lossy or "
        "dead links have in common. Nodes on one host are not tried against each other. The probes share the network "
        "with what is served: expect a short dip. Exit status 1 when something is sick.",
    )
    one.add_argument("nodes", nargs="*", metavar="NODE", help="only these (default: all of the directory)")
    one.add_argument(
        "--descriptor", action="append", default=[], metavar="FILE",
        help="a node by its descriptor, without a directory; give it for each node",
    )  # fmt: skip
    one.add_argument(
        "--for", dest="window", type=duration, default=0.25, metavar="TIME",
        help="of full load on each link (default: 250ms)",
    )  # fmt: skip
    one.add_argument("--json", action="store_true", help="machine-readable output")
    add_config(one)
    one.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if not 0 < options.window <= 10:
        raise InvalidArgument("--for takes up to 10s")
    with Observer(load_config(options.config)) as observer:
        nodes = _nodes(observer, options)
        progress = (
            (lambda text: print(text, file=sys.stderr)) if sys.stderr.isatty() else (lambda _text: None)
        )
        links, notes = check(observer, nodes, options.window, progress)
    findings = blame(links)
    if options.json:
        shown = {
            "ok": not findings,
            "findings": [dataclasses.asdict(item) for item in findings],
            "links": [dataclasses.asdict(link) for link in links],
            "notes": notes,
        }
        print(json.dumps(shown))
    else:
        _show(links, findings, notes)
    return 1 if findings else 0


def _nodes(observer: Observer, options: argparse.Namespace) -> dict[str, bytes]:
    if options.descriptor:
        blobs = [read_file(path) for path in options.descriptor]
        nodes = {str(Engine.describe(blob)["name"]): blob for blob in blobs}
    else:
        nodes = observer.descriptors()
        if unknown := sorted(set(options.nodes) - set(nodes)):
            raise InvalidArgument(f"the directory knows no node {unknown[0]!r}; it knows: {', '.join(nodes)}")
        if options.nodes:
            nodes = {name: nodes[name] for name in options.nodes}
    if len(nodes) < 2:
        raise InvalidArgument(f"a check takes two nodes; there is {', '.join(nodes) or 'none'}")
    return nodes


def _show(links: list[Measured], findings: list[Finding], notes: list[str]) -> None:
    head = ("reader", "owner", "rail", "latency", "worst", "rate", "lost", "")
    cells = [
        (
            link.reader,
            link.owner,
            link.local if link.local == link.remote else f"{link.local} - {link.remote}",
            _micro(link.latency_us),
            _micro(link.worst_us),
            f"{link.rate / 1e6:.1f} MB/s" if link.rate else "-",
            f"{link.lost} of {link.probes}" if link.probes else "-",
            link.sick or "ok",
        )
        for link in links
    ]
    print(table(head, cells) if cells else "nothing could be measured")
    for note in notes:
        print(f"\nnote: {note}")
    for item in findings:
        print(f"\nSICK: {item.kind} {item.name}: {item.why} ({item.links} of the links above)")
    if not findings and links:
        print("\nall well")


def _micro(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} us"
