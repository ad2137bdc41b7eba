"""``tent trace``: what became of every slice in a window of time, as a trace for Perfetto or Chrome."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tent_core.cli.observing import add_config, duration, peer_of, read_file
from tent_core.config import load_config
from tent_core.errors import InvalidArgument
from tent_core.observe.session import Observer
from tent_core.observe.trace import chrome_trace

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "trace",
        help="every slice of a running node on a time line, a track for each link",
        description="Waits for --for, then takes what the node's flight recorder kept of that time: every slice with "
        "the prediction that put it on its link, and what happened to the links. Open the file in ui.perfetto.dev or "
        "chrome://tracing. Costs the node nothing that it does not do anyway.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--node", metavar="NAME", help="a node of the directory ('tent top' lists them)")
    which.add_argument("--descriptor", metavar="FILE", help="a node by its descriptor, without a directory")
    which.add_argument("--recording", metavar="FILE", help="a recording that was written before, all of it")
    parser.add_argument(
        "--for", dest="window", type=duration, default=2.0, metavar="TIME", help="how long (default: 2s)"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the trace, JSON")
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.recording:
        trace = chrome_trace(read_file(options.recording))
    else:
        with Observer(load_config(options.config)) as observer:
            peer = peer_of(observer, options)
            time.sleep(options.window)
            recording = peer.recording("tent trace", timeout=30)
        trace = chrome_trace(recording, options.window)
    try:
        Path(options.out).write_text(json.dumps(trace), encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"{options.out}: {error.strerror}") from None
    about = trace["metadata"]
    print(f"{options.out}: {about['slices']} slices of node {about['node']} in {about['window_s']:.3g} s")
    if not about["complete"]:
        print(
            "the recorder did not reach back to the window's beginning: use a shorter --for, or a larger "
            "recorder.memory",
            file=sys.stderr,
        )
    return 0
