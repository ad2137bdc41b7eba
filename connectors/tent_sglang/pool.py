"""One of SGLang's host pools, as TENT sees it: registered memory, a namespace, and addresses of pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core.errors import InvalidArgument, Unsupported

from .heads import HeadGroups
from .lines import Lines

Addresses = npt.NDArray[np.uint64]


class HostPool:
    """Registers a host pool's buffers with the store, and turns host indices into arrays of addresses.

    Borrows the pool's memory until `close`; the pool must outlive that. Calls may come from several threads.
    """

    def __init__(
        self,
        name: str,
        pool: Any,
        store: Any,
        registered: dict[tuple[int, int], Any],
        groups: HeadGroups | None = None,
    ) -> None:
        """`registered`: segments of this attachment by (address, bytes); pools that share a buffer share its entry.
        `groups`: the pages are stored in so many pieces, each by a key of its own.

        Raises Unsupported when the pool offers no addresses (nothing can be moved without a copy then).
        """
        self.name = name
        self.pool = pool
        self.groups = groups
        # A page's host indices: one for each token slot that its rank holds, or one a page for state pools.
        self.entries = int(getattr(pool, "logical_page_size", None) or getattr(pool, "page_size", 1) or 1)
        self.pieces = groups.count if groups is not None else 1
        parts = self._measure()
        # Of one piece; all pieces have the same.
        self.part_lengths: Addresses = parts[: len(parts) // self.pieces]
        self.piece_bytes = int(self.part_lengths.sum())
        self._lines = Lines.find(self._meta, self.entries, len(parts), _index_vector)
        # Only now: a pool that was refused is not kept by anyone, and its memory may go.
        for span in buffer_spans(pool):
            if span not in registered:
                registered[span] = store.register(span)
        self.namespace: Any = None  # set by the backend, once it knows `part_lengths`

    def names(self, keys: Sequence[str]) -> list[bytes]:
        """The store's keys of these pages, each page's pieces in turn."""
        if self.groups is None:
            return [key.encode() for key in keys]
        return [name for key in keys for name in self.groups.names(key)]

    def locate(self, host_indices: Any, pages: int) -> Addresses:
        """Addresses of the parts of `pages` pages, shape [pages × pieces, parts]. `host_indices`: as SGLang passes
        them."""
        if host_indices is None or len(host_indices) != pages * self.entries:
            got = 0 if host_indices is None else len(host_indices)
            raise InvalidArgument(
                f"pool {self.name!r}: {pages} pages need {pages * self.entries} host indices, got {got}"
            )
        shape = (pages * self.pieces, len(self.part_lengths))
        if self._lines is not None:
            found = self._lines.addresses(host_indices, self.entries, self._meta)
            if found is not None:
                return found.reshape(shape)
            self._lines = None
        pointers, sizes = self._meta(host_indices)
        addresses = np.array(pointers, dtype=np.uint64).reshape(shape)
        if not (np.array(sizes, dtype=np.uint64).reshape(shape) == self.part_lengths).all():
            raise InvalidArgument(f"pool {self.name!r}: pages of different shapes in one call")
        return addresses

    def _meta(self, host_indices: Any) -> Any:
        if self.groups is not None:
            return self.groups.meta(self.pool, host_indices)
        return self.pool.get_page_buffer_meta(host_indices)

    def _measure(self) -> Addresses:
        try:
            meta = self._meta(_index_vector(0, self.entries))
        except (NotImplementedError, ValueError, AssertionError) as refusal:
            raise Unsupported(self._no_addresses(f": {refusal}" if str(refusal) else "")) from refusal
        if not meta or not len(meta[1]):
            raise Unsupported(self._no_addresses(""))
        return np.asarray(meta[1], dtype=np.uint64)

    def _no_addresses(self, why: str) -> str:
        return (
            f"host pool {self.name!r} ({type(self.pool).__name__}) gives no page addresses{why}; its pages cannot "
            "be moved without a copy: choose another --hicache-mem-layout"
        )


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


def _index_vector(first: int, count: int) -> Any:
    """Host indices of consecutive slots, of the type that pools expect."""
    try:
        import torch
    except ImportError:
        return np.arange(first, first + count, dtype=np.int64)
    return torch.arange(first, first + count, dtype=torch.int64)
