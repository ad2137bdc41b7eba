"""What a decode server lets prefill servers fill: the blocks of one request, from its metadata until its end.

SGLang names memory by address, and a block's next owner has the same addresses. So a grant is of a request (its
"room"): random bits that travel with the request's metadata and come back with every transfer for it. What comes for a
request that has ended finds its grant gone, whoever owns the blocks by then.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core.errors import PermissionDenied

__all__ = ["NAME_BYTES", "Grants", "RequestEnded", "request_ranges"]

NAME_BYTES = 16
_REMEMBERED = 1 << 16  # ended grants

Words = npt.NDArray[np.uint64]


class RequestEnded(Exception):
    """The request was aborted, or is complete: nobody wants its bytes any more."""


class _Grant:
    def __init__(self, room: Any, starts: Words, ends: Words) -> None:
        self.room = room
        self.name = secrets.token_bytes(NAME_BYTES)
        self.starts, self.ends = starts, ends
        self.ended = False
        self.landing = 0
        self.cancels: set[Callable[[], None]] = set()


class Grants:
    """Thread-safe. A grant ends once, and then no landing of it is under way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._by_name: dict[bytes, _Grant] = {}
        self._by_room: dict[Any, _Grant] = {}
        self._ended: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_name)

    def grant(self, room: Any, starts: Words, lengths: Words) -> bytes:
        """The name of the room's grant, which from now on covers these ranges too."""
        with self._changed:
            grant = self._by_room.get(room)
            if grant is None:
                grant = _Grant(room, *_merged(starts, starts + lengths))
                self._by_room[room] = self._by_name[grant.name] = grant
            else:
                both = np.concatenate([grant.starts, starts]), np.concatenate([grant.ends, starts + lengths])
                grant.starts, grant.ends = _merged(*both)
            return grant.name

    def end(self, room: Any) -> bool:
        """When this returns nothing lands in the room's ranges any more, whatever the prefill server is doing. Waits
        for no other process. False when it had no grant (any more)."""
        with self._changed:
            grant = self._by_room.pop(room, None)
            if grant is None:
                return False
            del self._by_name[grant.name]
            self._ended[grant.name] = None
            if len(self._ended) > _REMEMBERED:
                self._ended.popitem(last=False)
            grant.ended = True
            cancels = list(grant.cancels)
        for cancel in cancels:
            cancel()
        with self._changed:
            self._changed.wait_for(lambda: not grant.landing)
        return True

    def end_all(self) -> None:
        with self._changed:
            rooms = list(self._by_room)
        for room in rooms:
            self.end(room)

    @contextmanager
    def taking(
        self, name: bytes, starts: Words, lengths: Words, cancel: Callable[[], None]
    ) -> Iterator[Landing]:
        """A transfer into these ranges. `cancel` is called when its grant ends meanwhile.

        Raises RequestEnded, and PermissionDenied when there never was such a grant or it does not cover them.
        """
        with self._changed:
            grant = self._by_name.get(name)
            if grant is None and name in self._ended:
                raise RequestEnded
            if grant is None:
                raise PermissionDenied("there is no such grant of this decode server")
            if not _covered(grant, starts, starts + lengths):
                raise PermissionDenied("a range lies outside what this decode server granted for the request")
            grant.cancels.add(cancel)
        try:
            yield Landing(self._changed, grant)
        finally:
            with self._changed:
                grant.cancels.discard(cancel)


class Landing:
    """Held while bytes may land."""

    def __init__(self, changed: threading.Condition, grant: _Grant) -> None:
        self._changed, self._grant = changed, grant

    def __enter__(self) -> None:
        with self._changed:
            if self._grant.ended:
                raise RequestEnded
            self._grant.landing += 1

    def __exit__(self, *_: Any) -> None:
        with self._changed:
            self._grant.landing -= 1
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        return self._grant.ended


def request_ranges(
    args: Any, kv_indices: Any, aux_index: int | None, state_indices: Any
) -> tuple[Words, Words]:
    """(addresses, lengths) of a request's blocks in the pools that SGLang's KVArgs describe: its pages in every layer,
    its slot of metadata, and its slots of every kind of state."""
    starts: list[Words] = []
    lengths: list[Words] = []

    def add(pointers: Any, item_lengths: Any, indices: Any) -> None:
        rows = np.asarray(indices, dtype=np.uint64).reshape(-1)
        for pointer, length in zip(pointers or [], item_lengths or [], strict=False):
            if length:
                starts.append(np.uint64(pointer) + rows * np.uint64(length))
                lengths.append(np.full(len(rows), length, dtype=np.uint64))

    add(args.kv_data_ptrs, args.kv_item_lens, kv_indices)
    if aux_index is not None:
        add(args.aux_data_ptrs, args.aux_item_lens, [aux_index])
    kinds = zip(args.state_data_ptrs or [], args.state_item_lens or [], state_indices or [], strict=False)
    for pointers, item_lengths, indices in kinds:
        if indices is not None:
            add(pointers, item_lengths, indices)
    if not starts:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    return np.concatenate(starts), np.concatenate(lengths)


def _merged(starts: Words, ends: Words) -> tuple[Words, Words]:
    """In order, neighbours joined: pages that lie side by side may be written as one range."""
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order]) if len(ends) else ends
    if not len(starts):
        return starts, ends
    first = np.concatenate(([True], starts[1:] > ends[:-1]))
    last = np.concatenate((first[1:], [True]))
    return starts[first], ends[last]


def _covered(grant: _Grant, starts: Words, ends: Words) -> bool:
    if not len(grant.starts) or (ends < starts).any():
        return False
    at = np.searchsorted(grant.starts, starts, side="right")
    inside = (at > 0) & (ends <= grant.ends[np.maximum(at, 1) - 1])
    return bool(inside.all())
