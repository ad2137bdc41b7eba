"""``tent bench``: the benchmark programs (the folder benchmarks/ of the sources, installed as tent_core.benchmarks)."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tent_core.errors import Unsupported

__all__ = ["add_parser"]

_KINDS = {
    "memory": "shared memory beside memcpy between the same mappings",
    "tcp": "TCP over loopback beside raw sockets",
    "store": "the page store between two processes beside memcpy",
    "directory": "the directory beside plain redis-py",
}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure TENT beside the floors of this machine",
        description="Every figure is a ratio to a floor measured in the same run, interleaved with it.",
    )
    parser.add_argument("kind", choices=list(_KINDS), help="; ".join(f"{k}: {v}" for k, v in _KINDS.items()))
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: seconds instead of minutes")
    parser.add_argument(
        "--json", action="store_true", help='print {"ratios": {name: value}, ...} and nothing else'
    )
    parser.set_defaults(run=run)


def _program(kind: str) -> ModuleType:
    name = f"bench_{kind}"
    sources = Path(__file__).resolve().parents[2]
    if (sources / "benchmarks" / "targets.toml").exists():
        # A source tree: the folder has its own name there.
        if str(sources) not in sys.path:
            sys.path.append(str(sources))
        return importlib.import_module(f"benchmarks.{name}")
    try:
        return importlib.import_module(f"tent_core.benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("tent_core.benchmarks", f"tent_core.benchmarks.{name}"):
            raise
        raise Unsupported(
            f"this installation has no benchmark '{kind}': install tent-kv from its sources"
        ) from None


def run(options: argparse.Namespace) -> int:
    status: int = _program(options.kind).main(quick=options.quick, as_json=options.json)
    return status
