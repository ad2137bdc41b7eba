"""What the scheduler's side keeps of a request and of a step whose outcome is not known yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .lookups import PrefixLookup
from .plan import Pages

Places = list[tuple[bytes, int, int]]  # (key, block, group)


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


def pages_of(places: Places) -> Pages:
    if not places:
        return Pages()
    keys, blocks, groups = zip(*places, strict=True)
    own = np.array(groups, dtype=np.int64)
    return Pages(list(keys), np.array(blocks, dtype=np.int64), own if own.any() else None)
