"""Prefill/decode hand-off: what the scheduler's side tells the workers, and what a worker says of itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Endpoint:
    """Where one rank's KV caches are found, and what lies in a block of them."""

    descriptor: bytes
    form: bytes


def form_under(form: bytes, weights: str) -> bytes:
    """What lies in a block that was computed under a version of the weights."""
    return hashlib.sha256(form + weights.encode()).digest() if weights else form


@dataclass(frozen=True)
class Offered:
    """A finished request whose blocks wait for a decode server. ``names[rank]``: of that rank's offer."""

    req_id: str
    names: tuple[bytes, ...]
    blocks: NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """A request that waits for blocks of a prefill server. ``tickets[rank]``; the first of `blocks` is block `first`
    of what is offered."""

    req_id: str
    tickets: tuple[str, ...]
    blocks: NDArray[np.int64]
    first: int


@dataclass
class HandoffPlan:
    offers: list[Offered] = field(default_factory=list)
    pulls: list[Wanted] = field(default_factory=list)
    declined: list[tuple[str, ...]] = field(default_factory=list)
    """Tickets that nobody will pull by: their producer is told, and does not wait for its lease."""

    def __bool__(self) -> bool:
        return bool(self.offers or self.pulls or self.declined)
