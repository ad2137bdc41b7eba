"""``tent node``: keep pages on this host in a process of their own; send one away in order."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import Any

from tent_core.cli.observing import add_config, duration
from tent_core.cli.progress import Progress
from tent_core.config import Config, load_config
from tent_core.config.values import parse_size
from tent_core.errors import InvalidArgument, TentError
from tent_core.node import NodeDaemon
from tent_core.observe.pool import PoolView
from tent_core.store import PageStore
from tent_core.store.drain import Drained

__all__ = ["add_parser"]

_LOOK_S = 0.25


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "node",
        help="keep pages on this host in a process that outlives the serving ones",
        description="Gives this host's memory to the pool. Serving processes of the host put their pages here by "
        "themselves (store.place), and the pages stay when a serving process ends or dies. Runs in the foreground; "
        "SIGTERM or Ctrl-C makes it leave in order: its pages go to other nodes first. A second one ends it at once.",
    )
    parser.set_defaults(run=_run)
    _add_run_options(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    drain = actions.add_parser(
        "drain",
        help="send a node away: its pages go to others first",
        description="The node hands its pages to others, the most read first, and ends. Shows how far it is. Exit "
        "status 1 if it is still there after --timeout.",
    )
    drain.add_argument("name", metavar="NAME", help="a node of the directory ('tent ls' lists them)")
    drain.add_argument("--timeout", type=duration, default=120.0, metavar="TIME", help="default: 120s")
    add_config(drain)
    drain.set_defaults(run=_drain)
    check = actions.add_parser(
        "check",
        help="is a node there and serving? For probes",
        description="Exit status 0: it answers and takes pages; 3: it answers and is leaving; 1: it does not answer.",
    )
    check.add_argument("name", metavar="NAME")
    check.add_argument("--json", action="store_true", help="machine-readable output")
    add_config(check)
    check.set_defaults(run=_check)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", default="", metavar="NAME", help="node.name (default: made from the host's)"
    )
    parser.add_argument("--capacity", metavar="SIZE", help="memory for pages, such as 64GiB (store.capacity)")
    parser.add_argument(
        "--drain-for", type=duration, default=60.0, metavar="TIME",
        help="how long it may take to hand its pages on when it leaves (default: 60s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line: ready, leaving, left")
    add_config(parser)


def _config(options: argparse.Namespace) -> Config:
    config = load_config(options.config)
    if options.name:
        config = dataclasses.replace(config, node=dataclasses.replace(config.node, name=options.name))
    if options.capacity:
        try:
            capacity = parse_size(options.capacity)
        except ValueError as error:
            raise InvalidArgument(f"--capacity: {error}") from None
        config = dataclasses.replace(config, store=dataclasses.replace(config.store, capacity=capacity))
    return config


def _run(options: argparse.Namespace) -> int:
    daemon = NodeDaemon(_config(options), drain_s=options.drain_for)
    say = _Lines(options.json)
    left = daemon.serve(say.ready, say.leaving)
    say.left(left)
    return 0


class _Lines:
    """What the daemon says, a line an event: to standard error for people, as JSON to standard output."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._said = 0.0

    def _say(self, event: str, text: str, **facts: Any) -> None:
        if self._json:
            print(json.dumps({"event": event, **facts}), flush=True)
        else:
            print(f"tent node: {text}", file=sys.stderr, flush=True)

    def ready(self, store: PageStore) -> None:
        capacity = int(store.stats()["capacity"])
        disk = store.stats().get("ssd")
        text = f"{store.node_name} serves {capacity / (1 << 30):.2f} GiB"
        if disk is not None:
            text += f" and {disk['capacity'] / (1 << 30):.2f} GiB on disk with {disk['pages']} pages in it"
        text += f"; directory {store.directory.shown_url}"
        facts = {} if disk is None else {"disk_capacity": disk["capacity"], "disk_pages": disk["pages"]}
        self._say("ready", text, node=store.node_name, capacity=capacity, **facts)

    def leaving(self, state: Drained) -> None:
        now = time.monotonic()
        if now - self._said < 1.0 and state.left:
            return
        self._said = now
        done = state.pages - state.left
        text = (
            f"leaving: {done} of {state.pages} pages handed on, {state.lost + state.kept} of them to nobody"
        )
        self._say("leaving", text, **dataclasses.asdict(state))

    def left(self, state: Drained) -> None:
        text = f"left; {state.moved} pages are with other nodes, {state.lost} are gone"
        if state.kept:
            text += f", {state.kept} wait on its disk"
        self._say("left", text, **dataclasses.asdict(state))


def _drain(options: argparse.Namespace) -> int:
    until = time.monotonic() + options.timeout
    with PoolView(load_config(options.config)) as view, Progress(f"draining {options.name}") as progress:
        view.drain(options.name)
        while time.monotonic() < until:
            row = next((row for row in view.nodes() if row.node == options.name), None)
            if row is None or row.state == "unreachable":
                return 0
            progress.update(f"{row.pages} pages left")
            time.sleep(_LOOK_S)
    print(f"tent: {options.name} is still there; it goes on leaving", file=sys.stderr)
    return 1


def _check(options: argparse.Namespace) -> int:
    state, why = "unreachable", ""
    try:
        with PoolView(load_config(options.config)) as view:
            rows = [row for row in view.nodes() if row.node == options.name]
            state, why = (rows[0].state, rows[0].why) if rows else (state, "the directory does not know it")
    except InvalidArgument:
        raise
    except TentError as error:
        why = str(error)
    if options.json:
        print(json.dumps({"node": options.name, "state": state, "why": why}))
    else:
        print(f"{options.name}: {state}{': ' + why if why else ''}")
    return {"serving": 0, "leaving": 3}.get(state, 1)
