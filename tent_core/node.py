"""`tent node`: a process that only keeps pages. It outlives the serving processes of its host, and leaves in order."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from tent_core.config import Config
from tent_core.config.environment import notify_socket
from tent_core.errors import ConfigError
from tent_core.store import PageStore
from tent_core.store.drain import Drained

__all__ = ["NodeDaemon"]

_LOOK_S = 0.2


class NodeDaemon:
    """One node of its own: `serve` blocks until it is told to leave, then drains and closes.

    SIGTERM and SIGINT, or ``tent node drain``, start the drain; a second signal ends it there and then. Main thread
    only, since it handles signals. Tells systemd what it does where that asks (``Type=notify``).
    """

    def __init__(self, config: Config, *, drain_s: float) -> None:
        """Raises what `PageStore.open` does, and ConfigError without memory to give."""
        if config.store.capacity == 0:
            raise ConfigError("store.capacity = 0: a node that only keeps pages needs memory for them")
        self._drain_s = drain_s
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self.store = PageStore.open(config, daemon=True)

    def serve(self, ready: Callable[[PageStore], None], progress: Callable[[Drained], None]) -> Drained:
        """``ready`` is called once, ``progress`` while it leaves."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        _tell_systemd("READY=1")
        ready(self.store)
        try:
            while not self._stop.wait(_LOOK_S) and not self.store.asked_to_drain:
                pass
            _tell_systemd("STOPPING=1")
            return self.store.drain(self._drain_s, lambda state: self._report(state, progress))
        except _Hurry:
            return Drained()
        finally:
            self.store.close()

    def _report(self, state: Drained, progress: Callable[[Drained], None]) -> None:
        progress(state)
        if self._hurry.is_set():
            raise _Hurry

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()


class _Hurry(Exception):
    """A second signal: the rest is dropped."""


def _tell_systemd(state: str) -> None:
    """One datagram to the service manager's socket, where there is one. Nobody answers, and nothing hangs on it."""
    path = notify_socket()
    if not path:
        return
    address: Any = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(f"{state}\nMAINPID={os.getpid()}".encode(), address)
        except OSError:
            pass
