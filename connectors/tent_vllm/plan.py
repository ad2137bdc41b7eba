"""What the scheduler's side tells the worker's side each step, and what it is told back. Plain data, picklable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


def no_blocks() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass
class Pages:
    """Pages and the blocks they go with: `keys[i]` is that of block `blocks[i]` (vLLM's id) in group `groups[i]`."""

    keys: list[bytes] = field(default_factory=list)
    blocks: NDArray[np.int64] = field(default_factory=no_blocks)
    groups: NDArray[np.int64] | None = None
    """Index of the KV-cache group; None: all of the first."""

    def __len__(self) -> int:
        return len(self.blocks)

    def of_first_group(self, which: NDArray[np.bool_]) -> list[bytes]:
        """Keys of the pages at these places that are of the first group."""
        return [self.keys[i] for i in np.flatnonzero(which) if self.groups is None or self.groups[i] == 0]

    def of_group(self, group: int) -> NDArray[np.int64]:
        """Places in here of the group's pages, in order."""
        if self.groups is None:
            return np.arange(len(self.blocks) if group == 0 else 0)
        return np.flatnonzero(self.groups == group)


@dataclass
class Fetch:
    """A request whose pages are loaded beside the steps; it waits in vLLM's queue until they are here."""

    req_id: str
    pages: Pages


@dataclass
class StepPlan:
    """One step of the serving engine."""

    step: int = 0
    epoch: int = 0
    """Rises when a load has failed and vLLM has taken its consequences. What was computed in a step of an epoch in
    which a load failed may rest on pages that never came, so the worker stores nothing of it."""
    load: Pages = field(default_factory=Pages)
    """What the step needs before its forward pass."""
    save: Pages = field(default_factory=Pages)
    load_within: float = 0.0
    """Seconds after which computing would have been faster; 0: not known."""
    fetches: list[Fetch] = field(default_factory=list)
    tokens: int = 0
    """Tokens that the step computes."""
    prefill: bool = False
    """Whether most of them are of prompts."""
    reused: NDArray[np.int64] = field(default_factory=no_blocks)
    """Blocks that got a new owner since the last step: about to be overwritten."""
    generations: dict[bytes, int] = field(default_factory=dict)
    """Namespace digest -> how often it was cleared, by what look-ups have seen. A worker has a store of its own, which
    would hear of a clear some time later and have its pages refused until then."""
    report: bool = False
    """Whether the worker must answer with a StepReport."""
    weights: str = ""
    """The version of the weights under which its pages were found, and are to be stored."""
    introduce: bool = False
    """Whether the worker must say how its pages are named: vLLM's hand-shake did not bring it."""


@dataclass(frozen=True)
class StepReport:
    """The worker's answer to a plan that loaded something."""

    step: int
    failed: bool

    def merged(self, other: StepReport) -> StepReport:
        """The answer of two ranks: done up to the earlier step, failed if either failed."""
        return StepReport(min(self.step, other.step), self.failed or other.failed)


@dataclass
class WorkerTold:
    """What a worker tells the scheduler's side after a step. Several ranks' add up."""

    report: StepReport | None = None
    lost: list[tuple[int, bytes]] = field(default_factory=list)
    """(group, key) of pages that fetches did not bring."""
    stored: list[bytes] = field(default_factory=list)
    """Keys of pages that are in the pool now, where vLLM publishes KV events."""
    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    load_bytes: int = 0
    load_seconds: float = 0.0
    weights: frozenset[str] = frozenset()
    """Versions of the weights, other than the plan's, that ranks compute with."""
    named: dict[int, Any] = field(default_factory=dict)
    """By rank, what vLLM's hand-shake would have brought, to a scheduler that has not got it."""

    def __bool__(self) -> bool:
        amounts = self.prefill_tokens or self.load_seconds
        return bool(self.report or self.lost or self.stored or amounts or self.weights or self.named)

    def computed(self, tokens: int, seconds: float) -> None:
        self.prefill_tokens += tokens
        self.prefill_seconds += seconds

    def loaded(self, nbytes: int, seconds: float) -> None:
        self.load_bytes += nbytes
        self.load_seconds += seconds

    def merged(self, other: WorkerTold) -> WorkerTold:
        """Of two ranks in one step: they compute the same tokens and load their own bytes, at the same time."""
        reports = [told.report for told in (self, other) if told.report is not None]
        return WorkerTold(
            reports[0].merged(reports[-1]) if reports else None,
            self.lost + other.lost,
            # A page counts as stored when the last rank says so; that none is told twice is up to the reader.
            self.stored + other.stored,
            max(self.prefill_tokens, other.prefill_tokens),
            max(self.prefill_seconds, other.prefill_seconds),
            self.load_bytes + other.load_bytes,
            max(self.load_seconds, other.load_seconds),
            self.weights | other.weights,
            {**self.named, **other.named},
        )


@dataclass(frozen=True)
class GroupPages:
    """How a rank's pages of one KV-cache group are named, and how long each is."""

    fields: dict[str, str]
    page_bytes: int


@dataclass(frozen=True)
class RankPages:
    """What a worker tells the scheduler once, after its KV caches were registered. One entry a KV-cache group."""

    groups: tuple[GroupPages, ...]
