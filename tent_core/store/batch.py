"""The shapes of a batch: keys, addresses and lengths as the caller gave them, made into arrays and checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core import _native
from tent_core.engine import Engine
from tent_core.errors import InvalidArgument, OverlappingRanges

__all__ = [
    "Batch",
    "Digests",
    "Rows",
    "Statuses",
    "Words",
    "digests_of",
    "hold",
    "make_batch",
    "page_lengths",
    "tokens_of",
]

Digests = npt.NDArray[np.uint8]  # (N, 16)
Words = npt.NDArray[np.uint64]
Statuses = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]

_MAX_PAGE = 1 << 48
_MAX_TTL_S = 1_000_000_000


@dataclass(frozen=True)
class Batch:
    """N pages of P parts: ``digests`` (N, 16), ``addresses`` and ``lengths`` (N, P), ``totals`` (N)."""

    digests: Digests
    addresses: Words
    lengths: Words
    totals: Words
    ttl: float | None = None  # put: seconds that the pages stay; None: as their owner's settings say

    def __len__(self) -> int:
        return len(self.digests)

    def rows(self, rows: Rows) -> Batch:
        return Batch(
            self.digests[rows], self.addresses[rows], self.lengths[rows], self.totals[rows], self.ttl
        )


def digests_of(namespace: bytes, keys: Sequence[bytes]) -> Digests:
    """The pages' digests. Raises InvalidArgument for a key that is not 1 to 256 bytes."""
    found: Digests = _native.page_digests(namespace, keys if isinstance(keys, list) else list(keys))
    return found


def _words(values: Any, what: str) -> Words:
    array = np.asarray(values)
    if array.dtype == np.uint64:
        return array
    if array.dtype.kind not in "iu":
        raise InvalidArgument(f"{what} must be integers, not {array.dtype}")
    if array.dtype.kind == "i" and array.size and int(array.min()) < 0:
        raise InvalidArgument(f"{what} must not be negative, got {int(array.min())}")
    return array.astype(np.uint64)


def page_lengths(lengths: Any, count: int) -> Words:
    """Bytes of each of ``count`` pages, from one length, a length per part, or (N, P) lengths."""
    array = _words(lengths, "lengths")
    if array.ndim == 0:
        return np.full(count, array, dtype=np.uint64)
    if array.ndim == 1:
        return np.full(count, array.sum(dtype=np.uint64), dtype=np.uint64)
    if array.ndim != 2 or len(array) != count:
        raise InvalidArgument(
            f"lengths have shape {array.shape} for {count} pages: give (N, P), (P,) or one number"
        )
    totals: Words = array.sum(axis=1, dtype=np.uint64)
    return totals


def make_batch(
    namespace: bytes, keys: Sequence[bytes], addresses: Any, lengths: Any, ttl: float | None = None
) -> Batch:
    """Checks shapes and sizes; raises InvalidArgument. Memory is checked by `hold`."""
    digests = digests_of(namespace, keys)
    where = _words(addresses, "addresses")
    if where.ndim == 1:
        where = where[:, None]
    if where.ndim != 2 or len(where) != len(digests) or (where.shape[1] == 0 and len(digests)):
        raise InvalidArgument(
            f"addresses have shape {where.shape} for {len(digests)} pages: give (N, P) or (N,)"
        )
    sizes = _words(lengths, "lengths")
    if sizes.ndim == 1 and len(sizes) not in (1, where.shape[1]):
        raise InvalidArgument(
            f"{len(sizes)} lengths for pages of {where.shape[1]} parts: give (N, P), (P,) or one"
        )
    try:
        sizes = np.broadcast_to(sizes, where.shape)
    except ValueError as error:
        raise InvalidArgument(
            f"lengths of shape {sizes.shape} do not fit addresses of shape {where.shape}"
        ) from error
    if sizes.size and int(sizes.max()) > _MAX_PAGE:
        raise InvalidArgument(f"a length of {int(sizes.max())} bytes is no length of a page")
    totals = sizes.sum(axis=1, dtype=np.uint64)
    if totals.size and int(totals.min()) == 0:
        raise InvalidArgument("a page must not be empty: its lengths add up to 0")
    if ttl is not None and not 0 <= ttl <= _MAX_TTL_S:
        raise InvalidArgument(f"a ttl is between 0 (no limit) and {_MAX_TTL_S} seconds, not {ttl}")
    return Batch(digests, np.ascontiguousarray(where), np.ascontiguousarray(sizes), totals, ttl)


def tokens_of(batch: Batch, token: Any) -> tuple[Words, Words] | None:
    """The addresses of the pages' stability counters, and what they read now. Raises InvalidArgument."""
    if token is None:
        return None
    tokens = np.ascontiguousarray(token, dtype=np.uint64)
    if tokens.shape != (len(batch),):
        raise InvalidArgument(f"token has shape {tokens.shape}: give the address of one counter per page")
    return tokens, _native.read_tokens(tokens)


def hold(engine: Engine, batch: Batch, *, destination: bool) -> _native.NativeHold:
    """Keeps the batch's memory from being unregistered until ``release()``. Raises Unregistered, OutOfRange or
    SegmentGone unless every part lies in one registered segment; for a destination also ReadOnlyBuffer and
    OverlappingRanges."""
    first, size = batch.addresses.ravel(), batch.lengths.ravel()
    held = engine._native.hold(first, size, destination)
    if destination:
        _check_apart(first, size)
    return held


def _check_apart(first: Words, size: Words) -> None:
    begin, end = first[size > 0], (first + size)[size > 0]
    if (begin[1:] >= end[:-1]).all():
        return  # in order: the usual case
    order = np.argsort(begin)
    begin, end = begin[order], end[order]
    meet = begin[1:] < end[:-1]
    if meet.any():
        bad = int(begin[int(np.argmax(meet)) + 1])
        raise OverlappingRanges(f"two destinations overlap at {bad:#x}: each page needs memory of its own")
