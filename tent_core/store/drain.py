"""A node that leaves: its pages go to others first, those that are read most before the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tent_core import _native
from tent_core.errors import DirectoryUnavailable, SegmentGone
from tent_core.store.batch import Digests, Words
from tent_core.store.context import Context
from tent_core.store.copies import ask, ranked
from tent_core.store.pools import Pool
from tent_core.store.reason import PageStatus

__all__ = ["Drained", "drain"]

log = logging.getLogger("tent.store")
_BATCH = 512
_POLL_S = 0.01
_BATCH_S = 5.0  # for how long a batch's copies are waited for, each time it is asked for
_TRIES = 2
_LAST_S = 5.0  # for the last records to leave the directory


@dataclass
class Drained:
    """What became of the pages."""

    pages: int = 0  # there were
    moved: int = 0  # another node has them
    lost: int = 0  # nobody took them: they are computed again when they are wanted
    kept: int = 0  # nobody took them, and they are on the node's disk when it starts again

    @property
    def left(self) -> int:
        return self.pages - self.moved - self.lost - self.kept


@dataclass
class _Pages:
    """Rows of one namespace and generation, by falling number of hits."""

    space: bytes
    generation: int
    digests: Digests


def drain(context: Context, deadline: float, progress: Callable[[Drained], None]) -> Drained:
    """Moves the pages until ``time.monotonic()`` passes ``deadline``; what then remains is dropped. From the start on
    nothing new is taken. Never raises for a fault of the world: pages that cannot be moved are lost, and counted."""
    native = context.native
    native.ask_to_drain()
    _announce(context)
    done = Drained()
    batches = _by_heat(context)
    done.pages = sum(len(batch.digests) for batch in batches)
    progress(done)
    for batch in batches:
        moved = _move(context, batch, deadline) if time.monotonic() < deadline else 0
        done.moved += moved
        left = len(batch.digests) - moved
        on_disk = native.leave(batch.digests, max(0.0, deadline - time.monotonic()))
        done.kept += min(left, on_disk)
        done.lost += left - min(left, on_disk)
        context.wake.set()
        progress(done)
    if context.ssd is not None:
        context.ssd.retire(deadline)
    _wait_unpublished(context)
    return done


def _announce(context: Context) -> None:
    """The others hear of it now, not with the next sign of life."""
    pool = context.pool()
    try:
        if pool is not None:
            context.pools.announce(pool)
    except (DirectoryUnavailable, SegmentGone):
        context.lost_directory()


def _by_heat(context: Context) -> list[_Pages]:
    """Everything that the node has, the most read first, in batches of one namespace."""
    columns: list[tuple[Digests, Digests, Words, Words]] = []
    cursor, more = 0, True
    while more:
        cursor, _segment, digests, spaces, generation, _o, _l, _c, _e, hits, _p = context.native.list(
            cursor, 1024
        )
        columns.append((digests, spaces, generation, hits))
        more = cursor != 0
    digests, spaces, generation, hits = (np.concatenate([c[i] for c in columns]) for i in range(4))
    order = np.argsort(-hits.astype(np.int64), kind="stable")
    batches: list[_Pages] = []
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        groups: dict[tuple[bytes, int], list[int]] = {}
        for row in rows.tolist():
            groups.setdefault((spaces[row].tobytes(), int(generation[row])), []).append(row)
        for (space, number), some in groups.items():
            batches.append(_Pages(space, number, np.ascontiguousarray(digests[some])))
    return batches


def _move(context: Context, batch: _Pages, deadline: float) -> int:
    """How many of the pages others have, in the end."""
    left = batch.digests
    for attempt in range(_TRIES):
        try:
            context.pools.refresh()
            pools = context.pools.others()
            left = _without_moved(context, batch.space, left)
            if not len(left) or not pools:
                break
            taken = _ask_all(context, batch, left, pools, attempt)
            _wait_moved(context, batch.space, taken, min(deadline, time.monotonic() + _BATCH_S))
            left = _without_moved(context, batch.space, left)
        except DirectoryUnavailable:
            context.lost_directory()
            time.sleep(_POLL_S)
        if not len(left) or time.monotonic() >= deadline:
            break
    return len(batch.digests) - len(left)


def _ask_all(context: Context, batch: _Pages, digests: Digests, pools: list[Pool], attempt: int) -> Digests:
    """Each page's own first choice, in the next attempt its second; where that does not take it, the one after. Returns
    the pages that were taken on."""
    choices = ranked(digests, pools)
    turns = [attempt] * len(digests)
    taken: list[int] = []
    left = list(range(len(digests)))
    refused: set[int] = set()
    while left and len(refused) < len(pools):
        asked: dict[int, list[int]] = {}
        for row in left:
            while (choice := choices[row][turns[row] % len(pools)]) in refused:
                turns[row] += 1
            asked.setdefault(choice, []).append(row)
        left = []
        for position, rows in asked.items():
            answers = ask(
                context, pools[position], (batch.space, batch.generation, _rows_of(digests, rows)), 0
            )
            if answers is None or (answers == PageStatus.REFUSED).any():
                log.info("node %r takes no more pages of this one", pools[position].node)
                refused.add(position)
                left += rows
            else:
                taken += rows
    return _rows_of(digests, taken)


def _rows_of(digests: Digests, rows: list[int]) -> Digests:
    return np.ascontiguousarray(digests[rows])


def _without_moved(context: Context, space: bytes, digests: Digests) -> Digests:
    """The pages that nobody else has by the directory."""
    records, _ = context.directory.lookup(space, digests)
    alone = [row for row, record in enumerate(records) if not _elsewhere(context, record)]
    return _rows_of(digests, alone)


def _elsewhere(context: Context, record: bytes | None) -> bool:
    info = None if record is None else _native.record_info(record)
    return info is not None and any(
        name != context.name and context.pools.nodes.get(name) == incarnation
        for name, incarnation, *_ in info["replicas"]
    )


def _wait_moved(context: Context, space: bytes, digests: Digests, until: float) -> None:
    pause = _POLL_S
    while len(digests) and time.monotonic() < until:
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)
        digests = _without_moved(context, space, digests)


def _wait_unpublished(context: Context) -> None:
    """The records leave the directory by upkeep; without it they are left to whoever meets them."""
    until = time.monotonic() + _LAST_S
    while time.monotonic() < until and not context.directory_lost.is_set():
        if not context.native.stats()["unpublishing"]:
            return
        context.wake.set()
        time.sleep(_POLL_S)
