"""What the commands that look at nodes share: how a node is named, durations, and the session to it."""

from __future__ import annotations

import argparse
from pathlib import Path

from tent_core.config.values import parse_duration
from tent_core.engine import Peer
from tent_core.errors import InvalidArgument
from tent_core.observe.session import Observer

__all__ = ["add_config", "add_node", "duration", "peer_of", "read_file"]

_MOST = 512 << 20


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", help="TOML or JSON file, instead of the one TENT_CONFIG names"
    )


def add_node(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--node", metavar="NAME", help="a node of the directory ('tent top' lists them)")
    which.add_argument(
        "--descriptor",
        metavar="FILE",
        help="a node by its descriptor (Engine.descriptor()), without a directory",
    )
    add_config(parser)


def duration(text: str) -> float:
    """For argparse: "2s" or "500ms" as seconds."""
    try:
        seconds = parse_duration(text, "ms") / 1e3 if not text.isdigit() else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError("give a duration of up to an hour, such as 2s or 500ms")
    return seconds


def read_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(_MOST + 1)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from None
    if len(data) > _MOST:
        raise InvalidArgument(f"{path} is larger than {_MOST >> 20} MiB")
    return data


def peer_of(observer: Observer, options: argparse.Namespace) -> Peer:
    if options.descriptor:
        return observer.connect(read_file(options.descriptor))
    return observer.connect(observer.descriptor(options.node))
