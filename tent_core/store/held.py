"""Which pages a put would find there already: asked first, they need not be copied to be thrown away."""

from __future__ import annotations

import numpy as np

from tent_core import _native
from tent_core.store.batch import Digests, Statuses, Words
from tent_core.store.context import Context
from tent_core.store.lookup import locate
from tent_core.store.reason import PageStatus

__all__ = ["held"]


def held(context: Context, space: bytes, digests: Digests, lengths: Words | None) -> Statuses:
    """PRESENT where a node that nobody knows to be gone has the page, ABSENT (or why it cannot be told) elsewhere.

    One round trip to the directory, and one more for each owner that this node is not connected to.
    """
    located = locate(context, space, digests, lengths)
    status = np.where(located.status == PageStatus.HIT, PageStatus.ABSENT, located.status).astype(np.uint8)
    for index, (name, incarnation) in enumerate(located.nodes):
        rows = located.owned_by(index)
        if not len(rows):
            continue
        if name == context.name:
            here = _native.same_incarnation(incarnation, context.incarnation)
        else:
            here = not context.peers.is_gone(name, incarnation)
        if here:
            status[rows] = PageStatus.PRESENT
    return status
