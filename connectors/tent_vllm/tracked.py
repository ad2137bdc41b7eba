"""What the scheduler's side keeps: of a request, of a step whose outcome is not known yet, of pages that it gathers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tent_core.errors import InvalidArgument

from .lookups import PrefixLookup
from .plan import Pages


@dataclass
class Tracked:
    """One request between its arrival and its end. Counts are of units: the tokens of a block hash."""

    request: Any
    lookup: PrefixLookup | None = None
    offered_at: float | None = None
    local: int = 0
    saved: int = 0
    beside: bool = False
    """What was offered last is to be loaded beside the steps."""
    matched: bool = False
    """vLLM asked for a match since it last allocated: the next allocation is an admission."""
    held: tuple[int, ...] = ()
    """By group, how many blocks it had after the last allocation."""
    stale: bool = False
    """It stands on blocks computed under older weights: nothing of it is stored."""


@dataclass
class Step:
    """A step whose outcome may still change what is taken for saved and loaded."""

    number: int
    loads: list[tuple[str, int, list[int]]] = field(default_factory=list)
    """(request, index of its first loaded block, block ids)"""
    saved_before: dict[str, int] = field(default_factory=dict)


class Places:
    """Pages being gathered: a key, a block and a group each. Lists, since the scheduler's thread has no time."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.blocks: list[int] = []
        self.groups: list[int] = []

    def add(self, keys: list[bytes], blocks: Sequence[int], group: int) -> None:
        """A key for each block. Block 0 is vLLM's stand-in for blocks that nobody needs: left out."""
        if 0 in blocks:
            kept = [(key, block) for key, block in zip(keys, blocks, strict=True) if block]
            keys, blocks = [key for key, _ in kept], [block for _, block in kept]
        if len(keys) != len(blocks):
            raise InvalidArgument(f"{len(keys)} keys for {len(blocks)} blocks")
        self.keys += keys
        self.blocks += blocks
        self.groups += [group] * len(keys)

    def add_all(self, others: Places) -> None:
        self.keys += others.keys
        self.blocks += others.blocks
        self.groups += others.groups

    def pages(self) -> Pages:
        if not self.keys:
            return Pages()
        groups = np.array(self.groups, dtype=np.int64) if any(self.groups) else None
        return Pages(self.keys, np.array(self.blocks, dtype=np.int64), groups)
