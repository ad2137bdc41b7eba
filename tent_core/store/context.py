"""What the parts of a page store share."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from tent_core import _native
from tent_core.engine import Engine, Segment
from tent_core.errors import DirectoryUnavailable
from tent_core.metrics import Counter, Registry
from tent_core.store.batch import Digests, Statuses, Words
from tent_core.store.peers import Peers
from tent_core.store.pools import Pool, Pools
from tent_core.store.reason import PageStatus
from tent_core.topology.host import host_identity
from tent_metadata import Directory

__all__ = ["Context", "Deadline"]

_NEAR_NS = 200_000  # for a MiB through shared memory
_KEPT = 65536  # records to delete, or hits to report, that wait; beyond it the oldest are forgotten


class Deadline:
    """A point in time that an operation must keep to."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.left <= 0.0


class Wake:
    """Wakes upkeep: by us, or by what peers commit to the native store."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self._event = threading.Event()

    def set(self) -> None:
        if self._native is None:
            self._event.set()
        else:
            self._native.wake()

    def wait(self, seconds: float) -> None:
        if self._native is None:
            self._event.wait(seconds)
            self._event.clear()
        else:
            self._native.wait_work(seconds)


class Context:
    """The engine, the directory, the native store (None without memory of our own), and what waits for upkeep."""

    def __init__(
        self,
        engine: Engine,
        directory: Directory,
        native: Any,
        metrics: Registry,
        config: Any,
        peers: Peers,
        segment: Segment | None,
        daemon: bool,
    ) -> None:
        self.engine = engine
        self.directory = directory
        self.native = native
        self.metrics = metrics
        self.config = config
        self.peers = peers
        # Pages of other hosts that are read again and again; None where they get no copies here.
        self.hot = _native.HotPages(config.store.fan_out) if config.store.fan_out else None
        self._hot_pages: deque[tuple[bytes, int, Digests]] = deque(maxlen=1024)
        self.name = engine.name
        self.incarnation = engine.incarnation
        self.pools = Pools(directory, engine.name, config.node.host_identity or host_identity())
        self.pool_address = 0 if segment is None else segment.address
        self._pool_bytes = 0 if segment is None else segment.nbytes
        self._daemon = daemon
        self.wake = Wake(native)  # there is something to do for upkeep
        self.directory_lost = threading.Event()  # an operation failed since the last republish
        self.ssd: Any = None  # pages on this node's disk, where it keeps some
        self.in_place: Any = None  # pages that lie in memory of this process's own, where some were shared
        self._lock = threading.Lock()
        self._generations: dict[bytes, int] = {}
        self._facts: dict[bytes, bytes] = {}
        self._dead_records: deque[tuple[bytes, bytes, bytes]] = deque(maxlen=_KEPT)
        self._hits: dict[tuple[str, bytes], list[Digests]] = {}
        self._hit_count = 0
        self._bad: dict[tuple[str, bytes], list[Digests]] = {}
        self._counters: dict[tuple[str, int], Counter] = {}

    # ---- generations

    def generation(self, space: bytes) -> int:
        """The namespace's generation, as far as this node knows."""
        return self._generations.get(space, 0)

    def knows(self, space: bytes) -> bool:
        return space in self._generations

    def saw_generation(self, space: bytes, generation: int) -> int:
        """Takes over a generation; when it rose, our own older pages are dropped. Returns the one that counts."""
        known = self._generations.get(space)
        if known is not None and generation <= known:
            return known
        with self._lock:
            generation = max(generation, self._generations.get(space, 0))
            self._generations[space] = generation
        if self.native is not None and generation > 0:
            self.native.clear(space, generation)
            self.wake.set()
        if self.in_place is not None and generation > 0:
            self.in_place.native.clear(space, generation)
            self.wake.set()
        return generation

    def find_own(self, digests: Digests) -> tuple[Statuses, Words]:
        """HIT or a miss per page, by what this node itself knows that it has; and their lengths. No I/O."""
        status = np.full(len(digests), PageStatus.ABSENT, dtype=np.uint8)
        lengths = np.zeros(len(digests), dtype=np.uint64)
        if self.native is not None:
            status, lengths = self.native.find(digests)
        left = np.flatnonzero(status != PageStatus.HIT) if self.in_place is not None else ()
        if len(left):
            found, sizes = self.in_place.native.find(np.ascontiguousarray(digests[left]))
            here = found == PageStatus.HIT
            status[left[here]] = PageStatus.HIT
            lengths[left[here]] = sizes[here]
        return status, lengths

    @property
    def owns_pages(self) -> bool:
        return self.native is not None or self.in_place is not None

    def spaces(self) -> list[bytes]:
        with self._lock:
            return list(self._generations)

    def note_space(self, digest: bytes, facts: bytes) -> None:
        """What a namespace stands for, for people; with the directory away it is noted when that returns."""
        self._facts[digest] = facts
        try:
            self.directory.put_space(digest, facts)
        except DirectoryUnavailable:
            self.lost_directory()

    def note_spaces_again(self) -> None:
        """Raises DirectoryUnavailable."""
        for digest, facts in list(self._facts.items()):
            self.directory.put_space(digest, facts)

    def costs(self) -> list[tuple[str, bytes, int]]:
        """What reading a MiB takes of nodes with a page's replicas, in nanoseconds: what is expected of the links there
        are, and of nodes of this host that are not connected yet, less than of any other."""
        found = self.peers.costs()
        known = {(name, incarnation) for name, incarnation, _ in found}
        near = [
            (pool.node, pool.incarnation, _NEAR_NS)
            for pool in list(self.pools.known.values())
            if pool.host == self.pools.host and (pool.node, pool.incarnation) not in known
        ]
        return found + near

    # ---- what this node gives

    def pool(self) -> Pool | None:
        """This node's part of the pool, as others are told of it."""
        if self.native is None:
            return None
        return Pool(
            self.name,
            self.incarnation,
            self.pools.host,
            self._pool_bytes,
            self.config.store.extent,
            self._daemon,
            bool(self.native.asked_to_drain),
        )

    # ---- for upkeep

    def dead_records(self, items: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """``(digest, record, what is left of it)``: replicas that lead nowhere are taken out by upkeep, and the record
        with its last one (what is left is then empty). Compared first."""
        self._dead_records.extend(items)

    def take_dead_records(self, most: int) -> list[tuple[bytes, bytes, bytes]]:
        found: list[tuple[bytes, bytes, bytes]] = []
        while self._dead_records and len(found) < most:
            found.append(self._dead_records.popleft())
        return found

    def note_hits(self, peer: tuple[str, bytes], digests: Digests) -> None:
        """Pages read one-sided: their owner is told by upkeep, so that it keeps them."""
        with self._lock:
            if self._hit_count < _KEPT:
                self._hits.setdefault(peer, []).append(digests)
                self._hit_count += len(digests)

    def note_reads(self, space: bytes, owner: str, digests: Digests) -> None:
        """Pages read of another node. Those that became hot with it get a copy on this host, by upkeep."""
        pool = self.pools.known.get(owner)
        if self.hot is None or pool is None or pool.host == self.pools.host:
            return
        hot = self.hot.touch(digests)
        if len(hot):
            self._hot_pages.append((space, self.generation(space), np.ascontiguousarray(digests[hot])))
            self.wake.set()

    def take_hot_pages(self) -> list[tuple[bytes, int, Digests]]:
        found = []
        while self._hot_pages:
            found.append(self._hot_pages.popleft())
        return found

    def note_bad(self, peer: tuple[str, bytes], digests: Digests) -> None:
        """Pages whose bytes do not fit their checks by whatever link: their owner is to look."""
        with self._lock:
            if len(self._bad) < _KEPT:
                self._bad.setdefault(peer, []).append(digests)
        self.wake.set()

    def take_bad(self) -> dict[tuple[str, bytes], Digests]:
        with self._lock:
            bad, self._bad = self._bad, {}
        return {peer: np.concatenate(parts) for peer, parts in bad.items()}

    def take_hits(self) -> dict[tuple[str, bytes], Digests]:
        with self._lock:
            hits, self._hits, self._hit_count = self._hits, {}, 0
        return {peer: np.concatenate(parts) for peer, parts in hits.items()}

    def lost_directory(self) -> None:
        self.metrics.counter("store.directory.failures").inc()
        self.directory_lost.set()
        self.wake.set()

    # ---- counting

    def count(self, operation: str, status: Statuses, totals: Words | None = None) -> None:
        """Pages by status, and bytes moved."""
        if totals is not None and len(status) and not status.any():  # all of them HIT: the usual case
            self._counter(operation, 0).inc(len(status))
            self._bytes(operation).inc(int(totals.sum()))
            return
        numbers = np.bincount(status)
        for value in np.flatnonzero(numbers).tolist():
            self._counter(operation, value).inc(int(numbers[value]))
        if totals is not None:
            moved = (status == PageStatus.HIT) | (status == PageStatus.STORED)
            self._bytes(operation).inc(int(totals.sum() if moved.all() else totals[moved].sum()))

    def _counter(self, operation: str, status: int) -> Counter:
        found = self._counters.get((operation, status))
        if found is None:
            name = PageStatus(status).name.lower()
            found = self.metrics.counter("store.pages", op=operation, status=name)
            self._counters[operation, status] = found
        return found

    def _bytes(self, operation: str) -> Counter:
        found = self._counters.get((operation, -1))
        if found is None:
            found = self._counters[operation, -1] = self.metrics.counter("store.bytes", op=operation)
        return found
