"""``tent recorder``: fetch a node's flight recording, and replay one."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tent_core import _native
from tent_core.cli.observing import add_node, peer_of, read_file
from tent_core.config import load_config
from tent_core.errors import InvalidArgument
from tent_core.observe.session import Observer
from tent_core.recorder import SUFFIX, write_recording

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "recorder",
        help="a node's flight recording: fetch it, replay it",
        description="Every node keeps the last moments of what its scheduler was told and what it decided, in memory "
        "(recorder.memory). A recording shows what happened ('tent trace --recording'), and replays.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    dump = actions.add_parser("dump", help="fetch the recording of a running node")
    add_node(dump)
    dump.add_argument("--out", metavar="FILE", help="default: one named after the node and the time, here")
    dump.set_defaults(run=_dump)
    replay = actions.add_parser(
        "replay",
        help="run a recording through the scheduler again",
        description="Tells the scheduler again what it was told, and compares what it decides, bit for bit. Exit "
        "status 1 when it decides something else.",
    )
    replay.add_argument("file", metavar="FILE")
    replay.add_argument("--json", action="store_true", help="machine-readable output")
    replay.set_defaults(run=_replay)


def _dump(options: argparse.Namespace) -> int:
    with Observer(load_config(options.config)) as observer:
        peer = peer_of(observer, options)
        recording = peer.recording("tent recorder dump", timeout=30)
        name = "".join(c if c.isalnum() or c in "_.-" else "_" for c in peer.name)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = Path(options.out or f"tent-{name[:100]}-{stamp}{SUFFIX}")
    try:
        write_recording(path, recording)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from None
    print(f"{path}: {len(recording) / 1e6:.2f} MB")
    return 0


def _replay(options: argparse.Namespace) -> int:
    result = _native.replay_recording(read_file(options.file))
    if options.json:
        print(json.dumps({**result, "incarnation": result["incarnation"].hex()}))
        return 0 if result["identical"] else 1
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(result["wall_ns"] / 1e9))
    print(f"node {result['node']}, {when} ({result['reason']})")
    print(
        f"{result['events']} events, {result['actions']} decisions, {result['checkpoints']} states compared, "
        f"{result['segments']} segments"
    )
    if result["skipped"]:
        print(
            f"{result['skipped']} segments could not be replayed: the state was too large for recorder.memory"
        )
    print("identical" if result["identical"] else f"differs: {result['difference']}")
    return 0 if result["identical"] else 1
