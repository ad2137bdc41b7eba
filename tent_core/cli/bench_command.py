"""``tent bench``: the benchmark programs (the folder benchmarks/ of the sources, installed as tent_core.benchmarks)."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from tent_core.errors import Unsupported

__all__ = ["add_parser", "load"]

_KINDS = {
    "memory": "shared memory beside memcpy between the same mappings",
    "tcp": "TCP over loopback beside raw sockets",
    "store": "the page store between two processes beside memcpy",
    "directory": "the directory beside plain redis-py",
    "sched": "what scheduling a slice costs, and how that grows",
    "hitratio": "how much of what conversations ask for a full pool still has, beside LRU, S3-FIFO and the optimum",
    "rails": "shaped rails between two hosts (network namespaces: as root): what they carry together",
    "faults": "the same rails when one is lost, slows down or comes back",
}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure TENT beside the floors of this machine",
        description="Every figure is a ratio to a floor measured in the same run, interleaved with it.",
    )
    kinds = "; ".join(f"{kind}: {what}" for kind, what in _KINDS.items())
    parser.add_argument(
        "kind", nargs="?", choices=list(_KINDS), help=f"{kinds}. Without one, all that need no root"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: seconds instead of minutes")
    parser.add_argument(
        "--json", action="store_true", help='print {"ratios": {name: value}, ...} and nothing else'
    )
    parser.add_argument(
        "--rivals",
        metavar="PYTHON",
        help="measure Mooncake and NIXL in the same run, those that this Python has: an interpreter, or the folder of "
        "a virtual environment. The one that runs 'tent' where it is not given",
    )
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FOLDER",
        help="sched, hitratio, directory: also write scheduler-cost.md, hit-ratio.md or directory-scale.md there",
    )
    parser.set_defaults(run=run)


def load(name: str) -> ModuleType:
    """A module of the benchmarks, of the source tree or as it is installed."""
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
        raise Unsupported("this installation has no benchmarks: install tent-kv from its sources") from None


def run(options: argparse.Namespace) -> int:
    report = load("report")
    kinds = [options.kind] if options.kind else list(report.KINDS)
    status: int = report.run(
        kinds, quick=options.quick, as_json=options.json, rivals=options.rivals, page=options.page
    )
    return status
