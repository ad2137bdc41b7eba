"""``tent top``: the links of a node, or of all nodes, as they are right now."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tent_core.cli.observing import add_config, duration, read_file
from tent_core.cli.table import table
from tent_core.config import load_config
from tent_core.engine import Peer
from tent_core.errors import DirectoryUnavailable, TentError
from tent_core.observe.sampler import FaultTimes, LinkRow, Sampler
from tent_core.observe.session import Observer

__all__ = ["add_parser", "render"]

_HEAD = ("link", "state", "rate", "expected", "share", "in flight", "latency", "slices", "again", "faults")
_FAULT_HEAD = "last fault: found/elsewhere/fenced/back"
_RELIST_S = 5.0


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "top",
        help="the links of running nodes: rates, health, last faults",
        description="A node is a serving process with the connector in it, or any other user of TENT. Each line is a "
        "link: a way from that node to another. Rates are what the link moved since the last look; 'expected' is what "
        "TENT counts on; 'again' is what had to be sent a second time. The last column is the link's last fault, in "
        "milliseconds since it last gave a sign of life: when that was found out, when what it held was on its way "
        "elsewhere, when no byte of it could land any more, and when the link was used again.",
    )
    parser.add_argument("node", nargs="?", metavar="NODE", help="one node of the directory (default: all)")
    parser.add_argument("--descriptor", metavar="FILE", help="a node by its descriptor, without a directory")
    parser.add_argument(
        "--interval", type=duration, default=1.0, metavar="TIME", help="between two looks (default: 1s)"
    )
    parser.add_argument("--once", action="store_true", help="two looks, one table, and out")
    parser.add_argument("--json", action="store_true", help="machine-readable: one object a look")
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with Observer(load_config(options.config)) as observer, _screen(options) as show:
        watch = _Watch(observer, options)
        watch.look()
        while True:
            time.sleep(options.interval)
            rows, failed = watch.look()
            show(rows, failed)
            if options.once:
                return 1 if failed and not rows and not watch.answered else 0


class _Watch:
    """The nodes that are looked at, and what was seen last."""

    def __init__(self, observer: Observer, options: argparse.Namespace) -> None:
        self._observer = observer
        self._options = options
        self._samplers: dict[str, Sampler] = {}
        self._listed_at = 0.0
        self._peers: dict[str, Peer] = {}
        self._failed: dict[str, str] = {}
        self.answered = 0

    def look(self) -> tuple[list[LinkRow], dict[str, str]]:
        self._connect()
        rows: list[LinkRow] = []
        failed = dict(self._failed)
        self.answered = 0
        for name, peer in self._peers.items():
            try:
                stats = peer.stats()
            except TentError as error:
                failed[name] = str(error)
                continue
            self.answered += 1
            rows += self._samplers.setdefault(name, Sampler()).add(stats)
        return rows, failed

    def _connect(self) -> None:
        now = time.monotonic()
        lost = any(not peer.alive for peer in self._peers.values())
        if self._peers and not lost and now - self._listed_at < _RELIST_S:
            return
        self._listed_at = now
        if self._options.descriptor:
            peer = self._observer.connect(read_file(self._options.descriptor))
            self._peers = {peer.name: peer}
        elif self._options.node:
            blob = self._observer.descriptor(self._options.node)
            self._peers, self._failed = self._observer.reachable({self._options.node: blob})
        else:
            try:
                self._peers, self._failed = self._observer.reachable(self._observer.descriptors())
            except DirectoryUnavailable:
                if not self._peers:  # those that are known go on
                    raise


@contextmanager
def _screen(options: argparse.Namespace) -> Iterator[Any]:
    """How a look is shown: as JSON, as tables one after the other, or on a screen that is drawn anew."""
    if options.json:
        yield _show_json
        return
    live = not options.once and sys.stdout.isatty()
    if not live:
        yield lambda rows, failed: print(render(rows, failed), flush=True)
        return
    sys.stdout.write("\x1b[?1049h\x1b[?25l")  # the other screen, no cursor
    try:
        yield _draw
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _draw(rows: list[LinkRow], failed: dict[str, str]) -> None:
    clock = time.strftime("%H:%M:%S")
    text = render(rows, failed).replace("\n", "\x1b[K\n")
    sys.stdout.write(f"\x1b[Htent top  {clock}  (Ctrl-C ends)\x1b[K\n\x1b[K\n{text}\x1b[K\n\x1b[J")
    sys.stdout.flush()


def _show_json(rows: list[LinkRow], failed: dict[str, str]) -> None:
    print(json.dumps({"links": [dataclasses.asdict(row) for row in rows], "unreachable": failed}), flush=True)


def render(rows: list[LinkRow], failed: dict[str, str] | None = None) -> str:
    """The table of ``tent top``."""
    nodes = {row.node for row in rows}
    head = (("node",) if len(nodes) > 1 else ()) + _HEAD
    faults = any(row.last_fault for row in rows)
    cells = []
    for row in rows:
        line = ((row.node,) if len(nodes) > 1 else ()) + _cells(row)
        cells.append((*line, _fault(row.last_fault)) if faults else line)
    lines = [table((*head, _FAULT_HEAD) if faults else head, cells)] if rows else ["no links yet"]
    lines += [f"\n{name} does not answer: {why}" for name, why in (failed or {}).items()]
    return "\n".join(lines)


def _cells(row: LinkRow) -> tuple[str, ...]:
    return (
        row.link,
        row.state,
        _rate(row.rate),
        _rate(row.predicted),
        "-" if row.share is None else f"{100 * row.share:.0f} %",
        f"{row.in_flight / 1e6:.1f} MB",
        f"{row.latency_us:.0f} us",
        str(row.slices),
        f"{row.reissued_slices} ({row.reissued_bytes / 1e6:.1f} MB)" if row.reissued_slices else "0",
        str(row.faults),
    )


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e9:.2f} GB/s" if value >= 1e9 else f"{value / 1e6:.1f} MB/s"


def _fault(times: FaultTimes | None) -> str:
    if times is None:
        return "-"
    found = (times.detect_ms, times.reroute_ms, times.fence_ms, times.readmit_ms)
    shown = "/".join("..." if value is None else f"{value:.1f}" for value in found)
    return f"{shown} ms, {times.ago_s:.0f} s ago"
