"""One of SGLang's host pools, as TENT sees it: registered memory, a namespace, and addresses of pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core.errors import InvalidArgument, Unsupported

Addresses = npt.NDArray[np.uint64]


class HostPool:
    """Registers a host pool's buffers with the store, and turns host indices into arrays of addresses.

    Borrows the pool's memory until `close`; the pool must outlive that. Calls may come from several threads.
    """

    def __init__(self, name: str, pool: Any, store: Any, registered: dict[tuple[int, int], Any]) -> None:
        """`registered`: segments of this attachment by (address, bytes); pools that share a buffer share its entry.

        Raises Unsupported when the pool offers no addresses (nothing can be moved without a copy then).
        """
        self.name = name
        self.pool = pool
        # A page's host indices: one for each token slot that its rank holds, or one a page for state pools.
        self.entries = int(getattr(pool, "logical_page_size", None) or getattr(pool, "page_size", 1) or 1)
        self.part_lengths = self._measure()
        self.page_bytes = int(self.part_lengths.sum())
        # Only now: a pool that was refused is not kept by anyone, and its memory may go.
        for span in buffer_spans(pool):
            if span not in registered:
                registered[span] = store.register(span)
        self.namespace: Any = None  # set by the backend, once it knows `part_lengths`

    def _measure(self) -> Addresses:
        meta = self.pool.get_page_buffer_meta(_index_vector(self.entries))
        if not meta or not len(meta[1]):
            raise Unsupported(
                f"host pool {self.name!r} ({type(self.pool).__name__}) gives no page addresses, so its pages cannot "
                "be moved without a copy; choose another --hicache-mem-layout"
            )
        return np.asarray(meta[1], dtype=np.uint64)

    def locate(self, host_indices: Any, pages: int) -> Addresses:
        """Addresses of the parts of `pages` pages, shape [pages, parts]. `host_indices`: as SGLang passes them."""
        if host_indices is None or len(host_indices) != pages * self.entries:
            got = 0 if host_indices is None else len(host_indices)
            raise InvalidArgument(
                f"pool {self.name!r}: {pages} pages need {pages * self.entries} host indices, got {got}"
            )
        pointers, sizes = self.pool.get_page_buffer_meta(host_indices)
        parts = len(self.part_lengths)
        addresses = np.array(pointers, dtype=np.uint64).reshape(pages, parts)
        if not (np.array(sizes, dtype=np.uint64).reshape(pages, parts) == self.part_lengths).all():
            raise InvalidArgument(f"pool {self.name!r}: pages of different shapes in one call")
        return addresses


def buffer_spans(pool: Any) -> list[tuple[int, int]]:
    """(address, bytes) of each allocation behind a pool's buffers, without repetition."""
    offered = pool.get_hybrid_pool_buffer() if hasattr(pool, "get_hybrid_pool_buffer") else None
    buffers = _flatten([offered, getattr(pool, "kv_buffer", None)])
    return sorted({span for span in map(_span, buffers) if span[1] > 0})


def _flatten(items: Iterable[Any]) -> list[Any]:
    flat: list[Any] = []
    for item in items:
        if isinstance(item, (list, tuple)):
            flat.extend(_flatten(item))
        elif item is not None:
            flat.append(item)
    return flat


def _span(tensor: Any) -> tuple[int, int]:
    """The whole storage behind a tensor: K and V views of one allocation are one registration."""
    storage = tensor.untyped_storage()
    return int(storage.data_ptr()), int(storage.nbytes())


def _index_vector(length: int) -> Any:
    """Host indices of the pool's first page, of the type that pools expect."""
    try:
        import torch
    except ImportError:
        return np.arange(length, dtype=np.int64)
    return torch.arange(length, dtype=torch.int64)
