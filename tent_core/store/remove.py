"""Taking pages away: out of the directory, and out of the memory of whoever has them."""

from __future__ import annotations

import time

import numpy as np

from tent_core import _native
from tent_core.engine import Peer
from tent_core.errors import DirectoryUnavailable, TentError
from tent_core.store.batch import Digests, Statuses
from tent_core.store.context import Context
from tent_core.store.lookup import Located, Messages, locate
from tent_core.store.reason import PageStatus

__all__ = ["remove"]

_CALL_S = 1.0


def remove(context: Context, space: bytes, digests: Digests) -> Statuses:
    """HIT (it was there) or a miss reason per page. Any thread; round trips to the directory and to each owner."""
    located = locate(context, space, digests, None)
    status = located.status.copy()
    if context.native is not None:
        own = context.native.remove(digests)
        status[own == PageStatus.HIT] = PageStatus.HIT
    if context.in_place is not None:
        own = context.in_place.native.remove(digests)
        status[own == PageStatus.HIT] = PageStatus.HIT
    rows = np.flatnonzero(located.status == PageStatus.HIT).tolist()
    items = [(digests[row].tobytes(), record) for row in rows if (record := located.records[row]) is not None]
    try:
        if items:
            context.directory.unpublish(items)
    except DirectoryUnavailable:
        context.lost_directory()
        context.dead_records([(digest, record, b"") for digest, record in items])
    for owner, some in _owners(context, located).items():
        _remove_at(context, space, owner, some)
    return status


def _owners(context: Context, located: Located) -> dict[tuple[str, bytes], Digests]:
    """The pages by other node that has them: of pages with several replicas, by each."""
    found: dict[tuple[str, bytes], list[int]] = {}
    for row in np.flatnonzero(located.status == PageStatus.HIT).tolist():
        owners = [located.nodes[int(located.node[row])]]
        record = located.records[row]
        if located.replicas[row] > 1 and record is not None:
            info = _native.record_info(record)
            owners = [(name, incarnation) for name, incarnation, *_ in info["replicas"]] if info else owners
        for owner in owners:
            if owner[0] != context.name:
                found.setdefault(owner, []).append(row)
    return {owner: np.ascontiguousarray(located.digests[rows]) for owner, rows in found.items()}


def _remove_at(context: Context, space: bytes, owner: tuple[str, bytes], digests: Digests) -> None:
    until = time.monotonic() + context.config.engine.deadline_ms / 1000
    peer = context.peers.get(*owner, context.config.engine.deadline_ms / 1000)
    for start in range(0, len(digests), Messages.MOST):
        if not isinstance(peer, Peer) or time.monotonic() > until:
            return  # the record is gone; its owner finds out when it publishes again
        some = digests[start : start + Messages.MOST]
        try:
            peer.call(Messages.REMOVE, _native.remove_request(space, some), _CALL_S)
        except TentError:
            return
