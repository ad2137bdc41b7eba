"""The embedded directory's folder: its user's only, or refused."""

from __future__ import annotations

import os
import stat

from tent_core.config.environment import runtime_home
from tent_core.errors import ConfigError

__all__ = ["SOCKET", "check_folder", "choose_folder"]

SOCKET = "redis.sock"
_MAX_SOCKET_PATH = 107


def choose_folder(setting: str) -> str:
    """``directory.embedded_dir``, or ``tent`` in the user's runtime folder, or /tmp/tent-<uid>."""
    if setting:
        folder = os.path.abspath(setting)
    else:
        runtime = runtime_home()
        usable = os.path.isabs(runtime) and _complaint(runtime) is None
        folder = os.path.join(runtime, "tent") if usable else f"/tmp/tent-{os.geteuid()}"
    if len(os.fsencode(os.path.join(folder, SOCKET))) > _MAX_SOCKET_PATH:
        raise ConfigError(
            f"directory.embedded_dir = {folder!r} is too long for a unix socket; choose a shorter one"
        )
    return folder


def check_folder(folder: str) -> None:
    """Raises ConfigError if what is there is not safe to use, or nothing is there and nothing can be made."""
    complaint = _complaint(folder)
    if complaint is None:
        return
    if os.path.lexists(folder):
        # Looked at anew: the last user may have removed it, and the next made it, in between.
        complaint = _complaint(folder)
        if complaint is not None and os.path.lexists(folder):
            raise ConfigError(
                f"the embedded directory will not use {folder!r}: {complaint}. Remove it, or set directory.embedded_dir"
            )
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"the embedded directory's folder {folder!r} cannot be made: its parent folder is not there, or not "
            "writable; set directory.embedded_dir"
        )


def _complaint(folder: str) -> str | None:
    """What is wrong with a folder that must be its user's only."""
    try:
        found = os.lstat(folder)
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISDIR(found.st_mode):
        return "it is not a folder"
    if found.st_uid != os.geteuid():
        return f"it belongs to uid {found.st_uid}, not to {os.geteuid()}"
    if found.st_mode & 0o077:
        return f"others may use it (mode {stat.S_IMODE(found.st_mode):04o}, must be 0700)"
    return None
