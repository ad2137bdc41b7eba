"""The producer's side of one hand-off."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tent_core.handoff.ticket import Ticket

if TYPE_CHECKING:
    from tent_core.handoff.handoff import Handoff

__all__ = ["Offer"]

_LOOK = 0.25  # seconds between two looks of somebody who waits


class Offer:
    """Ranges of this node's memory that whoever has the ticket may read (or write), until the offer ends: once, in one
    of five ways. Afterwards no peer's attempt touches that memory."""

    def __init__(self, handoff: Handoff, ticket: Ticket) -> None:
        self._handoff = handoff
        self._ended = threading.Event()
        self._how = ""
        self.name = ticket.name
        self.ticket = handoff.seal(ticket)

    @property
    def how(self) -> str:
        """How it ended: "released" (the consumer has everything), "refused" (the consumer gave it up), "expired"
        (nobody used it for as long as its lease), "aborted" (by this side), "gone" (its memory was unregistered, or the
        engine closed). "" while it is open."""
        self._handoff.look()
        return self._how

    def wait(self, timeout: float | None = None) -> str:
        """Blocks until it has ended, or for ``timeout`` seconds; returns `how`."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._ended.is_set() and self._handoff.engine._native.usable:
            left = _LOOK if until is None else min(_LOOK, until - time.monotonic())
            if left <= 0:
                break
            self._handoff.look(left)
        return self.how

    def abort(self) -> bool:
        """Takes it back. When this returns, nothing of that memory is sent to a peer and nothing of a peer's lands in
        it, whatever the peer is doing: the memory may be used again. False if it had ended before; that is as good.
        Waits for no other process."""
        return self._handoff.abort(self.name)

    def _end(self, how: str) -> None:
        self._how = how
        self._ended.set()

    def __repr__(self) -> str:
        return f"<Offer {self.name.hex()[:8]} {self._how or 'open'}>"
