"""Asks the store for pages in the namespaces of all ranks and KV-cache groups of a server.

A block is there when every rank's shard of it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tent_core.store.reason import PageStatus

from .groups import Groups
from .handle import StoreHandle
from .plan import GroupPages, RankPages
from .weights import with_version


class Answer:
    """What is there of one request's pages."""

    def __init__(self) -> None:
        self.hits: list[NDArray[np.bool_]] = []
        """By group: whether a block of it is there on every rank."""
        self.statuses: list[NDArray[np.uint8]] = []
        self.seconds = 0.0
        """What getting all that is there would take: groups one after the other, ranks at once."""
        self.pins: list[Any] = []

    def add(self, group: int, status: NDArray[np.uint8], pin: Any) -> None:
        """One rank's answer for one group; groups come in order the first time."""
        hit = status == PageStatus.HIT
        if group < len(self.hits):
            self.hits[group] = self.hits[group] & hit
        else:
            self.hits.append(hit)
        self.statuses.append(status)
        self.pins.append(pin)


class RankLookup:
    """Does directory I/O: for the look-up thread. `clear` and `generations` may be called from another."""

    def __init__(
        self, handle: StoreHandle, groups: Groups, pages: list[RankPages], pin_ms: int, weights: str = ""
    ) -> None:
        self._handle = handle
        self._groups = groups
        self._ranks = len(pages)
        self._pages: list[tuple[int, GroupPages]] = [
            (index, named) for rank in pages for index, named in enumerate(rank.groups)
        ]
        self._pin_ms = pin_ms
        self._store: Any = None
        self._namespaces: list[Any] = []
        self._known = ""
        self.weights = weights
        """The version of the weights whose pages are looked for."""

    def __call__(self, keys: list[bytes]) -> Answer | None:
        """For the hashes of a request's units. None when there is no store yet."""
        store = self._handle.store
        if store is None:
            return None
        answer = Answer()
        expected = [0.0] * self._ranks
        for i, ((group, named), namespace) in enumerate(zip(self._pages, self._named(store), strict=True)):
            own = self._groups.keys(keys, group, 0, len(keys) // self._groups.scale(group))
            lookup = store.lookup(namespace, own, lengths=named.page_bytes, pin_ms=self._pin_ms)
            answer.add(group, np.asarray(lookup.status), lookup)
            expected[i // len(self._groups.all)] += store.predict_get(lookup)
        answer.seconds = max(expected, default=0.0)
        return answer

    def _named(self, store: Any) -> list[Any]:
        """The namespaces in `store`, which may be another one than the last time."""
        weights = self.weights
        if store is not self._store or weights != self._known:
            self._namespaces = [
                store.namespace(with_version(named.fields, weights)) for _, named in self._pages
            ]
            self._known = weights
            self._store = store  # last: `generations` looks at it first
        return self._namespaces

    def use(self, weights: str) -> None:
        """Look for pages of this version of the weights from now on."""
        self.weights = weights

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
        for _, named in self._pages:
            # Not the ones kept for look-ups: this may be another thread.
            store.clear(store.namespace(with_version(named.fields, self.weights)))
        return True
