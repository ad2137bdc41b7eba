"""What a page store does on its own: its node record, publishing, reclaiming, generations, hits. One thread."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from tent_core import _native
from tent_core.engine import Peer
from tent_core.errors import DirectoryUnavailable, NameInUse, TentError
from tent_core.store.batch import Digests
from tent_core.store.context import Context
from tent_core.store.copies import fan_out
from tent_core.store.lookup import Messages
from tent_core.store.pace import LEAST_S, Pace
from tent_core.store.reason import PageStatus
from tent_core.store.retire import retire
from tent_core.store.tenants import Tenants
from tent_core.store.writer import Publisher, Writer

__all__ = ["Upkeep"]

log = logging.getLogger("tent.store")
_BATCH = 256  # pages in one directory operation
_GENERATIONS_S = 2.0
_HITS_S = 1.0
_SWEEP_S = 0.25  # between looks at the tokens of pages that were published in place
_SCRUB = 64  # pages that are looked at in one round
_RETRY_S = 0.25  # after the directory failed
_PER_NODE_S = 0.02


class Upkeep:
    """Never in a caller's way. ``close`` joins the thread."""

    def __init__(
        self, context: Context, publisher: Publisher, writer: Writer | None, node_ttl: float
    ) -> None:
        self._context = context
        self._publisher = publisher
        self._writer = writer
        self._refresh_s = node_ttl / 3
        self._stop = threading.Event()
        self._next_node = time.monotonic() + self._refresh_s
        self._next_generations = self._next_hits = 0.0
        self._pace = Pace()
        self._lives: int | None = 0  # of the directory, when it last knew all that is here
        self._owed = False  # it has lost something, and does not know it again yet
        self._name_taken = False
        self.tenants = Tenants(context)
        self._announced = context.pool()
        store = context.config.store
        self.needs_pools = store.place != "own" or store.replicas > 1 or store.fan_out > 0
        self._next_pools = 0.0
        self._thread = threading.Thread(target=self._run, name="tent-upkeep", daemon=True)

    def join(self) -> None:
        """Enters this node into the directory. Raises NameInUse; a directory that is away is told later."""
        context = self._context
        try:
            context.directory.put_node(context.name, context.incarnation, context.engine.descriptor())
            if (pool := context.pool()) is not None:
                context.pools.announce(pool)
            if self.needs_pools:
                context.pools.refresh()
        except DirectoryUnavailable as error:
            log.warning("%s; pages are misses until it returns", str(error))
            context.lost_directory()

    def start(self) -> None:
        """Once the node is in the directory, or is known not to be."""
        self._lives = self._context.directory.lives
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._context.wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                pause = self._round()
            except Exception:
                log.exception("upkeep of the page store failed; it goes on")
                pause = 1.0
            # A wake-up that is not followed by work would spin while the directory is away.
            if pause and not self._stop.wait(min(pause, LEAST_S)):
                self._context.wake.wait(max(0.0, pause - LEAST_S))

    def _round(self) -> float:
        """One look at everything. Returns how long there is nothing to do."""
        now = time.monotonic()
        if self._context.in_place is not None:
            self._context.in_place.sweep()
        try:
            if self._context.directory_lost.is_set() or now >= self._next_node:
                self._sign_of_life()
                self._next_node = now + self._refresh_s
            if self.needs_pools and now >= self._next_pools:
                self._context.pools.refresh()
                # The more nodes there are, the less often each asks for all of them.
                self._next_pools = now + self._refresh_s + _PER_NODE_S * len(self._context.pools.nodes)
            if now >= self._next_generations:
                self._poll_generations()
                self.tenants.learn()
                self._next_generations = now + _GENERATIONS_S
            more = self._unpublish()
            if self._pace.due:
                for pages, publisher in self._sources():
                    more = self._publish(pages, publisher) or more
        except DirectoryUnavailable:
            self._context.directory_lost.set()
            self._stop.wait(_RETRY_S)
            return 0.001
        more = self._scrub() or more
        fan_out(self._context)
        if self._writer is not None:
            more = self._make_room() or more
        if now >= self._next_hits:
            self._report_hits()
            self._next_hits = now + _HITS_S
        if more:
            return LEAST_S
        idle = min(self._next_node, self._next_generations) - time.monotonic()
        if self._context.in_place is not None:
            idle = min(idle, _SWEEP_S)
        if not self._pace.due:
            idle = min(idle, self._pace.next - time.monotonic())
        return max(LEAST_S, min(idle, _HITS_S) if self._context._hits else idle)

    def _sign_of_life(self) -> None:
        """Renews the node's record. A directory that has lost it, or its memory, has lost pages too."""
        context = self._context
        known = context.directory.get_node(context.name)
        away = context.directory_lost.is_set()
        context.directory_lost.clear()
        lives = context.directory.lives
        forgot = away if lives is None else lives != self._lives
        self._owed = self._owed or forgot or known is None
        try:
            context.directory.put_node(context.name, context.incarnation, context.engine.descriptor())
        except NameInUse as error:
            if not self._name_taken:
                log.error("this node's pages cannot be found any more: %s", str(error))
            self._name_taken = True
            return
        self._name_taken = False
        again, self._owed = self._owed, False
        try:
            self._announce(again)
        except DirectoryUnavailable:
            self._owed = again
            raise
        self._lives = lives
        if context.native is not None and again:
            log.info("the directory has lost what it knew: pages are published again")
            context.metrics.counter("store.republished").inc(context.native.stats()["pages"])
            context.native.enqueue_all()
        if context.in_place is not None and again:
            context.in_place.native.enqueue_all()
        context.peers.learn_rails()

    def _announce(self, again: bool) -> None:
        pool = self._context.pool()
        if pool is not None and (again or pool != self._announced):
            self._context.pools.announce(pool)
            self._announced = pool
        if again:
            self._context.note_spaces_again()
            for space in self._context.spaces():
                self._context.directory.keep_generation(space, self._context.generation(space))

    def _poll_generations(self) -> None:
        ssd = self._context.ssd  # None from the end on
        if ssd is not None:
            ssd.confirm()
        for space in self._context.spaces():
            self._context.saw_generation(space, self._context.directory.generation(space))

    def _unpublish(self) -> bool:
        """Takes out of the directory what was dropped here or leads nowhere. True if there may be more."""
        context = self._context
        ours: list[tuple[bytes, bytes]] = []
        for pages, _publisher in self._sources():
            ours += pages.take_unpublish(_BATCH - len(ours))
        dead = context.take_dead_records(_BATCH - len(ours))
        try:
            retire(context.directory, ours)
            context.directory.unpublish([(digest, record) for digest, record, left in dead if not left])
            context.directory.replace([item for item in dead if item[2]])
        except DirectoryUnavailable:
            context.dead_records([(digest, record, b"") for digest, record in ours])
            context.dead_records(dead)
            raise
        return len(ours) + len(dead) == _BATCH

    def _sources(self) -> list[tuple[Any, Publisher]]:
        """What this node has pages in, and who publishes them."""
        in_place = self._context.in_place
        found = [] if self._writer is None else [(self._context.native, self._publisher)]
        return found if in_place is None else [*found, (in_place.native, in_place.publisher)]

    def _publish(self, source: Any, publisher: Publisher) -> bool:
        pages = source.take_unpublished(_BATCH)
        if not pages:
            return False
        groups: dict[tuple[bytes, int], list[tuple[bytes, bytes]]] = {}
        for space, generation, digest, record in pages:
            groups.setdefault((space, generation), []).append((digest, record))
        started = time.monotonic()
        while groups:
            (space, generation), items = groups.popitem()
            try:
                settled = publisher.publish(space, items, generation, raises=True)
            except DirectoryUnavailable:
                self._pace.failed()
                publisher.later([digest for rest in groups.values() for digest, _ in rest])
                raise
            lost = sum(status != PageStatus.STORED for status in settled.values())
            self._context.metrics.counter("store.published").inc(len(items) - lost)
        if len(pages) == _BATCH:
            self._pace.took(time.monotonic() - started)
        return len(pages) == _BATCH

    def _make_room(self) -> bool:
        assert self._writer is not None
        stats = self._context.native.stats()
        if stats["free_extents"] >= self._writer.low_water or not stats["sealed_extents"]:
            return False
        return self._writer.reclaim()

    def _report_hits(self) -> None:
        for (name, incarnation), digests in self._context.take_hits().items():
            self._tell((name, incarnation), Messages.HITS, digests)

    def _tell(self, owner: tuple[str, bytes], method: int, digests: Digests) -> None:
        peer = self._context.peers.connected().get(owner)
        if not isinstance(peer, Peer):
            return
        for start in range(0, len(digests), Messages.MOST):
            try:
                peer.call(method, _native.digests_request(digests[start : start + Messages.MOST]), 1.0)
            except TentError:
                break  # a courtesy

    def _scrub(self) -> bool:
        """Bad pages of others are reported, and our own that others report are looked at. True if there may be more."""
        for owner, digests in self._context.take_bad().items():
            self._tell(owner, Messages.DOUBT, digests)
        return self._context.native is not None and bool(self._context.native.scrub(_SCRUB) == _SCRUB)
