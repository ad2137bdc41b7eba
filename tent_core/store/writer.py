"""Putting pages into this node's own memory, and publishing them: one round trip to the directory for a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tent_core import _native
from tent_core.errors import DirectoryUnavailable
from tent_core.store.batch import Batch, Digests, Statuses, Words
from tent_core.store.context import Context, Deadline
from tent_core.store.reason import PageStatus
from tent_core.store.retire import retire
from tent_core.store.transfer import Control

__all__ = ["Publisher", "Writer", "digest_array", "low_water"]

Item = tuple[bytes, bytes]  # digest, record


def digest_array(digests: Sequence[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)


def low_water(extents: int) -> int:
    """Of so many extents those that upkeep keeps free, so that a put need not wait for the directory."""
    return 0 if extents < 4 else max(2, min(8, extents // 64))


class Publisher:
    """Enters records into the directory and settles what it answers. Any thread."""

    def __init__(self, context: Context, pages: Any) -> None:
        """``pages``: the native store, or what stands in for it, that the records are of."""
        self._context = context
        self._pages = pages
        # Called with namespace, generation and digests of pages that the directory has now and had not before.
        self.on_new: Callable[[bytes, int, Digests], None] | None = None

    def publish(
        self, space: bytes, items: list[Item], generation: int, *, raises: bool = False
    ) -> dict[bytes, PageStatus]:
        """Digest -> STORED, PRESENT (another's page stays, ours is dropped) or CLEARED. With the directory away pages
        stay here, are STORED, and wait for it; where it ``raises``, DirectoryUnavailable says so."""
        if not items:
            return {}
        try:
            answers = self._context.directory.publish(space, items, generation)
        except DirectoryUnavailable:
            self._context.lost_directory()
            self.later([digest for digest, _ in items])
            if raises:
                raise
            return {digest: PageStatus.STORED for digest, _ in items}
        result: dict[bytes, PageStatus] = {}
        entered: list[Item] = []
        refused: list[Item] = []
        conflicts: list[tuple[bytes, bytes, bytes]] = []  # digest, the record that is there, ours
        for item, answer in zip(items, answers, strict=True):
            if answer is True:
                entered.append(item)
                result[item[0]] = PageStatus.STORED
            elif answer is False:
                refused.append(item)
            else:
                conflicts.append((item[0], answer, item[1]))
        self._confirm(entered)
        if self.on_new is not None and entered:
            self.on_new(space, generation, digest_array([digest for digest, _ in entered]))
        result.update(self._settle(conflicts, generation))
        if refused:
            result.update(self._refused(space, refused, generation))
        return result

    def _confirm(self, entered: list[Item]) -> None:
        """Pages that were evicted while they were being published must not stay in the directory."""
        if not entered:
            return
        for position in self._pages.confirm(digest_array([digest for digest, _ in entered])):
            digest, record = entered[position]
            self._context.dead_records([(digest, record, b"")])
            self._context.wake.set()

    def _settle(
        self, conflicts: list[tuple[bytes, bytes, bytes]], generation: int
    ) -> dict[bytes, PageStatus]:
        """What becomes of pages whose record is there already: it stands, or it is of the same version and takes ours
        in as one more replica, or it is dead and ours takes its place."""
        result: dict[bytes, PageStatus] = {}
        gone: dict[tuple[str, bytes], bool] = {}
        dead = []
        for digest, there, ours in conflicts:
            merged = _native.record_with(there, ours)
            if merged is not None:
                dead.append((digest, there, merged))
            elif self._holds(there, generation, gone):
                result[digest] = PageStatus.PRESENT
            else:
                dead.append((digest, there, ours))
        if result:
            self._drop(list(result))
        if not dead:
            return result
        try:
            replaced = self._context.directory.replace(dead)
        except DirectoryUnavailable:
            self._context.lost_directory()
            replaced = [False] * len(dead)
        self._confirm([(digest, new) for (digest, _, new), good in zip(dead, replaced, strict=True) if good])
        # Where somebody else was faster, the next attempt sees whom.
        faster = [digest for (digest, _, _), good in zip(dead, replaced, strict=True) if not good]
        if faster:
            self.later(faster)
        result.update((digest, PageStatus.STORED) for digest, _, _ in dead)
        return result

    def _holds(self, existing: bytes, generation: int, gone: dict[tuple[str, bytes], bool]) -> bool:
        """Does the record that is there stand, against one of ours? ``gone``: what this batch knows of owners."""
        status = int(_native.decode_records([existing], "", generation)[0][0])
        if status == PageStatus.VERSION:
            return True  # not ours to judge
        info = _native.record_info(existing) if status == PageStatus.HIT else None
        if info is None:
            return False
        for name, incarnation, *_ in info["replicas"]:
            if name == self._context.name:
                continue  # an older record of ours: the page has moved, or we have restarted
            if (name, incarnation) not in gone:
                gone[name, incarnation] = self._context.peers.is_gone(name, incarnation)
            if not gone[name, incarnation]:
                return True
        return False

    def _refused(self, space: bytes, items: list[Item], generation: int) -> dict[bytes, PageStatus]:
        digests = [digest for digest, _ in items]
        try:
            now = self._context.directory.generation(space)
        except DirectoryUnavailable:
            now = generation
        if self._context.saw_generation(space, now) > generation:
            self._drop(digests)
            return dict.fromkeys(digests, PageStatus.CLEARED)
        self.later(digests)  # that shard is down, or full
        return dict.fromkeys(digests, PageStatus.STORED)

    def _drop(self, digests: list[bytes]) -> None:
        self._pages.remove(digest_array(digests))

    def later(self, digests: list[bytes]) -> None:
        """Upkeep publishes these of our pages."""
        if digests:
            self._pages.enqueue(digest_array(digests))
            self._context.wake.set()


class Writer:
    """Puts into the local pool. Any thread."""

    def __init__(self, context: Context, publisher: Publisher) -> None:
        self._context = context
        self._publisher = publisher
        self._reclaiming = threading.Lock()
        stats = context.native.stats()
        self._extents = int(stats["extents"])
        self._move_bytes = int(stats["extent_bytes"])  # the store itself bounds what is moved

    def put(
        self,
        space: bytes,
        batch: Batch,
        tokens: tuple[Words, Words] | None,
        deadline: Deadline,
        control: Control,
    ) -> Statuses:
        """Status per page; ``tokens``: addresses of stability counters, and what they read at the call."""
        context = self._context
        generation = context.generation(space)
        status, items = self._store(space, generation, batch, tokens)
        status = self._retry_full(space, generation, batch, tokens, status, items, deadline, control)
        if items:
            settled = self._publisher.publish(space, items, generation)
            if any(answer != PageStatus.STORED for answer in settled.values()):
                for row in np.flatnonzero(status == PageStatus.STORED).tolist():
                    status[row] = settled.get(batch.digests[row].tobytes(), PageStatus.STORED)
        context.count("put", status, batch.totals)
        if context.native.free_extents < self.low_water:
            context.wake.set()
        return status

    def _store(
        self, space: bytes, generation: int, batch: Batch, tokens: tuple[Words, Words] | None
    ) -> tuple[Statuses, list[Item]]:
        addresses, values = tokens if tokens is not None else (None, None)
        status, items = self._context.native.put(
            space, generation, batch.digests, batch.addresses, batch.lengths, addresses, values, ttl=batch.ttl
        )
        return status, items

    def _retry_full(
        self,
        space: bytes,
        generation: int,
        batch: Batch,
        tokens: tuple[Words, Words] | None,
        status: Statuses,
        items: list[Item],
        deadline: Deadline,
        control: Control,
    ) -> Statuses:
        """Makes room and tries again the pages that found none, in order."""
        full = np.flatnonzero(status == PageStatus.NO_SPACE)
        rounds = self._extents
        while len(full) and rounds and not control.cancelled and not deadline.passed:
            rounds -= 1
            if not self.reclaim():
                break
            some = None if tokens is None else (tokens[0][full], tokens[1][full])
            status[full], more = self._store(space, generation, batch.rows(full), some)
            items.extend(more)
            full = np.flatnonzero(status == PageStatus.NO_SPACE)
        return status

    @property
    def low_water(self) -> int:
        return low_water(self._extents)

    def reclaim(self) -> bool:
        """Empties an extent: its pages leave the directory before its memory is used again. False when none
        can be emptied. One at a time; whoever waited finds the room that the other made."""
        waited = not self._reclaiming.acquire(blocking=False)
        if waited:
            self._reclaiming.acquire()
        try:
            native = self._context.native
            if waited and native.free_extents > 1:
                return True
            started = native.begin_reclaim(self._move_bytes)
            if started is None:
                return False
            extent, unpublish, moved = started
            try:
                self._unpublish(unpublish, moved)
            finally:
                native.finish_reclaim(extent)
            return True
        finally:
            self._reclaiming.release()

    def _unpublish(self, unpublish: list[Item], moved: list[tuple[bytes, bytes, bytes]]) -> None:
        """With the directory away the records stay: epoch and incarnation tell their readers."""
        directory = self._context.directory
        try:
            retire(directory, unpublish)
            if moved:
                answers = directory.replace(moved)
                lost = [item[0] for item, good in zip(moved, answers, strict=True) if not good]
                if lost:
                    self._context.native.enqueue(digest_array(lost))
        except DirectoryUnavailable:
            self._context.lost_directory()
            if moved:  # those have another place to be found at
                self._context.native.enqueue(digest_array([item[0] for item in moved]))
            self._context.metrics.counter("store.unpublish.failed").inc(len(unpublish) + len(moved))
