"""The command line, as an operator of a test's pool uses it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from support.store_process import TENT
from support.stores import Server

__all__ = ["tent"]

_PATIENCE_S = 60


def tent(server: Server, *arguments: str) -> tuple[int, Any]:
    """Exit status, and what the command printed with --json (its error, where it printed none)."""
    path = server.folder / "operator.json"
    path.write_text(json.dumps({"directory.url": server.url, "directory.timeout_ms": 2000}))
    done = subprocess.run(
        [*TENT, *arguments, "--json", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr
