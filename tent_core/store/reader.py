"""Getting pages: one intent per owner, straight into the caller's memory, then every page is verified."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np

from tent_core import _native
from tent_core.engine import Intent, Peer, Transfer
from tent_core.errors import InvalidArgument, TentError
from tent_core.store.batch import Batch, Rows, Statuses
from tent_core.store.bring_up import bring_up, on_disk
from tent_core.store.context import Context, Deadline
from tent_core.store.flights import Flights
from tent_core.store.lookup import Located, elsewhere, locate
from tent_core.store.rarely import Rarely
from tent_core.store.reason import PageStatus, status_of_code
from tent_core.store.transfer import Control

__all__ = ["Reader"]

log = logging.getLogger("tent.store")
_OK = 1  # state of a range
_HIT = 0  # PageStatus.HIT: an enumeration's members are slow to name in Python 3.11
_GRACE_S = 10.0  # beyond the deadline, which the engine keeps itself
# Replicas that lead nowhere, and faults that another replica may not have.
_DEAD = (
    PageStatus.STALE_INCARNATION,
    PageStatus.STALE_EPOCH,
    PageStatus.ABSENT,
    PageStatus.BAD_RECORD,
)
_OF_OWNER = (
    *_DEAD,
    PageStatus.OWNER_UNREACHABLE,
    PageStatus.LINK_FAILED,
    PageStatus.CHECK_FAILED,
    PageStatus.REFUSED,
    PageStatus.CLOSED,
)


@dataclass
class _Part:
    """The rows that one owner serves."""

    peer: Peer
    rows: Rows
    group: np.typing.NDArray[np.uint32]
    transfer: Transfer


def in_place(located: Located, rows: Rows) -> np.typing.NDArray[np.bool_]:
    """Pages in memory of their owner's caller: checked whatever the configuration says."""
    there: np.typing.NDArray[np.bool_] = located.epoch[rows] >= np.uint32(_native.IN_PLACE_EPOCH)
    memory: np.typing.NDArray[np.bool_] = located.segment[rows] != np.uint32(_native.DISK_SEGMENT)
    return there & memory


