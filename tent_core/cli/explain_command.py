"""``tent explain``: why the last prompts of this host's serving engines hit or missed."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from tent_core.cli.table import table
from tent_core.explain import Found, rings

__all__ = ["add_parser"]

_HEAD = ("when", "what", "pages", "found", "used", "why not more")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="why the last prompts of this host's serving engines hit or missed",
        description="Each line is a decision of a connector: 'look' when the engine asked which pages of a prompt are "
        "there, 'load' when it read some, 'prompt' a request of vLLM's that has ended. 'pages' is what was asked for, "
        "'found' what the pool had from the front, 'used' what the engine was given; then what ended it: which page of "
        "which pool, and what was wrong with it. Pages are shared only between servers whose fields (--fields) all "
        "agree: compare two servers that should share and do not. Shows processes of your own user (as root, of all) "
        "on this host and in this container.",
    )
    parser.add_argument("--node", metavar="NAME", help="only this node ('tent top' lists them)")
    parser.add_argument(
        "--last", type=int, default=20, metavar="N", help="how many lines of each (default: 20)"
    )
    parser.add_argument(
        "--fields", action="store_true", help="what makes a page of this server the same page"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable: one object a process")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    found = [ring for ring in rings() if options.node in (None, ring.about.get("node"))]
    if not found:
        print("no serving engine with a TENT connector is running here under this user")
        return 1
    for ring in found:
        records = ring.records[-options.last :] if options.last > 0 else []
        if options.json:
            print(json.dumps({"pid": ring.pid, **ring.about, "records": records}))
            continue
        print(f"{ring.about.get('engine', '?')}, node {ring.about.get('node', '?')}, pid {ring.pid}")
        if options.fields:
            print(_fields(ring))
        print(table(_HEAD, [_row(record) for record in records]) if records else "no prompt so far")
        print()
    return 0


def _fields(ring: Found) -> str:
    fields = ring.about.get("fields")
    rows = sorted(fields.items()) if isinstance(fields, dict) else []
    return table(("field", "value"), [(str(name), str(value)) for name, value in rows]) + "\n"


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    at = record.get("at")
    when = time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, (int, float)) else "?"
    cells = (record.get(name, "") for name in ("did", "asked", "found", "given"))
    return (when, *(str(cell) for cell in cells), _why(record))


def _why(record: dict[str, Any]) -> str:
    missed = record.get("missed")
    if isinstance(missed, dict):
        return ", ".join(f"{number} {reason}" for reason, number in missed.items())
    why = str(record.get("why", ""))
    if "page" in record:
        return (
            f"page {record['page']} of pool {record.get('pool', '?')}: {why} (key {record.get('key', '?')})"
        )
    if "load_s" in record:
        rate = record.get("compute_tps") or 0
        return f"{why}: loading takes {record['load_s']} s, prompts are computed at {rate:.0f} tokens/s"
    return why
