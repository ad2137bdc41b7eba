"""Where pages are put: this process's memory, or the `tent node` of its host, which outlives it."""

from __future__ import annotations

import numpy as np

from tent_core.store.batch import Batch, Rows, Statuses, Words
from tent_core.store.context import Context, Deadline
from tent_core.store.reason import PageStatus
from tent_core.store.remote import RemoteWriter
from tent_core.store.transfer import Control
from tent_core.store.writer import Writer

__all__ = ["Place"]

Tokens = tuple[Words, Words] | None
# The node did not take the page, and that is no fault of the page's.
_NOT_TAKEN = (
    PageStatus.OWNER_UNREACHABLE,
    PageStatus.STALE_INCARNATION,
    PageStatus.STALE_EPOCH,
    PageStatus.DIRECTORY_DOWN,
    PageStatus.LINK_FAILED,
    PageStatus.NO_SPACE,
    PageStatus.QUOTA,
    PageStatus.REFUSED,
    PageStatus.TOO_LARGE,
    PageStatus.CLOSED,
)


class Place:
    """Any thread."""

    def __init__(self, context: Context, writer: Writer | None, remote: RemoteWriter) -> None:
        self._context = context
        self._writer = writer
        self._remote = remote
        self._policy = context.config.store.place

    def put(
        self,
        space: bytes,
        batch: Batch,
        tokens: Tokens,
        node: str | None,
        deadline: Deadline,
        control: Control,
    ) -> Statuses:
        """Status per page. ``node``: there and nowhere else, whatever the policy."""
        if not len(batch):
            return np.empty(0, dtype=np.uint8)
        if node is not None:
            return self._there(space, batch, tokens, node, deadline, control)
        home = None if self._policy == "own" else self._context.pools.home
        if home is None:
            if self._policy == "node":
                return np.full(len(batch), PageStatus.NO_SPACE, dtype=np.uint8)
            return self._here(space, batch, tokens, deadline, control)
        status = self._remote.put(space, batch, tokens, home, deadline, control)
        left: Rows = np.flatnonzero(np.isin(status, _NOT_TAKEN))
        if len(left) and self._policy == "auto" and self._writer is not None and not control.cancelled:
            self._context.metrics.counter("store.place.fell_back").inc(len(left))
            some = None if tokens is None else (tokens[0][left], tokens[1][left])
            status[left] = self._here(space, batch.rows(left), some, deadline, control)
        return status

    def _there(
        self, space: bytes, batch: Batch, tokens: Tokens, node: str, deadline: Deadline, control: Control
    ) -> Statuses:
        if node == self._context.name:
            return self._here(space, batch, tokens, deadline, control)
        return self._remote.put(space, batch, tokens, node, deadline, control)

    def _here(
        self, space: bytes, batch: Batch, tokens: Tokens, deadline: Deadline, control: Control
    ) -> Statuses:
        if self._writer is None:
            return np.full(len(batch), PageStatus.NO_SPACE, dtype=np.uint8)
        return self._writer.put(space, batch, tokens, deadline, control)