class Reader:
    """Any thread. Raises only for the caller's own mistakes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rarely = Rarely(log, context.config.log.interval_s)
        self._flights = Flights(context)
        self.rate = 2e9  # bytes a second of verified gets lately: a guess until the first
        self._seconds = {
            fresh: context.metrics.histogram("store.get.seconds", looked_up=str(fresh).lower())
            for fresh in (False, True)
        }

    def get(
        self,
        space: bytes,
        batch: Batch,
        located: Located | None,
        deadline: Deadline,
        priority: str,
        control: Control,
        *,
        same_version: bool = False,
    ) -> Statuses:
        """Status per page. Returns once nothing touches the caller's memory any more. ``same_version``: what became of
        a page since ``located`` was found is a miss."""
        started = time.monotonic()
        context = self._context
        fresh = located is None
        if located is None:
            located = locate(context, space, batch.digests, batch.totals)

        def fetch(some: Batch, where: Located) -> Statuses:
            return self._fetch_anywhere(space, some, where, deadline, priority, control)

        if same_version:  # a copy for the pool: nobody else is to wait for one
            status = fetch(batch, located)
        else:
            status = self._flights.get(batch, located, deadline, priority, control, fetch)
        # A page may have been moved between look-up and read: where it went is one look-up away.
        all_hit = not status.any()
        again: Rows = np.empty(0, dtype=np.int64) if all_hit else self._outdated(located, status)
        if len(again) and not deadline.passed and not control.cancelled:
            some = batch.rows(again)
            moved = locate(context, space, some.digests, some.totals)
            before = located.rows(again)
            new = np.array([a != b for a, b in zip(moved.records, before.records, strict=True)])
            if same_version:
                new &= (moved.version == before.version).all(axis=1)
            found = (moved.status == _HIT) & new
            moved.status[~found & (moved.status == _HIT)] = PageStatus.ABSENT  # the same dead record
            status[again] = self._fetch_anywhere(space, some, moved, deadline, priority, control)
            all_hit = not status.any()
        context.count("get", status, batch.totals)
        seconds = time.monotonic() - started
        nbytes = int(batch.totals.sum() if all_hit else batch.totals[status == _HIT].sum())
        if nbytes >= 1 << 16 and seconds > 0:
            self.rate += (nbytes / seconds - self.rate) * 0.25
        self._seconds[fresh].observe(seconds)
        return status

    def _fetch_anywhere(
        self,
        space: bytes,
        batch: Batch,
        located: Located,
        deadline: Deadline,
        priority: str,
        control: Control,
    ) -> Statuses:
        """From the replica that was chosen, then from the others in turn. Replicas that lead nowhere leave their
        records."""
        status = self._fetch(space, batch, located, deadline, priority, control)
        if not status.any():  # all of them HIT
            return status
        tried = np.zeros(len(batch), dtype=np.uint8)  # bit sets of replicas, by row
        dead = (located.status == PageStatus.BAD_RECORD).astype(np.uint8)
        rows: Rows = np.arange(len(batch))
        now = located
        while True:
            self._note_failures(now, rows, status, tried, dead)
            rows = self._with_another(located, status, tried)
            if not len(rows) or deadline.passed or control.cancelled:
                break
            some = batch.rows(rows)
            now = elsewhere(self._context, space, located.rows(rows), some.totals, tried[rows])
            self._context.metrics.counter("store.other_replica").inc(len(rows))
            status[rows] = self._fetch(space, some, now, deadline, priority, control)
        self._drop_dead(located, dead)
        return status

    @staticmethod
    def _note_failures(now: Located, rows: Rows, status: Statuses, tried: Statuses, dead: Statuses) -> None:
        failed = (status[rows] != _HIT) & (now.status == _HIT)
        bit = np.left_shift(np.uint8(1), now.which).astype(np.uint8)
        tried[rows[failed]] |= bit[failed]
        lost = failed & np.isin(status[rows], _DEAD)
        dead[rows[lost]] |= bit[lost]

    @staticmethod
    def _with_another(located: Located, status: Statuses, tried: Statuses) -> Rows:
        """Rows that failed by a fault of their owner's, and have a replica that was not tried."""
        every = np.left_shift(np.uint16(1), located.replicas).astype(np.uint16) - 1
        left = (tried & every) != every
        rows: Rows = np.flatnonzero((tried > 0) & left & np.isin(status, _OF_OWNER))
        return rows

    def _fetch(
        self,
        space: bytes,
        batch: Batch,
        located: Located,
        deadline: Deadline,
        priority: str,
        control: Control,
    ) -> Statuses:
        status = located.status.copy()
        parts: list[_Part] = []
        own: list[Rows] = []
        down: list[tuple[tuple[str, bytes], Rows]] = []  # on the disks of other nodes
        try:
            for index, (name, incarnation) in enumerate(located.nodes):
                rows = located.owned_by(index)
                if not len(rows):
                    continue
                if name == self._context.name:
                    if _native.same_incarnation(incarnation, self._context.incarnation):
                        own.append(rows)
                    else:
                        status[rows] = PageStatus.STALE_INCARNATION
                    continue
                below = on_disk(located, rows)
                if below.any():
                    down.append(((name, incarnation), rows[below]))
                    rows = rows[~below]
                if len(rows):
                    self._begin(
                        batch, located, rows, (name, incarnation), deadline, priority, control, status, parts
                    )
            for owner, rows in down:
                self._bring_up(batch, located, rows, owner, deadline, priority, control, status, parts)
        except InvalidArgument:
            for part in parts:
                part.transfer.cancel()
                part.transfer.wait_released(_GRACE_S)
            raise
        for rows in own:  # while the others are under way
            status[rows] = self._own(batch.rows(rows), deadline, control)
        for part in parts:
            status[part.rows] = self._finish(part, deadline)
        for part in parts:
            self._verify(space, batch, located, part, status, deadline)
        return status

    def _begin(
        self,
        batch: Batch,
        located: Located,
        rows: Rows,
        owner: tuple[str, bytes],
        deadline: Deadline,
        priority: str,
        control: Control,
        status: Statuses,
        parts: list[_Part],
    ) -> None:
        part = self._start(batch, located, rows, owner, deadline, priority)
        if isinstance(part, _Part):
            control.add(part.transfer)
            parts.append(part)
        else:
            status[rows] = part

    def _bring_up(
        self,
        batch: Batch,
        located: Located,
        rows: Rows,
        owner: tuple[str, bytes],
        deadline: Deadline,
        priority: str,
        control: Control,
        status: Statuses,
        parts: list[_Part],
    ) -> None:
        """Pages on the owner's disk: read as it brings them into its memory."""
        peer = self._context.peers.get(*owner, deadline.left)
        if not isinstance(peer, Peer):
            status[rows] = peer
            return
        patience = self._context.config.store.ssd_timeout_ms / 1000
        for up in bring_up(peer, located, rows, status, patience, deadline):
            if control.cancelled:
                break
            self._begin(batch, located, up, owner, deadline, priority, control, status, parts)
        if control.cancelled:
            status[rows[on_disk(located, rows)]] = PageStatus.CANCELLED

    def _own(self, batch: Batch, deadline: Deadline, control: Control) -> Statuses | PageStatus:
        if control.cancelled:
            return PageStatus.CANCELLED
        status: Statuses = np.full(len(batch), PageStatus.ABSENT, dtype=np.uint8)
        if self._context.native is not None:
            status = self._context.native.get(
                batch.digests, batch.addresses, batch.lengths, self._context.config.store.check
            )
        ssd = self._context.ssd
        if ssd is not None and (status == PageStatus.ABSENT).any():
            absent = np.flatnonzero(status == PageStatus.ABSENT)
            status[absent] = ssd.get(batch.rows(absent), self._context.config.store.check, deadline)
        in_place = self._context.in_place
        if in_place is not None and (status == PageStatus.ABSENT).any():
            absent = np.flatnonzero(status == PageStatus.ABSENT)
            some = batch.rows(absent)
            status[absent] = in_place.native.get(some.digests, some.addresses, some.lengths)
        if (status == PageStatus.CHECK_FAILED).any():
            self._context.wake.set()  # the native store has dropped them: their records go too
        return status

    def _start(
        self,
        batch: Batch,
        located: Located,
        rows: Rows,
        owner: tuple[str, bytes],
        deadline: Deadline,
        priority: str,
    ) -> _Part | PageStatus:
        peer = self._context.peers.get(*owner, deadline.left)
        if not isinstance(peer, Peer):
            return peer
        if deadline.passed:
            return PageStatus.DEADLINE
        local, segment, offset, length, epoch, group = _native.expand_parts(
            rows,
            batch.addresses,
            batch.lengths,
            located.segment[rows],
            located.offset[rows],
            located.epoch[rows],
        )
        intent = Intent(
            "read",
            peer,
            local,
            segment,
            offset,
            length,
            group,
            epoch=epoch,
            priority=priority,
            deadline=deadline.left,
        )
        try:
            hashed = self._context.config.store.check or in_place(located, rows).any()
            digests = batch.digests[rows] if hashed else None
            native = self._context.engine._submit(intent, True, remember_links=True, digests=digests)
        except InvalidArgument as error:
            if error.code == "out_of_range":  # of the owner's segment: the record is wrong, not the caller
                return PageStatus.BAD_RECORD
            raise
        except TentError as error:
            return status_of_code(error.code)
        return _Part(peer, rows, group, Transfer(self._context.engine, native))

    def _finish(self, part: _Part, deadline: Deadline) -> Statuses:
        transfer = part.transfer
        if not transfer.wait(deadline.left + _GRACE_S):
            transfer.cancel()
        transfer.wait_released(_GRACE_S)
        status = np.zeros(len(part.rows), dtype=np.uint8)
        ranges = transfer.status
        if (ranges == _OK).all():
            return status
        # A page fails with its first failed range.
        code, _message = transfer._native.result or ("deadline", "")
        status[part.group[ranges != _OK]] = status_of_code(code)
        for index, code, _message in reversed(transfer._native.errors):
            status[part.group[index]] = status_of_code(code)
        return status

    def _verify(
        self,
        space: bytes,
        batch: Batch,
        located: Located,
        part: _Part,
        status: Statuses,
        deadline: Deadline,
    ) -> None:
        came = np.flatnonzero(status[part.rows] == _HIT)
        rows = part.rows[came]
        if not len(rows):
            return
        if not self._context.config.store.check:
            came = came[in_place(located, rows)]
        some = part.rows[came]
        if len(some):
            moved = (part.transfer._native, came.astype(np.uint32)) if part.transfer.released else None
            status[some] = self._checked(batch, located, some, moved)
            bad = rows[status[rows] != _HIT]
            if len(bad) and not deadline.passed:
                self._read_again(batch, located, part, bad, status, deadline)
            # What lies in a serving engine's own memory may be overwritten without a word: no fault of anybody's.
            bad = rows[status[rows] != _HIT]
            overwritten = in_place(located, bad)
            status[bad[overwritten]] = PageStatus.STALE_EPOCH
            bad = bad[~overwritten]
            if len(bad):
                self._rarely.warning(
                    f"bad pages of {part.peer.name}",
                    "%d pages from node %r failed their check: it is asked to look at them",
                    len(bad),
                    part.peer.name,
                )
                self._context.note_bad((part.peer.name, part.peer.incarnation), batch.digests[bad])
            rows = rows[status[rows] == _HIT]
        self._context.note_hits((part.peer.name, part.peer.incarnation), batch.digests[rows])
        self._context.note_reads(space, part.peer.name, batch.digests[rows])

    def _checked(
        self,
        batch: Batch,
        located: Located,
        rows: Rows,
        moved: tuple[_native.NativeTransfer, np.typing.NDArray[np.uint32]] | None = None,
    ) -> Statuses:
        """``moved``: what brought them, and as which groups: pages that it hashed on their way are not hashed again."""
        some = batch.rows(rows) if len(rows) < len(batch) else batch
        return _native.verify_pages(
            some.digests,
            some.addresses,
            some.lengths,
            located.check[rows],
            self._context.engine._native,
            *(moved or ()),
        )

    def _read_again(
        self, batch: Batch, located: Located, part: _Part, bad: Rows, status: Statuses, deadline: Deadline
    ) -> None:
        """Over one link alone, then over another: where that makes a page good, a link had spoilt it, and is taken
        down."""
        engine, group = self._context.engine._native, np.asarray(part.group)
        ranges = np.flatnonzero(np.isin(part.rows[group], bad)).astype(np.uint32)
        doubt = _native.doubt(engine, part.transfer._native, ranges)
        while len(bad) and not deadline.passed and _native.read_again(engine, doubt, deadline.left):
            status[bad] = self._checked(batch, located, bad)
            good = np.isin(part.rows[group[ranges]], bad[status[bad] == _HIT])
            _native.settle_doubt(engine, doubt, ranges[good])
            bad = bad[status[bad] != _HIT]

    def _outdated(self, located: Located, status: Statuses) -> Rows:
        """Rows that the directory had, and whose owner says otherwise."""
        gone = (status == PageStatus.STALE_EPOCH) | (status == PageStatus.ABSENT)
        rows: Rows = np.flatnonzero(gone & (located.status == _HIT))
        return rows

    def _drop_dead(self, located: Located, dead: Statuses) -> None:
        """Replicas that lead nowhere leave their records; upkeep does it."""
        items = []
        for row in np.flatnonzero(dead).tolist():
            record = located.records[row]
            if record is not None:
                left = _native.record_without(record, int(dead[row]))
                items.append((located.digests[row].tobytes(), record, left))
        if items:
            self._context.dead_records(items)
            self._context.wake.set()
