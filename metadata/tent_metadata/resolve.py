"""Host names to addresses within a deadline: the system's resolver knows none, so it runs on a thread of its own."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

__all__ = ["Resolver"]

_FRESH_S = 30.0


class _Question:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.addresses: list[tuple[Any, ...]] = []
        self.error: OSError | None = None


class Resolver:
    """One look-up per name in flight; an answer that came too late serves the next caller. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, int], _Question] = {}
        self._known: dict[tuple[str, int], tuple[float, list[tuple[Any, ...]]]] = {}

    def addresses(self, host: str, port: int, deadline: float) -> list[tuple[Any, ...]]:
        """``getaddrinfo`` rows. Raises OSError (TimeoutError past the deadline)."""
        try:
            return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        key = (host, port)
        with self._lock:
            known = self._known.get(key)
            if known and time.monotonic() - known[0] < _FRESH_S:
                return known[1]
            question = self._asked.get(key)
            if question is None:
                question = self._asked[key] = _Question()
                threading.Thread(
                    target=self._ask, args=(key, question), name="tent-resolve", daemon=True
                ).start()
        if not question.done.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError(f"resolving {host!r} took too long")
        if question.error is not None:
            raise question.error
        return question.addresses

    def _ask(self, key: tuple[str, int], question: _Question) -> None:
        try:
            question.addresses = socket.getaddrinfo(key[0], key[1], 0, socket.SOCK_STREAM)
        except OSError as error:
            question.error = error
        except UnicodeError as error:  # an overlong label
            question.error = OSError(str(error))
        with self._lock:
            if question.error is None:
                self._known[key] = (time.monotonic(), question.addresses)
            self._asked.pop(key, None)
        question.done.set()
