"""The consumer's side of one hand-off."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tent_core import _native
from tent_core.engine import Intent, Peer
from tent_core.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    PermissionDenied,
    ProtocolError,
    SegmentGone,
    TentError,
    Unsupported,
)
from tent_core.handoff.ticket import Ticket
from tent_core.transfers import Indices, Transfer, TransferResult

if TYPE_CHECKING:
    from tent_core.handoff.handoff import Handoff

__all__ = ["Pull", "Ranges"]

Ranges = Indices
U64 = npt.NDArray[np.uint64]

_OPEN, _RELEASE = 128, 129  # methods: csrc/proto/handoff_messages.h
_RELEASE_S = 2.0
_FIRST_PAUSE, _LAST_PAUSE = 0.002, 0.1


class _Opened(NamedTuple):
    segment: int
    write: bool
    checked: bool
    nbytes: int
    ranges: int
    lease_ms: int
    first: int
    lengths: U64
    checks: U64


class Pull:
    """One offer, taken up. `run` once; `cancel` from any thread.

    ``addresses``, ``lengths``: local ranges in registered memory, one for each range of the offer, or for each of
    ``parts`` (indices of the offer's ranges, where not all are wanted). ``form`` must be the ticket's, if it is given.
    """

    def __init__(
        self,
        handoff: Handoff,
        ticket: Ticket,
        addresses: Ranges,
        lengths: Ranges,
        *,
        parts: Ranges | None = None,
        form: bytes | None = None,
        priority: str = "normal",
        write: bool = False,
    ) -> None:
        self._handoff = handoff
        self._ticket = ticket
        self._at: U64 = np.atleast_1d(np.asarray(addresses, dtype=np.uint64))
        self._lengths: U64 = np.broadcast_to(np.asarray(lengths, dtype=np.uint64), self._at.shape)
        self._parts = None if parts is None else np.atleast_1d(np.asarray(parts, dtype=np.int64))
        self._priority = priority
        self._write = write
        self._cancelled = threading.Event()
        self._transfer: Transfer | None = None
        if form is not None and form != ticket.form:
            raise Unsupported(
                f"the offer holds {ticket.form!r}, what is wanted is {form!r}: both ends need the same model, "
                "weights, type and layout"
            )
        if self._parts is not None and self._parts.shape != self._at.shape:
            raise InvalidArgument("parts must have as many entries as addresses")

    def cancel(self) -> None:
        """`run` raises Cancelled soon, unless it is past the last byte."""
        self._cancelled.set()
        transfer = self._transfer
        if transfer is not None:
            transfer.cancel()

    def run(self, timeout: float) -> TransferResult:
        """See `Handoff.pull`. Whatever happens, nothing touches the local ranges when it returns."""
        until = time.monotonic() + timeout
        counters = self._handoff.metrics
        peer, good = None, False
        try:
            peer = self._connect(until)
            opened = self._open(peer, until)
            try:
                result = self._move(peer, opened, until)
            except SegmentGone:
                self._ask(peer, 0, until)  # says how the offer has ended
                raise
            good = True
            counters.counter("handoff.pulls.bytes").inc(result.bytes)
            return result
        finally:
            counters.counter("handoff.pulls.done" if good else "handoff.pulls.failed").inc()
            if peer is not None:
                self._release(peer, good)

    def refuse(self, timeout: float) -> None:
        """See `Handoff.refuse`."""
        until = time.monotonic() + timeout
        peer = self._connect(until)
        self._ask(peer, 0, until)
        self._release(peer, False)

    def _left(self, until: float) -> float:
        if self._cancelled.is_set():
            raise Cancelled("the hand-off was cancelled by its consumer")
        left = until - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the hand-off did not end in time")
        return left

    def _connect(self, until: float) -> Peer:
        engine = self._handoff.engine
        patience = engine.config.engine.connect_timeout_ms / 1000
        return engine.connect(self._ticket.descriptor, min(patience, self._left(until)))

    # ---- what is offered

    def _open(self, peer: Peer, until: float) -> _Opened:
        """Opens the offer, and learns of all its ranges."""
        opened = self._ask(peer, 0, until)
        lengths, checks = [opened.lengths], [opened.checks]
        have = len(opened.lengths)
        while have < opened.ranges:
            more = self._ask(peer, have, until)
            if more.first != have or len(more.lengths) == 0 or more.segment != opened.segment:
                raise ProtocolError(f"node '{peer.name}': the parts of its offer do not fit together")
            lengths.append(more.lengths)
            checks.append(more.checks)
            have += len(more.lengths)
        opened = opened._replace(lengths=np.concatenate(lengths), checks=np.concatenate(checks))
        if opened.nbytes != int(opened.lengths.sum()) or opened.write != self._write:
            raise ProtocolError(f"node '{peer.name}': its offer is not what it says it is")
        return opened

    def _ask(self, peer: Peer, first: int, until: float) -> _Opened:
        pause = _FIRST_PAUSE
        request = _native.open_offer_request(self._ticket.name, first)
        while True:
            try:
                return _Opened(*_native.opened_reply(peer.call(_OPEN, request, self._left(until))))
            except PermissionDenied:
                # A ticket may be made before its offer is.
                if not self._ticket.promised or first != 0:
                    raise
                if time.monotonic() + pause >= until:
                    raise
            self._cancelled.wait(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    # ---- the bytes

    def _move(self, peer: Peer, opened: _Opened, until: float) -> TransferResult:
        """While it runs, and only then, the local ranges may be touched. Ends soon when it is cancelled, whatever the
        peer does."""
        parts = np.arange(opened.ranges) if self._parts is None else self._parts
        if len(parts) != len(self._at) or (len(parts) and (parts.min() < 0 or parts.max() >= opened.ranges)):
            raise InvalidArgument(
                f"the offer has {opened.ranges} ranges, and {len(self._at)} local ones were named for them"
            )
        lengths = opened.lengths[parts]
        if not np.array_equal(lengths, self._lengths):
            at = int(np.flatnonzero(lengths != self._lengths)[0])
            raise InvalidArgument(
                f"range {at}: {int(lengths[at])} bytes are offered and {int(self._lengths[at])} wanted"
            )
        starts = np.concatenate(([0], np.cumsum(opened.lengths)[:-1])).astype(np.uint64)
        checks = opened.checks[parts] if opened.checked and not self._write else None
        op = "write" if self._write else "read"
        intent = Intent(op, peer, self._at, opened.segment, starts[parts], lengths, checks=checks)
        intent.priority, intent.deadline = self._priority, self._left(until)
        transfer = self._transfer = self._handoff.engine.submit(intent)
        if self._cancelled.is_set():
            transfer.cancel()
        try:
            return transfer.result()  # it has a deadline of its own
        finally:
            transfer.wait_released()

    def _release(self, peer: Peer, good: bool) -> None:
        """An answer is not waited for long: the offer's lease ends it otherwise."""
        request: Any = _native.release_offer_request(self._ticket.name, good)
        with suppress(TentError):
            _native.released_reply(peer.call(_RELEASE, request, _RELEASE_S))
            return
        self._handoff.metrics.counter("handoff.releases.unheard").inc()
