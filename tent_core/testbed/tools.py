"""Running ``ip`` and ``tc``: a failure is one error that names the command and what mends it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

from tent_core.errors import PermissionDenied, TentError, Unsupported

__all__ = ["ip", "ip_json", "need_root", "tc"]

_TIMEOUT_S = 20


class CommandFailed(TentError):
    """A command of the system refused."""

    code = "internal"


def need_root() -> None:
    """Raises PermissionDenied, or Unsupported when a tool is missing."""
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            raise Unsupported(f"the test bed needs '{tool}': apt-get install iproute2")
    if os.geteuid() != 0:
        raise PermissionDenied("the test bed makes network namespaces and needs root: run it with sudo")


def ip(*arguments: str) -> str:
    """``ip ARGUMENTS``; what it printed."""
    return _run(["ip", *arguments])


def ip_json(*arguments: str) -> Any:
    text = _run(["ip", "-json", *arguments])
    return json.loads(text) if text.strip() else []


def tc(namespace: str, *arguments: str) -> str:
    """``tc ARGUMENTS`` inside a namespace."""
    return _run(["tc", "-n", namespace, *arguments])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise CommandFailed(f"'{' '.join(command)}' failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
