"""Which of vLLM's blocks were computed under the weights of now, and on nothing older.

vLLM keeps running requests and its prefix cache over a change of weights when it is told to, and a block computed on an
older prefix is neither of the old weights nor of the new. Nothing of a request that stands on such blocks is stored.
Until the weights change for the first time there is nothing to keep account of.
"""

from __future__ import annotations

from collections.abc import Iterable


class Freshness:
    """For vLLM's scheduler thread."""

    def __init__(self) -> None:
        self._fresh: set[int] | None = None

    def weights_changed(self) -> None:
        """All blocks are of older weights."""
        self._fresh = set()

    def stale(self, blocks: Iterable[int]) -> bool:
        """Whether one of these blocks is of older weights. Block 0 is vLLM's stand-in for none."""
        fresh = self._fresh
        return fresh is not None and any(block and block not in fresh for block in blocks)

    def owned(self, blocks: Iterable[int], *, stale: bool) -> None:
        """These blocks are computed anew, by a request that stands on older blocks (`stale`) or not."""
        if self._fresh is None:
            return
        if stale:
            self._fresh.difference_update(blocks)
        else:
            self._fresh.update(blocks)
