"""Asks the store for pages in the namespaces of all ranks of a server: a block is there when every shard of it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .handle import StoreHandle
from .plan import RankPages


class RankLookup:
    """Does directory I/O: for the look-up thread. `clear` may be called from another."""

    def __init__(self, handle: StoreHandle, pages: list[RankPages], pin_ms: int) -> None:
        self._handle = handle
        self._pages = pages
        self._pin_ms = pin_ms

    def __call__(self, keys: list[bytes]) -> tuple[list[NDArray[np.uint8]], list[Any]]:
        """(a status per key for each rank, the pins to release). Nothing when there is no store yet."""
        store = self._handle.store
        if store is None:
            return [], []
        statuses, pins = [], []
        for rank in self._pages:
            lengths = np.full(len(keys), rank.page_bytes, dtype=np.uint64)
            lookup = store.lookup(store.namespace(rank.fields), keys, lengths=lengths, pin_ms=self._pin_ms)
            statuses.append(np.asarray(lookup.status))
            pins.append(lookup)
        return statuses, pins

    def clear(self) -> bool:
        """Clear the pages of all ranks, for everybody."""
        store = self._handle.store
        if store is None:
            return False
        for rank in self._pages:
            store.clear(store.namespace(rank.fields))
        return True
