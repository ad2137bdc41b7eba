"""Pages published where they lie: in memory that a serving engine has anyway. Sharing them takes no second copy."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tent_core import _native
from tent_core.engine import Segment
from tent_core.errors import DirectoryUnavailable, InvalidArgument, TentError
from tent_core.store.batch import Batch, Statuses, Words
from tent_core.store.context import Context
from tent_core.store.reason import PageStatus
from tent_core.store.retire import retire
from tent_core.store.writer import Publisher

__all__ = ["InPlace", "SharedMemory"]

_SWEEP = 65536  # pages whose tokens are looked at in one round of upkeep
_LAST = 256  # records in one directory operation
_RELEASE_S = 10.0


class SharedMemory:
    """Memory of yours that peers may read pages from, made by `PageStore.share`. It is a grant to read all of it, to
    every node of the cluster."""

    def __init__(self, owner: InPlace, segment: Segment, page: int) -> None:
        self._owner = owner
        self._segment = segment
        self.page = page
        self._lock = threading.Lock()
        self._closed = False

    @property
    def address(self) -> int:
        return self._segment.address

    @property
    def nbytes(self) -> int:
        return self._segment.nbytes

    def retire(self, addresses: Any) -> None:
        """Call it before you write to the pages at these addresses, or give them to somebody else: when it returns, no
        reader that comes later gets what lay there, and one under way finds out. No I/O, and nothing to wait for."""
        where = np.atleast_1d(np.asarray(addresses)).astype(np.uint64, copy=False)
        if len(where) and not (
            self.address <= int(where.min()) and int(where.max()) < self.address + self.nbytes
        ):
            raise InvalidArgument("an address to be retired lies outside of the shared memory")
        self._owner.retire(self._segment.id, where - np.uint64(self.address))

    def close(self, timeout: float = _RELEASE_S) -> None:
        """Takes all pages back, and the grant. When it returns, nothing reads from the memory any more: it may be
        freed. Raises Busy when something still does after ``timeout`` seconds; call it again then. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._owner.drop(self._segment.id)
            self._segment.unregister(timeout)
            self._closed = True
            self._owner.forget(self)

    def __enter__(self) -> SharedMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SharedMemory {self.nbytes} bytes at {self.address:#x}, pages of {self.page}>"


class InPlace:
    """The pages of this node that lie in its callers' memory. Any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        engine = context.engine
        self.native = _native.NativeInPlace(engine._native, engine.name, engine.incarnation)
        self.publisher = Publisher(context, self.native)
        self._lock = threading.Lock()
        self._shared: list[SharedMemory] = []
        context.metrics.attach_native(lambda: {"store": {"in_place": self.native.stats()}})

    def share(self, buffer: Any, page: int) -> SharedMemory:
        """As `PageStore.share`."""
        segment = self._context.engine._register_slots(buffer, page)
        self.native.add(segment.id, segment.address, segment.nbytes, page, segment._epochs)
        shared = SharedMemory(self, segment, page)
        with self._lock:
            self._shared.append(shared)
        return shared

    def forget(self, shared: SharedMemory) -> None:
        with self._lock:
            if shared in self._shared:
                self._shared.remove(shared)

    def drop(self, segment: int) -> None:
        self.native.drop(segment)
        self._context.wake.set()  # their records are to leave the directory

    def retire(self, segment: int, offsets: Words) -> None:
        self.native.retire(segment, np.ascontiguousarray(offsets))
        self._context.wake.set()

    # ---- publishing

    def publish(self, space: bytes, batch: Batch, tokens: tuple[Words, Words] | None) -> Statuses:
        """Status per page: one round trip to the directory. The caller has checked that the batch's memory is known."""
        self._check_slots(batch)
        context = self._context
        generation = context.generation(space)
        status: Statuses = np.full(len(batch), PageStatus.PENDING, dtype=np.uint8)
        left = np.arange(len(batch))
        if context.native is not None:  # one copy of a page is enough
            found, _ = context.native.find(batch.digests)
            status[found == PageStatus.HIT] = PageStatus.PRESENT
            left = np.flatnonzero(status == PageStatus.PENDING)
        if not len(left):
            return status
        some = batch.rows(left)
        values = (None, None) if tokens is None else (tokens[0][left], tokens[1][left])
        status[left], items = self.native.publish(
            space, generation, some.digests, some.addresses, some.lengths, *values
        )
        settled = self.publisher.publish(space, items, generation)
        for row in np.flatnonzero(status == PageStatus.STORED).tolist():
            status[row] = settled.get(batch.digests[row].tobytes(), PageStatus.STORED)
        context.count("publish", status, batch.totals)
        return status

    def _check_slots(self, batch: Batch) -> None:
        if batch.addresses.shape[1] != 1:
            raise InvalidArgument(
                f"a page that is published in place lies in one piece, not in {batch.addresses.shape[1]} parts: put it"
            )
        first, end = batch.addresses[:, 0], batch.addresses[:, 0] + batch.lengths[:, 0]
        with self._lock:
            shared = list(self._shared)
        good = np.zeros(len(batch), dtype=bool)
        for memory in shared:
            base, size = np.uint64(memory.address), np.uint64(memory.page)
            inside = (first >= base) & (end <= base + np.uint64(memory.nbytes))
            good |= inside & ((first - base) // size == (end - np.uint64(1) - base) // size)
        if not good.all():
            row = int(np.argmin(good))
            raise InvalidArgument(
                f"the page at {int(first[row]):#x}, {int(batch.totals[row])} bytes, does not lie inside one page of "
                "memory that was shared: call store.share(buffer, page) first"
            )

    # ---- what the directory had is taken out, and what it lacks is entered, by upkeep

    def sweep(self) -> None:
        """Pages whose token has changed are retired."""
        self.native.sweep(_SWEEP)

    def close(self) -> None:
        """Everything is taken back. Records that the directory does not hear of lead nowhere."""
        with self._lock:
            shared = list(self._shared)
        for memory in shared:
            try:
                memory.close()
            except TentError:
                pass  # the engine's own end waits for whoever is still inside
        try:
            while items := self.native.take_unpublish(_LAST):
                retire(self._context.directory, items)
        except DirectoryUnavailable:
            pass
