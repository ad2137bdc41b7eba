"""Tells a directory that was away from one that has lost its memory: servers name the process that they are."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Lives"]

_FIELD = b"run_id:"
_MOST = 10_000  # a server with as many names as connections tells nothing


class Lives:
    """The server processes that have greeted us. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[bytes] = set()
        self._silent = False

    def greeted(self, info: Any) -> None:
        """``info``: the reply to ``INFO server``, or what came in its place."""
        name = b""
        if type(info) is bytes:
            lines = (line.strip() for line in info.split(b"\n"))
            name = next((line[len(_FIELD) :] for line in lines if line.startswith(_FIELD)), b"")
        with self._lock:
            if name and len(self._known) < _MOST:
                self._known.add(name[:64])
            else:
                self._silent = True

    @property
    def seen(self) -> int | None:
        """How many processes there were. None: one did not say which it is (a user without ``INFO``)."""
        with self._lock:
            return None if self._silent else len(self._known)
