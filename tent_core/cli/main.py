"""``tent``: demo, doctor, config, node, ls, stat, pin, unpin, evict, verify, bench, testbed, sim, top, trace,
explain, recorder, net.

A user's mistake ends with one line on standard error and exit status 2, never with a traceback; so does a fault of
the world (no directory, no memory), with status 1. ``TENT_DEMO_TRACEBACK=1`` shows where an error came from.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import sys
from collections.abc import Sequence

from tent_core.cli import (
    bench_command,
    config_command,
    demo_command,
    doctor_command,
    explain_command,
    net_command,
    node_command,
    pool_commands,
    recorder_command,
    sim_command,
    testbed_command,
    top_command,
    trace_command,
)
from tent_core.config.environment import for_developers
from tent_core.errors import InvalidArgument, TentError

__all__ = ["main", "version"]

_COMMANDS = (
    demo_command,
    doctor_command,
    config_command,
    node_command,
    pool_commands,
    bench_command,
    testbed_command,
    sim_command,
    top_command,
    trace_command,
    explain_command,
    recorder_command,
    net_command,
)


def version() -> str:
    """The installed version, or that of a source tree."""
    try:
        return importlib.metadata.version("tent-kv")
    except importlib.metadata.PackageNotFoundError:
        return "unknown (source tree)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tent",
        description="TENT moves KV cache between LLM serving processes, and shares it between them.",
        epilog="Start with 'tent demo --fast', then 'tent doctor'.",
    )
    parser.add_argument("--version", action="version", version=f"tent {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ImportError as error:
        # A native engine that was built for another Python, or is not there; anything else is a fault of ours.
        if for_developers("TENT_DEMO_TRACEBACK") or "_native" not in str(error):
            raise
        print(f"tent: the native engine does not load: {error}\n'tent doctor' says more", file=sys.stderr)
        return 1
    except TentError as error:
        if for_developers("TENT_DEMO_TRACEBACK"):
            raise
        print(f"tent: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument) else 1


if __name__ == "__main__":
    sys.exit(main())
