"""What the directory counts, in the caller's registry where there is one."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Counters"]


class Counters:
    """Named counts. ``registry``: an object with ``counter(name, **labels).inc(n)``, or None. Thread-safe."""

    def __init__(self, registry: Any = None) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._handles: dict[str, Any] = {}

    def count(self, what: str, kind: str, n: int = 1) -> None:
        """Adds ``n`` to ``directory.<what>{kind=...}``."""
        key = f"{what}:{kind}"
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + n
            handle = self._handles.get(key)
            if handle is None and self._registry is not None:
                handle = self._handles[key] = self._registry.counter(f"directory.{what}", kind=kind)
        if handle is not None:
            handle.inc(n)

    def read(self) -> dict[str, int]:
        """``{"<what>:<kind>": count}`` of everything that happened at least once."""
        with self._lock:
            return dict(self._counts)
