"""``tent config``: the effective values, and where each came from."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tent_core.cli.columns import columns
from tent_core.config import load_config

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "config",
        help="effective settings and where each came from",
        description="Print every setting with its effective value and origin. Secrets are never printed.",
    )
    parser.add_argument(
        "file", nargs="?", help="TOML or JSON file to read, instead of the one TENT_CONFIG names"
    )
    parser.add_argument("--changed", action="store_true", help="only what differs from the defaults")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    rows = load_config(options.file).effective()
    if options.changed:
        rows = [row for row in rows if row.origin != "default"]
    if options.json:
        print(
            json.dumps(
                {row.key: {"value": row.value, "origin": row.origin, "unit": row.unit} for row in rows}
            )
        )
        return 0
    table = [("key", "value", "unit", "from")]
    # A size carries its unit in its value.
    table += [
        (row.key, row.value or "-", "" if row.unit == "bytes" else row.unit, row.origin) for row in rows
    ]
    print(columns(table))
    return 0
