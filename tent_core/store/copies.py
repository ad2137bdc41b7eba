"""Copies of pages: fetching those that this node is asked to keep, asking others to keep ours. One thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

import numpy as np

from tent_core import _native
from tent_core.engine import Peer
from tent_core.errors import DirectoryUnavailable, TentError
from tent_core.store.batch import Batch, Digests, Rows, Statuses, Words
from tent_core.store.context import Context, Deadline
from tent_core.store.lookup import Located, Messages, locate
from tent_core.store.pools import Pool
from tent_core.store.reader import Reader
from tent_core.store.reason import PageStatus
from tent_core.store.transfer import Control
from tent_core.store.writer import Writer, digest_array

__all__ = ["Copies", "ask", "fan_out", "spread"]

log = logging.getLogger("tent.store")
_BATCH = 256
_FETCH_S = 30.0
_ASK_S = 2.0
_TICK_S = 0.1  # between looks at what was put, where pages have copies
_SCAN_S = 60.0  # between looks at all pages, for copies that got lost without anybody's noticing
_MOST_COPIES = 8  # of one page: a record has room for no more
_KEPT = 1024  # batches of new pages that wait to be spread

Group = tuple[bytes, int, Digests]  # namespace, generation, pages


def ranked(digests: Digests, pools: list[Pool]) -> list[list[int]]:
    """For each page all pools (by position), its first choice first: by highest random weight, so that a pool that
    comes or goes moves no other pool's pages."""
    if not pools:
        return [[] for _ in range(len(digests))]
    heads = np.ascontiguousarray(digests[:, :8]).view(np.uint64).ravel()
    seeds = np.array([_hash_of(pool.node) for pool in pools], dtype=np.uint64)
    weights = (heads[:, None] ^ seeds[None, :]) * np.uint64(0x9E3779B97F4A7C15)
    weights ^= weights >> np.uint64(29)
    weights *= np.uint64(0xBF58476D1CE4E5B9)
    order = np.argsort(-(weights >> np.uint64(1)).astype(np.int64), axis=1)
    rows: list[list[int]] = order.tolist()
    return rows


def spread(digests: Digests, pools: list[Pool], copies: int) -> list[list[int]]:
    """For each page the pools (by position) that its copies go to, on as many hosts."""
    chosen: list[list[int]] = []
    for row in ranked(digests, pools):
        hosts: set[str] = set()
        mine: list[int] = []
        for position in row:
            if len(mine) < copies and pools[position].host not in hosts:
                hosts.add(pools[position].host)
                mine.append(position)
        chosen.append(mine)
    return chosen


def _hash_of(name: str) -> int:
    return int.from_bytes(_native.page_digests(bytes(16), [name.encode()[:256]])[0, :8].tobytes(), "little")


def ask(context: Context, pool: Pool, group: Group, copies: int) -> Statuses | None:
    """Asks a node to fetch copies of these pages, unless there are ``copies``. None: it did not answer."""
    space, generation, digests = group
    peer = context.peers.get(pool.node, pool.incarnation, _ASK_S)
    if not isinstance(peer, Peer):
        return None
    try:
        reply = peer.call(Messages.ADOPT, _native.adopt_request(space, generation, copies, digests), _ASK_S)
        answers: Statuses = _native.statuses_reply(reply)
    except TentError:
        return None
    return answers if len(answers) == len(digests) else None


def fan_out(context: Context) -> None:
    """Pages of other hosts that are read again and again here get a copy: in the `tent node` of this host, else in our
    own memory. Whoever fetches it finds the other hosts' copies by the directory."""
    for space, generation, digests in context.take_hot_pages():
        home = context.pools.known.get(context.pools.home or "")
        if home is not None:
            ask(context, home, (space, generation, digests), _MOST_COPIES)
        elif context.native is not None:
            context.native.want(space, generation, _MOST_COPIES, digests)
        else:
            continue
        context.metrics.counter("store.fan_out.pages").inc(len(digests))


