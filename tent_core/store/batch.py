"""The shapes of a batch: keys, addresses and lengths as the caller gave them, made into arrays and checked once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core import _native
from tent_core.engine import Engine
from tent_core.errors import InvalidArgument, OutOfRange, OverlappingRanges, ReadOnlyBuffer, Unregistered

__all__ = [
    "Batch",
    "Digests",
    "Rows",
    "Statuses",
    "Words",
    "digests_of",
    "make_batch",
    "page_lengths",
]

Digests = npt.NDArray[np.uint8]  # (N, 16)
Words = npt.NDArray[np.uint64]
Statuses = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]

_MAX_PAGE = 1 << 48


@dataclass(frozen=True)
class Batch:
    """N pages of P parts: ``digests`` (N, 16), ``addresses`` and ``lengths`` (N, P), ``totals`` (N)."""

    digests: Digests
    addresses: Words
    lengths: Words
    totals: Words

    def __len__(self) -> int:
        return len(self.digests)

    def rows(self, rows: Rows) -> Batch:
        return Batch(self.digests[rows], self.addresses[rows], self.lengths[rows], self.totals[rows])


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


def make_batch(namespace: bytes, keys: Sequence[bytes], addresses: Any, lengths: Any) -> Batch:
    """Checks shapes and sizes; raises InvalidArgument. Memory is checked by `Memory.check`."""
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
    return Batch(digests, np.ascontiguousarray(where), np.ascontiguousarray(sizes), totals)


class Memory:
    """Which addresses are registered with the engine. The store copies itself, so it must know."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._known: tuple[int, int] = (-1, -1)
        self._starts = self._ends = np.empty(0, dtype=np.uint64)
        self._writable = np.empty(0, dtype=np.bool_)

    def _refresh(self) -> tuple[Words, Words, npt.NDArray[np.bool_]]:
        with self._lock:
            segments = list(self._engine._segments.values())
            # Ids rise and are never used twice: adding changes the largest, removing alone the number.
            state = (len(segments), max((segment.id for segment in segments), default=0))
            if state != self._known:
                segments.sort(key=lambda segment: segment.address)
                self._starts = np.array([segment.address for segment in segments], dtype=np.uint64)
                self._ends = np.array([s.address + s.nbytes for s in segments], dtype=np.uint64)
                self._writable = np.array([segment.writable for segment in segments], dtype=np.bool_)
                self._known = state
            return self._starts, self._ends, self._writable

    def check(self, batch: Batch, *, destination: bool = False) -> None:
        """Raises Unregistered or OutOfRange unless every part lies in one registered segment. A destination must also
        be writable, and its parts must not overlap: else ReadOnlyBuffer and OverlappingRanges."""
        if not len(batch):
            return
        starts, ends, writable = self._refresh()
        first = batch.addresses.ravel()
        size = batch.lengths.ravel()
        index = np.searchsorted(starts, first, side="right").astype(np.int64) - 1
        inside = index >= 0
        if len(starts):
            inside &= first < ends[index]
        inside |= size == 0
        if not inside.all():
            bad = int(first[int(np.argmin(inside))])
            raise Unregistered(
                f"address {bad:#x} lies in no registered memory: call store.register(buffer) first"
            )
        if len(starts):
            room = ends[index] - first
            fits = (size <= room) | (size == 0)
            if not fits.all():
                at = int(np.argmin(fits))
                raise OutOfRange(
                    f"a part of {int(size[at])} bytes at {int(first[at]):#x} reaches past the end of its segment "
                    f"({int(room[at])} bytes are left)"
                )
        if destination:
            _check_destination(first, size, writable[index] | (size == 0) if len(starts) else None)


def _check_destination(first: Words, size: Words, writable: npt.NDArray[np.bool_] | None) -> None:
    if writable is not None and not writable.all():
        bad = int(first[int(np.argmin(writable))])
        raise ReadOnlyBuffer(f"address {bad:#x} lies in a read-only buffer: it cannot be a destination")
    begin, end = first[size > 0], (first + size)[size > 0]
    if (begin[1:] >= end[:-1]).all():
        return  # in order: the usual case
    order = np.argsort(begin)
    begin, end = begin[order], end[order]
    meet = begin[1:] < end[:-1]
    if meet.any():
        bad = int(begin[int(np.argmax(meet)) + 1])
        raise OverlappingRanges(f"two destinations overlap at {bad:#x}: each page needs memory of its own")
