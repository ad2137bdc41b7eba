"""Asks the store for pages in the namespaces of all ranks of a server: a block is there when every shard of it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .handle import StoreHandle
from .plan import RankPages


class RankLookup:
    """Does directory I/O: for the look-up thread. `clear` and `generations` may be called from another."""

    def __init__(self, handle: StoreHandle, pages: list[RankPages], pin_ms: int) -> None:
        self._handle = handle
        self._pages = pages
        self._pin_ms = pin_ms
        self._store: Any = None
        self._namespaces: list[Any] = []

    def __call__(self, keys: list[bytes]) -> tuple[list[NDArray[np.uint8]], list[Any]]:
        """(a status per key for each rank, the pins to release). Nothing when there is no store yet."""
        store = self._handle.store
        if store is None:
            return [], []
        statuses, pins = [], []
        for rank, namespace in zip(self._pages, self._named(store), strict=True):
            lookup = store.lookup(namespace, keys, lengths=rank.page_bytes, pin_ms=self._pin_ms)
            statuses.append(np.asarray(lookup.status))
            pins.append(lookup)
        return statuses, pins

    def _named(self, store: Any) -> list[Any]:
        """The ranks' namespaces in `store`, which may be another one than the last time."""
        if store is not self._store:
            self._namespaces = [store.namespace(rank.fields) for rank in self._pages]
            self._store = store  # last: `generations` looks at it first
        return self._namespaces

    def generations(self) -> dict[bytes, int]:
        """By namespace digest, how often it was cleared, as far as is known here. No I/O: for the scheduler."""
        store = self._store
        if store is None:
            return {}
        return {namespace.digest: store.generation(namespace) for namespace in self._namespaces}

    def clear(self) -> bool:
        """Clear the pages of all ranks, for everybody."""
        store = self._handle.store
        if store is None:
            return False
        for rank in self._pages:
            # Not the ones kept for look-ups: this may be another thread.
            store.clear(store.namespace(rank.fields))
        return True