class Copies:
    """``close`` joins the thread."""

    def __init__(self, context: Context, reader: Reader, writer: Writer, copies: int) -> None:
        self._context = context
        self._reader = reader
        self._writer = writer
        self._copies = copies
        self._new: deque[Group] = deque(maxlen=_KEPT)
        self._next_scan = time.monotonic() + _SCAN_S
        self._thread = threading.Thread(target=self._run, name="tent-copies", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._context.native.stop_waiting()
        if self._thread.is_alive():
            self._thread.join()

    def put_here(self, space: bytes, generation: int, digests: Digests) -> None:
        """These pages are new in this node's memory and in the directory."""
        if self._copies > 1 and len(digests):
            self._new.append((space, generation, digests))

    def _run(self) -> None:
        pause = _TICK_S if self._copies > 1 else 60.0
        while self._context.native.wait_wanted(pause):
            try:
                self._fetch_wanted()
                if self._copies > 1:
                    self._spread_new()
                    self._repair()
            except DirectoryUnavailable:
                self._context.lost_directory()
            except Exception:
                log.exception("copying pages failed; it goes on")

    # ---- fetching what others want us to keep

    def _fetch_wanted(self) -> None:
        groups: dict[tuple[bytes, int, int], list[bytes]] = {}
        for space, generation, copies, digest in self._context.native.take_wanted(_BATCH):
            groups.setdefault((space, generation, copies), []).append(digest)
        for (space, generation, copies), digests in groups.items():
            self._fetch(space, generation, copies, digest_array(list(dict.fromkeys(digests))))

    def _fetch(self, space: bytes, generation: int, copies: int, digests: Digests) -> None:
        context = self._context
        located = locate(context, space, digests, None)
        wanted = located.status == PageStatus.HIT
        if copies:
            wanted &= located.replicas < copies
        mine = [name == context.name for name, _ in located.nodes]
        wanted &= ~np.array([*mine, False])[np.minimum(located.node, len(mine))]
        rows: Rows = np.flatnonzero(wanted)
        rows, slots = self._room(located, rows)
        if not len(rows):
            return
        stored = self._bring(space, generation, located.rows(rows), slots)
        context.metrics.counter("store.copies.fetched").inc(stored)
        context.wake.set()  # they are to be published

    def _room(self, located: Located, rows: Rows) -> tuple[Rows, Words]:
        """Slots for the pages, as far as there is room or room can be made."""
        native = self._context.native
        got: list[Rows] = []
        slots: list[Words] = []
        while len(rows):
            status, some = native.reserve(np.ascontiguousarray(located.length[rows]))
            good = status == PageStatus.STORED
            got.append(rows[good])
            slots.append(some[good])
            rows = rows[status == PageStatus.NO_SPACE]
            if not len(rows) or not self._writer.reclaim():
                break
        if not got:
            return rows, np.zeros((0, 4), dtype=np.uint64)
        return np.concatenate(got), np.concatenate(slots)

    def _bring(self, space: bytes, generation: int, located: Located, slots: Words) -> int:
        """Straight into the slots, verified, then committed under the version that they are."""
        context = self._context
        base = context.pool_address
        where = (slots[:, 2] + np.uint64(base))[:, None]
        lengths = np.ascontiguousarray(located.length)
        batch = Batch(
            located.digests, np.ascontiguousarray(where), np.ascontiguousarray(lengths[:, None]), lengths
        )
        try:
            status = self._reader.get(
                space, batch, located, Deadline(_FETCH_S), "bulk", Control(), same_version=True
            )
        except TentError:
            context.native.abort(slots)
            raise
        good = status == PageStatus.HIT
        context.native.abort(np.ascontiguousarray(slots[~good]))
        if not good.any():
            return 0
        stored = context.native.commit_copies(
            space,
            generation,
            np.ascontiguousarray(slots[good]),
            np.ascontiguousarray(located.digests[good]),
            np.ascontiguousarray(located.version[good]),
            np.ascontiguousarray(located.check[good]),
        )
        return int((stored == PageStatus.STORED).sum())

    # ---- asking others to keep ours

    def _spread_new(self) -> None:
        groups: list[Group] = []
        while self._new and len(groups) < _KEPT:
            groups.append(self._new.popleft())
        for group in groups:
            self._spread(group, self._copies - 1)

    def _spread(self, group: Group, missing: int, without: frozenset[str] = frozenset()) -> None:
        """``without``: hosts that have the pages already."""
        space, generation, digests = group
        here = self._context.pools.host
        pools = [p for p in self._context.pools.others() if p.host != here and p.host not in without]
        chosen = spread(digests, pools, missing)
        for position, pool in enumerate(pools):
            rows = np.array([i for i, mine in enumerate(chosen) if position in mine], dtype=np.intp)
            for start in range(0, len(rows), Messages.MOST):
                some = np.ascontiguousarray(digests[rows[start : start + Messages.MOST]])
                if ask(self._context, pool, (space, generation, some), self._copies) is None:
                    self._context.metrics.counter("store.copies.not_asked").inc(len(some))
                else:
                    self._context.metrics.counter("store.copies.asked").inc(len(some))

    # ---- copies that got lost

    def _repair(self) -> None:
        lost = self._context.pools.lost
        if not lost.is_set() and time.monotonic() < self._next_scan:
            return
        lost.clear()
        self._context.pools.refresh()  # who is not in there counts as dead
        self._next_scan = time.monotonic() + _SCAN_S
        cursor = 0
        while True:
            cursor, _segment, digests, spaces, generations, *_ = self._context.native.list(cursor, _BATCH)
            for space, generation in {
                (s.tobytes(), int(g)) for s, g in zip(spaces, generations, strict=True)
            }:
                rows = (spaces == np.frombuffer(space, dtype=np.uint8)).all(axis=1) & (
                    generations == generation
                )
                self._mend((space, generation, np.ascontiguousarray(digests[rows])))
            if not cursor or not self._context.native.wait_wanted(0):
                return

    def _mend(self, group: Group) -> None:
        """Dead replicas leave the records; pages with too few are spread again by the first node that has them."""
        space, generation, digests = group
        context = self._context
        records, _ = context.directory.lookup(space, digests)
        few: dict[frozenset[str], list[bytes]] = {}
        stripped: list[tuple[bytes, bytes, bytes]] = []
        for digest, record in zip(digests, records, strict=True):
            info = None if record is None else _native.record_info(record)
            if record is None or info is None:
                continue
            nodes = [(name, incarnation) for name, incarnation, *_ in info["replicas"]]
            alive = [context.pools.nodes.get(name) == incarnation for name, incarnation in nodes]
            live = [name for (name, _), lives in zip(nodes, alive, strict=True) if lives]
            if live and len(live) < len(nodes):
                dead = sum(1 << i for i, lives in enumerate(alive) if not lives)
                stripped.append((digest.tobytes(), record, _native.record_without(record, dead)))
            if live and live[0] == context.name and len(live) < self._copies:
                known = context.pools.known
                hosts = frozenset(known[name].host for name in live if name in known)
                few.setdefault(hosts, []).append(digest.tobytes())
        context.directory.replace(stripped)  # first: who is asked counts the replicas of a record
        for hosts, some in few.items():
            context.metrics.counter("store.copies.repaired").inc(len(some))
            self._spread((space, generation, digest_array(some)), self._copies - len(hosts), hosts)
