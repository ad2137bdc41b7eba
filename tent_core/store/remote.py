"""Putting pages into another node's memory: an extent is borrowed, filled one-sided and committed to its owner."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tent_core import _native
from tent_core.engine import Intent, Peer, Transfer
from tent_core.errors import InvalidArgument, TentError
from tent_core.store.batch import Batch, Rows, Statuses, Words
from tent_core.store.context import Context, Deadline
from tent_core.store.lookup import Messages
from tent_core.store.reason import PageStatus, status_of_code
from tent_core.store.transfer import Control

__all__ = ["RemoteWriter"]

_HEADER = 64  # bytes that the owner keeps before each page
_CALL_S = 5.0
_GRACE_S = 10.0
_ROOM_S = 0.25  # for how long an owner that has no free extent is asked again


@dataclass
class _Loan:
    """An extent of a peer, filled from the front."""

    number: int
    segment: int
    epoch: int
    position: int
    end: int

    def fits(self, nbytes: int) -> bool:
        return self.position + _slot(nbytes) <= self.end

    def take(self, nbytes: int) -> int:
        """Where the page's bytes go."""
        at = self.position + _HEADER
        self.position += _slot(nbytes)
        return at


def _slot(nbytes: int) -> int:
    return _HEADER + (nbytes + 63) // 64 * 64


