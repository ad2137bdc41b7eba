"""One fetch for all threads of this process that want a page of another node at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from tent_core import _native
from tent_core.store.batch import Batch, Rows, Statuses
from tent_core.store.context import Context, Deadline
from tent_core.store.lookup import Located
from tent_core.store.reason import PageStatus
from tent_core.store.transfer import Control

__all__ = ["Flights"]

_PRIORITY = {"interactive": 0, "normal": 1, "bulk": 2}
Fetch = Callable[[Batch, Located], Statuses]


class _Waiting:
    """A follower, as what cancels it sees it (`transfer.Running`)."""

    def __init__(self, ticket: _native.FlightTicket) -> None:
        self._ticket = ticket
        self._left = threading.Event()

    def cancel(self) -> bool:
        self._ticket.cancel()
        return not self._left.is_set()

    @property
    def released(self) -> bool:
        return self._left.is_set()

    def wait_released(self, timeout: float | None = None) -> bool:
        return self._left.wait(timeout)

    def leave(self, status: Statuses) -> None:
        self._ticket.leave(status)
        self._left.set()


class Flights:
    """Any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._native = _native.Flights(context.engine._native)
        self._shared = context.metrics.counter("store.shared_fetches")

    def get(
        self,
        batch: Batch,
        located: Located,
        deadline: Deadline,
        priority: str,
        control: Control,
        fetch: Fetch,
    ) -> Statuses:
        """``fetch``, but for pages that another thread is fetching already: those are waited for, and copied from what
        it got. Where it failed for a reason of its own (its deadline, its caller's cancelling), they are fetched."""
        ticket, follows = self._join(batch, located, priority)
        status = self._lead(batch, located, ticket, follows, fetch)
        if not len(follows):
            return status
        self._follow(ticket, status, deadline, control)
        self._note(batch, located, follows[status[follows] == PageStatus.HIT])
        again = follows[status[follows] == PageStatus.PENDING]
        if not len(again):
            return status
        if control.cancelled or deadline.passed:
            status[again] = PageStatus.CANCELLED if control.cancelled else PageStatus.DEADLINE
        else:
            some, where = batch.rows(again), located.rows(again)
            status[again] = self.get(some, where, deadline, priority, control, fetch)
        return status

    def _join(self, batch: Batch, located: Located, priority: str) -> tuple[_native.FlightTicket, Rows]:
        wanted = located.status == PageStatus.HIT
        for index, (name, _incarnation) in enumerate(located.nodes):
            if name == self._context.name:
                wanted &= located.node != index
        return self._native.join(
            batch.digests,
            located.version,
            batch.addresses,
            batch.lengths,
            wanted.view(np.uint8),
            _PRIORITY[priority],
        )

    def _lead(
        self, batch: Batch, located: Located, ticket: _native.FlightTicket, follows: Rows, fetch: Fetch
    ) -> Statuses:
        if len(follows):
            located = located.rows(np.arange(len(batch)))
            located.status[follows] = PageStatus.PENDING  # neither fetched nor a miss
        status = np.full(len(batch), PageStatus.PENDING, dtype=np.uint8)
        try:
            status = fetch(batch, located)
        finally:
            ticket.land(status, located.check, self._context.config.store.check)
        return status

    def _follow(
        self, ticket: _native.FlightTicket, status: Statuses, deadline: Deadline, control: Control
    ) -> None:
        waiting = _Waiting(ticket)
        control.add(waiting)
        try:
            ticket.wait(deadline.left)
        finally:
            waiting.leave(status)

    def _note(self, batch: Batch, located: Located, rows: Rows) -> None:
        """Their owners are to know that they were read."""
        self._shared.inc(len(rows))
        for index, owner in enumerate(located.nodes):
            mine = rows[located.node[rows] == index]
            if len(mine):
                self._context.note_hits(owner, batch.digests[mine])
