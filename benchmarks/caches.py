"""Caches to compare the store with: they hold page numbers and no bytes, one page at a time, with room for ``size``.

``get`` says whether a page is there and counts as a use; ``add`` puts one in that is not there, and makes room. Written
for clearness: what they keep is what the figures are about, not how fast they are.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Cache", "Fifo", "Lru", "Optimum", "S3Fifo", "uses"]


class Cache(Protocol):
    def get(self, page: int) -> bool: ...
    def add(self, page: int) -> None: ...


class Lru:
    """The page that was used longest ago goes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pages: OrderedDict[int, None] = OrderedDict()

    def get(self, page: int) -> bool:
        if page not in self._pages:
            return False
        self._pages.move_to_end(page)
        return True

    def add(self, page: int) -> None:
        if len(self._pages) >= self._size:
            self._pages.popitem(last=False)
        self._pages[page] = None


class Fifo:
    """The page that came first goes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._order: deque[int] = deque()
        self._pages: set[int] = set()

    def get(self, page: int) -> bool:
        return page in self._pages

    def add(self, page: int) -> None:
        if len(self._pages) >= self._size:
            self._pages.discard(self._order.popleft())
        self._pages.add(page)
        self._order.append(page)


class S3Fifo:
    """S3-FIFO (Yang and others, SOSP 2023): new pages pass through a small queue, a tenth of the room; those used more
    than ``often`` times in it move to the main queue, those that come back soon after they left it go there at once.
    The main queue gives a page that was used another round, at most three times for its uses so far."""

    def __init__(self, size: int, often: int = 1) -> None:
        self._small_size = max(1, size // 10)
        self._main_size = max(1, size - self._small_size)
        self._size, self._often = size, often
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._uses: dict[int, int] = {}  # of the pages that are there
        self._ghosts: OrderedDict[int, None] = OrderedDict()

    def get(self, page: int) -> bool:
        uses = self._uses.get(page)
        if uses is None:
            return False
        self._uses[page] = min(3, uses + 1)
        return True

    def add(self, page: int) -> None:
        while len(self._uses) >= self._size:
            if len(self._small) >= self._small_size or not self._main:
                self._leave_small()
            else:
                self._leave_main()
        if page in self._ghosts:
            del self._ghosts[page]
            self._main.append(page)
        else:
            self._small.append(page)
        self._uses[page] = 0

    def _leave_small(self) -> None:
        while self._small:
            page = self._small.popleft()
            if self._uses[page] > self._often:
                self._uses[page] = 0
                self._main.append(page)
                if len(self._main) > self._main_size:
                    self._leave_main()
                    return
            else:
                del self._uses[page]
                self._ghosts[page] = None
                if len(self._ghosts) > self._main_size:
                    self._ghosts.popitem(last=False)
                return

    def _leave_main(self) -> None:
        while self._main:
            page = self._main.popleft()
            if self._uses[page] == 0:
                del self._uses[page]
                return
            self._uses[page] -= 1
            self._main.append(page)


_NEVER = 1 << 62


def uses(trace: Sequence[int]) -> list[int]:
    """For each place of a trace, where the same page is used next."""
    following = [_NEVER] * len(trace)
    last: dict[int, int] = {}
    for place in range(len(trace) - 1, -1, -1):
        following[place] = last.get(trace[place], _NEVER)
        last[trace[place]] = place
    return following


class Optimum:
    """The page whose next use is farthest away goes, or is not taken in (Belady). It knows the whole trace: ``get`` and
    ``add`` of one page are one place in it, and come in its order."""

    def __init__(self, size: int, following: Sequence[int]) -> None:
        self._size, self._following = size, following
        self._next: dict[int, int] = {}
        self._farthest: list[tuple[int, int]] = []
        self._place = -1

    def get(self, page: int) -> bool:
        self._place += 1
        if page not in self._next:
            return False
        self._note(page)
        return True

    def add(self, page: int) -> None:
        self._note(page)
        while len(self._next) > self._size:
            when, page = heapq.heappop(self._farthest)
            if self._next.get(page) == -when:  # else it was used since
                del self._next[page]

    def _note(self, page: int) -> None:
        when = self._following[self._place]
        self._next[page] = when
        heapq.heappush(self._farthest, (-when, page))