class _Owner:
    """What this node holds of one owner."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.peer: Peer | None = None
        self.loan: _Loan | None = None
        self.has_room = True  # as of the last time it was asked: a full one is not waited for again


class RemoteWriter:
    """Any thread; puts to one owner take turns."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._owners: dict[str, _Owner] = {}

    def put(
        self,
        space: bytes,
        batch: Batch,
        tokens: tuple[Words, Words] | None,
        node: str,
        deadline: Deadline,
        control: Control,
    ) -> Statuses:
        status: Statuses = np.full(len(batch), PageStatus.PENDING, dtype=np.uint8)
        with self._lock:
            owner = self._owners.setdefault(node, _Owner())
        if not owner.lock.acquire(timeout=deadline.left):
            status[:] = PageStatus.DEADLINE
            return status
        try:
            self._put(owner, node, space, batch, tokens, status, deadline, control)
        finally:
            owner.lock.release()
        self._context.count("put", status, batch.totals)
        return status

    def close(self) -> None:
        """Gives every loan back."""
        with self._lock:
            owners = list(self._owners.values())
        for owner in owners:
            with owner.lock:
                self._give_back(owner)

    def _put(
        self,
        owner: _Owner,
        node: str,
        space: bytes,
        batch: Batch,
        tokens: tuple[Words, Words] | None,
        status: Statuses,
        deadline: Deadline,
        control: Control,
    ) -> None:
        trouble = self._reach(owner, node, deadline)
        left: Rows = np.arange(len(batch))
        while len(left):
            if trouble is None:
                trouble = PageStatus.CANCELLED if control.cancelled else None
                trouble = PageStatus.DEADLINE if deadline.passed else trouble
            if trouble is None:
                trouble = self._borrow(
                    owner, int(batch.totals[left].max()), int(batch.totals[left[0]]), deadline
                )
            if trouble is PageStatus.TOO_LARGE:
                # The largest page is the trouble, not the others.
                largest = left[int(np.argmax(batch.totals[left]))]
                status[largest] = PageStatus.TOO_LARGE
                left = left[left != largest]
                trouble = None
                continue
            if trouble is not None:
                status[left] = trouble
                return
            rows, offsets = self._place(owner, batch, left)
            left = left[len(rows) :]
            some = None if tokens is None else (tokens[0][rows], tokens[1][rows])
            status[rows] = self._write(owner, space, batch.rows(rows), offsets, some, deadline, control)

    # ---- loans, owner's lock held

    def _reach(self, owner: _Owner, node: str, deadline: Deadline) -> PageStatus | None:
        if owner.peer is not None and owner.peer.alive:
            return None
        owner.loan = None  # it went with the session
        peer = self._context.peers.by_name(node, deadline.left)
        if not isinstance(peer, Peer):
            return peer
        owner.peer = peer
        return None

    def _borrow(self, owner: _Owner, largest: int, next_page: int, deadline: Deadline) -> PageStatus | None:
        if owner.loan is not None and owner.loan.fits(next_page):
            return None
        self._give_back(owner)
        patience = time.monotonic() + (min(_ROOM_S, deadline.left) if owner.has_room else 0.0)
        pause = 0.001
        while (code := self._ask(owner, largest, deadline)) == PageStatus.NO_SPACE:
            # The owner is asked to make room by the asking: reclaiming takes it a round trip to the directory.
            if time.monotonic() + pause > patience:
                break
            time.sleep(pause)
            pause *= 2
        owner.has_room = code is not PageStatus.NO_SPACE
        return code

    def _ask(self, owner: _Owner, largest: int, deadline: Deadline) -> PageStatus | None:
        """Asks for an extent. None: it is there."""
        try:
            assert owner.peer is not None
            reply = owner.peer.call(
                Messages.LEND, _native.lend_request(largest, largest), max(0.001, min(_CALL_S, deadline.left))
            )
            code, number, segment, _extent, epoch, offset, length = _native.lent_reply(reply)
        except TentError as error:
            return status_of_code(error.code)
        if code != PageStatus.STORED:
            return PageStatus(code) if code in PageStatus.__members__.values() else PageStatus.REFUSED
        owner.loan = _Loan(number, segment, epoch, offset, offset + length)
        return None

    def _give_back(self, owner: _Owner) -> None:
        loan, owner.loan = owner.loan, None
        if loan is None or owner.peer is None or not owner.peer.alive:
            return
        try:
            owner.peer.call(Messages.GIVE_BACK, _native.give_back_request(loan.number), _CALL_S)
        except TentError:
            pass  # the owner takes it back when the session ends

    def _place(self, owner: _Owner, batch: Batch, left: Rows) -> tuple[Rows, Words]:
        """As many pages from the front as the loan takes."""
        assert owner.loan is not None
        offsets = []
        for nbytes in batch.totals[left[: Messages.MOST]].tolist():
            if not owner.loan.fits(nbytes):
                break
            offsets.append(owner.loan.take(nbytes))
        return left[: len(offsets)], np.array(offsets, dtype=np.uint64)

    # ---- bytes, then commit

    def _write(
        self,
        owner: _Owner,
        space: bytes,
        batch: Batch,
        offsets: Words,
        tokens: tuple[Words, Words] | None,
        deadline: Deadline,
        control: Control,
    ) -> Statuses:
        peer, loan = owner.peer, owner.loan
        assert peer is not None and loan is not None
        count = len(batch)
        rows = np.arange(count, dtype=np.int64)
        local, segment, offset, length, epoch, group = _native.expand_parts(
            rows,
            batch.addresses,
            batch.lengths,
            np.full(count, loan.segment, dtype=np.uint32),
            offsets,
            np.full(count, loan.epoch, dtype=np.uint32),
        )
        intent = Intent(
            "write",
            peer,
            local,
            segment,
            offset,
            length,
            group,
            epoch=epoch,
            deadline=max(0.001, deadline.left),
        )
        # Within a host this process copies, and hashes what it copied. Elsewhere it hashes while the bytes travel.
        # Nobody is asked whether the pages are there already: the owner knows of its own, and when it publishes, the
        # directory lets the first one win.
        copies = peer._native.shares_memory
        try:
            native = self._context.engine._submit(intent, copies, digests=batch.digests if copies else None)
        except InvalidArgument:
            raise
        except TentError as error:
            return np.full(count, status_of_code(error.code), dtype=np.uint8)
        transfer = Transfer(self._context.engine, native)
        control.add(transfer)
        pages = (batch.digests, batch.addresses, batch.lengths)
        checks = None if copies else _native.page_checks(*pages)
        status = self._landed(owner, transfer, group, count, deadline)
        if checks is None:
            moved = native if transfer.released else None
            checks = _native.page_checks(*pages, self._context.engine._native, moved)
        if tokens is not None:
            changed = _native.read_tokens(tokens[0]) != tokens[1]
            status[(status == PageStatus.STORED) & changed] = PageStatus.UNSTABLE
        good = np.flatnonzero(status == PageStatus.STORED)
        if len(good):
            status[good] = self._commit(
                peer, loan, space, batch.rows(good), offsets[good], checks[good], deadline
            )
        return status

    def _landed(
        self,
        owner: _Owner,
        transfer: Transfer,
        group: npt.NDArray[np.uint32],
        count: int,
        deadline: Deadline,
    ) -> Statuses:
        if not transfer.wait(deadline.left + _GRACE_S):
            transfer.cancel()
        if not transfer.wait_released(_GRACE_S):
            # Some of it may still land: the room is neither used again nor given back; it goes with the session.
            owner.loan = None
        status = np.full(count, PageStatus.STORED, dtype=np.uint8)
        ranges = transfer.status
        if not (ranges == 1).all():
            code, _message = transfer._native.result or ("deadline", "")
            status[group[ranges != 1]] = status_of_code(code)
            for index, code, _message in reversed(transfer._native.errors):
                status[group[index]] = status_of_code(code)
        return status

    def _commit(
        self,
        peer: Peer,
        loan: _Loan,
        space: bytes,
        batch: Batch,
        offsets: Words,
        checks: Words,
        deadline: Deadline,
    ) -> Statuses | PageStatus:
        request = _native.commit_request(
            loan.number,
            loan.epoch,
            space,
            self._context.generation(space),
            batch.digests,
            offsets,
            batch.totals,
            checks,
        )
        try:
            reply = peer.call(Messages.COMMIT, request, max(0.001, min(_CALL_S, deadline.left)))
            answers: Statuses = _native.statuses_reply(reply)
        except TentError as error:
            return status_of_code(error.code)
        return answers if len(answers) == len(batch) else PageStatus.INTERNAL
