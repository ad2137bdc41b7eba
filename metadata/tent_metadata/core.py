"""What page and node operations share: deadline, guards, and how a server's faults become one typed error."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from tent_core.errors import Closed, DirectoryUnavailable, Forked
from tent_metadata.counters import Counters
from tent_metadata.faults import Refusal, Unreachable
from tent_metadata.keys import KeySpace
from tent_metadata.router import Router

__all__ = ["Core", "is_fault"]

log = logging.getLogger("tent.directory")
_LOG_EVERY_S = 10.0


class Core:
    """The router with everything around it. Thread-safe."""

    def __init__(
        self, router: Router, keys: KeySpace, timeout_ms: int, shown: str, counters: Counters
    ) -> None:
        self.router = router
        self.keys = keys
        self.shown = shown
        self.counters = counters
        self._timeout_s = timeout_ms / 1000.0
        self._pid = os.getpid()
        self._closed = False
        self._next_log = 0.0

    def enter(self, operation: str) -> float:
        """Called first by every operation: its deadline. Raises Closed or Forked."""
        if self._closed:
            raise Closed("this directory was closed")
        if os.getpid() != self._pid:
            raise Forked("this directory was opened before fork(): open another one in the child")
        self.counters.count("calls", operation)
        return time.monotonic() + self._timeout_s

    def unavailable(self, fault: Unreachable | Refusal, what: str) -> DirectoryUnavailable:
        """The error for ``fault``, logged now and then."""
        text = fault.explain() if isinstance(fault, Refusal) else str(fault)
        now = time.monotonic()
        if now >= self._next_log:
            self._next_log = now + _LOG_EVERY_S
            log.warning(
                "the directory %s is unavailable (%s); look-ups are misses meanwhile", self.shown, text
            )
        self.counters.count("unavailable", fault.kind)
        return DirectoryUnavailable(f"the directory {self.shown} cannot {what}: {text}")

    def only(self, replies: Sequence[Any], what: str) -> Any:
        """The one reply of a call with one command; a fault is raised."""
        reply = replies[0]
        if is_fault(reply):
            raise self.unavailable(reply, what)
        return reply

    def nonsense(self, reply: Any, what: str) -> NoReturn:
        """A reply of a shape that no Redis gives to our command."""
        self.counters.count("garbage", "reply")
        raise self.unavailable(Unreachable(f"nonsense in its answer: {reply!r:.100}", "garbage"), what)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.router.close()

    def abandon(self) -> None:
        """In a forked child: gives up the descriptors, without a word to the server."""
        self.router.abandon()


def is_fault(reply: Any) -> bool:
    """Whether a reply stands for something that did not happen."""
    return type(reply) is Refusal or type(reply) is Unreachable
