"""The worker's KV caches as pages of the store: registered memory, one namespace a KV-cache group, gets and puts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tent_core.store.reason import PageStatus

from .guard import log
from .handle import StoreHandle
from .layout import PageLayout, merge_regions
from .plan import GroupPages, Pages
from .weights import with_version

# Fencing a read is local and takes as long as a slice's copy; this is where something is broken for good.
_RELEASE_S = 30


class Moving:
    """Pages under way: one transfer a group, seen as one."""

    def __init__(
        self, pages: Pages, parts: list[tuple[NDArray[np.int64], Any]], nbytes: NDArray[np.int64]
    ) -> None:
        """`parts`: (places in `pages`, their transfer). `nbytes`: of each page."""
        self.pages = pages
        self.parts = parts
        self._nbytes = nbytes

    @property
    def done(self) -> bool:
        return all(transfer.done for _, transfer in self.parts)

    @property
    def status(self) -> NDArray[np.uint8]:
        """PageStatus of each page, in the order of `pages`."""
        status = np.full(len(self.pages), PageStatus.PENDING, dtype=np.uint8)
        for places, transfer in self.parts:
            status[places] = transfer.status
        return status

    def bytes_of(self, which: NDArray[np.bool_]) -> int:
        return int(self._nbytes[which].sum())

    def wait(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        return all([transfer.wait(max(0.0, until - time.monotonic())) for _, transfer in self.parts])

    def cancel(self) -> None:
        for _, transfer in self.parts:
            transfer.cancel()

    def wait_released(self, timeout: float = _RELEASE_S) -> bool:
        """Whether nothing of it touches the KV caches any more."""
        until = time.monotonic() + timeout
        return all([transfer.wait_released(max(0.0, until - time.monotonic())) for _, transfer in self.parts])

    @property
    def released(self) -> bool:
        return all(transfer.wait_released(0) for _, transfer in self.parts)


class StorePages:
    """One worker's pages. For vLLM's worker thread."""

    def __init__(
        self,
        handle: StoreHandle,
        layouts: Sequence[PageLayout],
        named: Sequence[GroupPages],
        *,
        model: str = "",
    ) -> None:
        """`layouts`: of the KV caches by group, which stay where they are until `close`. `named`: the groups' pages.
        `model`: what people call it."""
        self._handle = handle
        self._layouts = layouts
        self._named = named
        self._model = model
        self._store: Any = None
        self._weights = ""
        self._namespaces: list[Any] = []
        self._segments: list[Any] = []
        self._page_bytes = np.array([layout.page_bytes for layout in layouts], dtype=np.int64)
        self.blocks = max(layout.blocks for layout in layouts)
        self.halted = False
        """Memory could not be fenced: nothing is moved any more."""

    @property
    def weights(self) -> str:
        """The version of the weights that this process computes with now."""
        return self._handle.weights

    def ready(self, weights: str = "") -> bool:
        """Whether there is a store, with the KV caches registered in it. `weights`: the version whose pages the gets
        and puts from here on are."""
        store = self._handle.store
        if store is None or self.halted:
            return False
        if store is not self._store or weights != self._weights:
            self._namespaces = [
                store.namespace(with_version(named.fields, weights), model=self._model)
                for named in self._named
            ]
            self._weights = weights
        if store is not self._store:
            regions = merge_regions([region for layout in self._layouts for region in layout.regions])
            self._segments = [store.register(region) for region in regions]
            self._store = store
            log.info(
                "KV caches registered: %d blocks, %s bytes a page",
                self.blocks,
                " + ".join(str(layout.page_bytes) for layout in self._layouts),
            )
        return True

    def get(self, pages: Pages, timeout: float) -> Moving:
        """Brings pages into their blocks. After `ready`."""
        moving = Moving(pages, [], self._sizes(pages))
        try:
            for group, places, keys, addresses in self._by_group(pages):
                transfer = self._store.submit_get(
                    self._namespaces[group],
                    keys,
                    addresses,
                    self._layouts[group].lengths,
                    timeout=timeout,
                    priority="interactive",
                )
                moving.parts.append((places, transfer))
        except BaseException:
            # The caller will compute into these blocks: the groups that are under way must not land there.
            moving.cancel()
            moving.wait_released()
            raise
        return moving

    def put(
        self, pages: Pages, tokens: NDArray[np.uint64], generations: dict[bytes, int], timeout: float
    ) -> Moving:
        """Hands blocks to the store. `tokens`: addresses of the blocks' stability counters. After `ready`."""
        parts = []
        for group, places, keys, addresses in self._by_group(pages):
            namespace = self._namespaces[group]
            self._store.saw_generation(namespace, generations.get(namespace.digest, 0))
            transfer = self._store.submit_put(
                namespace,
                keys,
                addresses,
                self._layouts[group].lengths,
                token=tokens[places],
                timeout=timeout,
            )
            parts.append((places, transfer))
        return Moving(pages, parts, self._sizes(pages))

    def _by_group(self, pages: Pages) -> list[tuple[int, NDArray[np.int64], list[bytes], NDArray[np.uint64]]]:
        found = []
        for group, layout in enumerate(self._layouts):
            places = pages.of_group(group)
            if len(places):
                keys = pages.keys if len(places) == len(pages) else [pages.keys[i] for i in places]
                found.append((group, places, keys, layout.addresses(pages.blocks[places])))
        return found

    def _sizes(self, pages: Pages) -> NDArray[np.int64]:
        if pages.groups is None:
            return np.full(len(pages), self._page_bytes[0])
        return self._page_bytes[pages.groups]

    def close(self) -> None:
        """Gives the KV caches' registration back."""
        segments, self._segments = self._segments, []
        for segment in segments:
            self._handle.guard.run("close", segment.close, lambda: None)
