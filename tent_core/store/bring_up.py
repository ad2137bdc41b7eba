"""Pages on another node's disk: their owner brings them into its memory, and says where they lie then."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from tent_core import _native
from tent_core.engine import Peer
from tent_core.errors import TentError
from tent_core.store.batch import Rows, Statuses
from tent_core.store.context import Deadline
from tent_core.store.lookup import Located, Messages
from tent_core.store.reason import PageStatus

__all__ = ["bring_up", "on_disk"]

_FIRST_PAUSE_S = 0.0005
_PAUSE_S = 0.01
_CALL_S = 5.0
_MOST_BYTES = 32 << 20  # asked for at a time: owners do not give all of their memory to one reader


def on_disk(located: Located, rows: Rows) -> np.typing.NDArray[np.bool_]:
    found: np.typing.NDArray[np.bool_] = located.segment[rows] == _native.DISK_SEGMENT
    return found


def bring_up(
    peer: Peer, located: Located, rows: Rows, status: Statuses, patience: float, deadline: Deadline
) -> Iterator[Rows]:
    """Yields rows that are in their owner's memory as they come, with ``located`` changed to where. ``status`` of all
    others says why not. ``patience``: seconds without any page, before another replica is tried."""
    ends = np.cumsum(located.length[rows].astype(np.int64))
    start = 0
    while start < len(rows):
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + _MOST_BYTES, side="right")))
        end = min(end, start + Messages.MOST)
        yield from _some(peer, located, rows[start:end], status, patience, deadline)
        start = end


def _some(
    peer: Peer, located: Located, rows: Rows, status: Statuses, patience: float, deadline: Deadline
) -> Iterator[Rows]:
    pause = _FIRST_PAUSE_S
    until = time.monotonic() + patience
    while len(rows):
        code = _ask(peer, located, rows)
        if isinstance(code, PageStatus):
            status[rows] = code
            return
        up = code == PageStatus.HIT
        wait = code == PageStatus.PENDING
        status[rows[~up & ~wait]] = code[~up & ~wait]
        if up.any():
            yield rows[up]
            pause, until = _FIRST_PAUSE_S, time.monotonic() + patience
        rows = rows[wait]
        if len(rows) and (time.monotonic() > until or deadline.passed):
            status[rows] = PageStatus.REFUSED  # its disk is too slow
            return
        if len(rows):
            time.sleep(min(pause, deadline.left))
            pause = min(_PAUSE_S, pause * 2)


def _ask(peer: Peer, located: Located, rows: Rows) -> Statuses | PageStatus:
    """What the owner says of each page: HIT, PENDING or a miss."""
    try:
        request = _native.digests_request(np.ascontiguousarray(located.digests[rows]))
        reply = _native.staged_reply(peer.call(Messages.STAGE, request, _CALL_S))
    except TentError:
        return PageStatus.OWNER_UNREACHABLE
    code, segment, epoch, offset, length, check, version = reply
    if len(code) != len(rows):
        return PageStatus.OWNER_UNREACHABLE
    code[(code != PageStatus.HIT) & (code != PageStatus.PENDING) & (code < PageStatus.ABSENT)] = (
        PageStatus.INTERNAL
    )
    up = code == PageStatus.HIT
    # Another version than the record's: it is looked up once more.
    other = (version != located.version[rows]).any(axis=1) | (length != located.length[rows])
    code[up & other] = PageStatus.STALE_EPOCH
    up &= ~other
    some = rows[up]
    located.segment[some] = segment[up]
    located.epoch[some] = epoch[up]
    located.offset[some] = offset[up]
    located.check[some] = check[up]
    found: Statuses = code
    return found
