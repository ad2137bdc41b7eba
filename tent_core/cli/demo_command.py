"""``tent demo``: picks the demonstration and runs it."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from tent_core.config import parse_size
from tent_core.errors import InvalidArgument

__all__ = ["add_parser"]

_DEMOS = {"vllm": "tent_core.cli.demo_vllm", "sglang": "tent_core.cli.demo_sglang"}


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="see a serving process answer with KV cache that another one computed",
        description=(
            "Starts two real serving processes on a generated model (nothing is downloaded), sends long prompts to "
            "one and the same prefixes to the other, and compares time to first token and log-probabilities with "
            "and without TENT."
        ),
    )
    parser.add_argument(
        "--engine", choices=sorted(_DEMOS), default="vllm", help="serving engine (default: vllm)"
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="the data engine alone, no serving engine: two processes, a few seconds",
    )
    parser.add_argument(
        "--bytes", type=_size, default="1GiB", help="with --fast: how much to move (default: 1GiB)"
    )
    parser.add_argument(
        "--python",
        metavar="FILE",
        help="interpreter that has the serving engine (default: this one)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.fast:
        from tent_core.cli import demo_fast

        return demo_fast.run(options)
    try:
        demo = importlib.import_module(_DEMOS[options.engine])
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tent_"):
            raise
        raise InvalidArgument(
            f"the demo of {options.engine} needs the Python package '{error.name}': run it inside the environment of "
            f"{options.engine}, or let 'bash e2e/demo.sh --engine {options.engine}' make one; "
            "'tent demo --fast' needs neither"
        ) from None
    status: int = demo.run(options)
    return status
