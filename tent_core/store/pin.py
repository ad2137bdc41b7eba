"""Keeping pages of this node from being evicted."""

from __future__ import annotations

import numpy as np

from tent_core.store.batch import Digests, Statuses
from tent_core.store.context import Context
from tent_core.store.reason import PageStatus

__all__ = ["pin"]


def pin(context: Context, digests: Digests, pinned: bool) -> Statuses:
    """HIT, or why not. Pages on disk are brought up for it."""
    if context.native is None:
        return np.full(len(digests), PageStatus.ABSENT, dtype=np.uint8)
    status: Statuses = context.native.pin(digests, pinned)
    below = np.flatnonzero(status == PageStatus.PENDING)
    if len(below) and context.ssd is not None:
        some = np.ascontiguousarray(digests[below])
        up = context.ssd.stage(some, context.config.engine.deadline_ms / 1000)
        again = context.native.pin(some, pinned)
        status[below] = np.where(up == PageStatus.HIT, again, up)
    status[status == PageStatus.PENDING] = PageStatus.REFUSED  # it has left memory again at once
    return status
