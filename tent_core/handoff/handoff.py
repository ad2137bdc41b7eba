"""Offers of this node, and what it takes up of others'."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np

from tent_core import _native
from tent_core.config import resolve_secret
from tent_core.engine import Engine
from tent_core.errors import InvalidArgument
from tent_core.handoff.offer import Offer
from tent_core.handoff.pull import Pull, Ranges
from tent_core.handoff.ticket import Ticket
from tent_core.metrics import Registry
from tent_core.transfers import TransferResult

__all__ = ["Handoff"]

LEASE_S = 30.0
_MS = 1000.0


class Handoff:
    """One for an engine. Any thread. Closing the engine ends its offers."""

    def __init__(self, engine: Engine, *, lease: float = LEASE_S, metrics: Registry | None = None) -> None:
        """``lease``: seconds after which an offer that nobody uses ends by itself, where `offer` says nothing else."""
        self.engine = engine
        self.lease = lease
        self.metrics = metrics or Registry()
        self._secret = resolve_secret(engine.config)
        self._offers: dict[bytes, Offer] = {}
        self._lock = threading.Lock()
        self._looking = threading.Lock()

    # ---- the producer

    def offer(
        self,
        addresses: Ranges,
        lengths: Ranges,
        *,
        access: str = "r",
        lease: float | None = None,
        checks: bool = True,
        form: bytes = b"",
        name: bytes | None = None,
    ) -> Offer:
        """Offers ranges of registered memory (absolute addresses and bytes; one length for all, or one each) to whoever
        gets the ticket. ``access``: "r" to be read, "w" to be written. ``checks``: a hash of every range goes with it
        (computed here and now, by the engine's threads), and what is pulled is compared. ``name``: of a ticket that was
        made before. The memory must stay as it is until the offer has ended. Raises Unregistered, OverlappingRanges …
        """
        if access not in ("r", "w"):
            raise InvalidArgument(f"access must be 'r' or 'w', not {access!r}")
        self.look()
        at = np.atleast_1d(np.asarray(addresses, dtype=np.uint64))
        length = np.broadcast_to(np.asarray(lengths, dtype=np.uint64), at.shape)
        ticket = Ticket(self.engine.descriptor(), nbytes=int(length.sum()), ranges=len(at), form=form)
        if name is not None:
            ticket = replace(ticket, name=name)
        sums = self._checks(at, length) if checks and access == "r" else None
        offer = Offer(self, ticket)
        with self._lock:
            self._offers[offer.name] = offer
        try:
            seconds = self.lease if lease is None else lease
            _native.offer(self.engine._native, offer.name, at, length, sums, access == "w", seconds)
        except BaseException:
            with self._lock:
                self._offers.pop(offer.name, None)
            raise
        self.metrics.counter("handoff.offers.made").inc()
        return offer

    def _checks(self, at: Any, length: Any) -> Any:
        """Held while they are read, lest the memory be unregistered meanwhile."""
        native = self.engine._native
        held = native.hold(at, length, False)
        try:
            nobody = np.zeros((len(at), 16), dtype=np.uint8)
            return _native.page_checks(nobody, at[:, None], length[:, None], native)
        finally:
            held.release()

    def abort(self, name: bytes) -> bool:
        """See `Offer.abort`."""
        ended = _native.end_offer(self.engine._native, name)
        self.look()
        return ended

    def look(self, timeout: float = 0.0) -> list[Offer]:
        """Takes note of the offers that have ended since the last look, and returns them. Blocks up to ``timeout`` for
        one. Where several threads look, each offer is reported to one of them."""
        with self._looking:
            ended = _native.take_ended_offers(self.engine._native, timeout)
        found = []
        for name, how in ended:
            self.metrics.counter(f"handoff.offers.{how}").inc()
            with self._lock:
                offer = self._offers.pop(name, None)
            if offer is not None:
                offer._end(how)
                found.append(offer)
        return found

    def seal(self, ticket: Ticket) -> str:
        return ticket.seal(self._secret)

    @property
    def open_offers(self) -> int:
        return int(_native.live_offers(self.engine._native))

    # ---- the consumer

    def unseal(self, ticket: str) -> Ticket:
        """Raises ProtocolError, VersionMismatch or AuthFailed: see `Ticket.unseal`."""
        return Ticket.unseal(ticket, self._secret)

    def prepare(self, ticket: str | Ticket, addresses: Ranges, lengths: Ranges, **options: Any) -> Pull:
        """A pull that can be cancelled from another thread; its `run` does it. Options: those of `Pull`."""
        opened = self.unseal(ticket) if isinstance(ticket, str) else ticket
        return Pull(self, opened, addresses, lengths, **options)

    def pull(
        self,
        ticket: str | Ticket,
        addresses: Ranges,
        lengths: Ranges,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> TransferResult:
        """Reads what was offered into these local ranges, one for one, checks it, and releases the offer. Blocks up to
        ``timeout`` (``engine.deadline_ms``). When it raises, nothing touches the local ranges any more, and their
        contents are undefined. Raises SegmentGone (the offer has ended), PermissionDenied (there never was such an
        offer), CheckFailed, PeerDead, PeerUnreachable, StaleIncarnation, DeadlineExceeded …"""
        return self.prepare(ticket, addresses, lengths, **options).run(self._seconds(timeout))

    def push(
        self,
        ticket: str | Ticket,
        addresses: Ranges,
        lengths: Ranges,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> TransferResult:
        """The other way round: writes these local ranges into what was offered for writing."""
        return self.prepare(ticket, addresses, lengths, write=True, **options).run(self._seconds(timeout))

    def refuse(self, ticket: str | Ticket, *, timeout: float | None = None) -> None:
        """Tells the producer that nobody will take this offer up. Blocks up to ``timeout``, as `pull`; raises as it
        does. A ticket whose offer is not made yet is waited for."""
        opened = self.unseal(ticket) if isinstance(ticket, str) else ticket
        Pull(self, opened, [], []).refuse(self._seconds(timeout))

    def _seconds(self, timeout: float | None) -> float:
        return self.engine.config.engine.deadline_ms / _MS if timeout is None else timeout
