"""What TENT reads of the environment besides its settings (`load` reads those): the user's folders, and a few variables
for its developers. Nothing else of TENT looks there, but to hand it on to a process that it starts."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_home", "for_developers", "notify_socket", "runtime_home", "state_home"]


def cache_home() -> Path:
    """What may be lost: generated models, compiled benchmarks."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def state_home() -> Path:
    """What should last: the user's own key."""
    return Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))


def runtime_home() -> str:
    """The user's folder for sockets; empty where there is none. Whether it is safe is for the caller to see."""
    return os.environ.get("XDG_RUNTIME_DIR", "")


def for_developers(name: str) -> str:
    """``TENT_DEMO_TRACEBACK``: the traceback of an error that a command ends with. ``TENT_BENCH_NATIVE``: the folder of
    the native benchmark programs. Empty: not set."""
    return os.environ.get(name, "")


def notify_socket() -> str:
    """Where systemd wants to hear that a service is ready; empty where it does not."""
    return os.environ.get("NOTIFY_SOCKET", "")
