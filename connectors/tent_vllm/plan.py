"""What the scheduler's side tells the worker's side each step, and what it is told back. Plain data, picklable."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


def no_blocks() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


@dataclass
class StepPlan:
    """One step of the serving engine. `*_keys[i]` goes with `*_blocks[i]`; blocks are vLLM's block ids."""

    step: int = 0
    epoch: int = 0
    """Rises when a load has failed and vLLM has taken its consequences. What was computed in a step of an epoch in
    which a load failed may rest on pages that never came, so the worker stores nothing of it."""
    load_keys: list[bytes] = field(default_factory=list)
    load_blocks: NDArray[np.int64] = field(default_factory=no_blocks)
    save_keys: list[bytes] = field(default_factory=list)
    save_blocks: NDArray[np.int64] = field(default_factory=no_blocks)
    reused: NDArray[np.int64] = field(default_factory=no_blocks)
    """Blocks that got a new owner since the last step: about to be overwritten."""
    generations: dict[bytes, int] = field(default_factory=dict)
    """Namespace digest -> how often it was cleared, by what look-ups have seen. A worker has a store of its own, which
    would hear of a clear some time later and have its pages refused until then."""
    report: bool = False
    """Whether the worker must answer with a StepReport."""


@dataclass(frozen=True)
class StepReport:
    """The worker's answer to a plan that loaded something."""

    step: int
    failed: bool

    def merged(self, other: StepReport) -> StepReport:
        """The answer of two ranks: done up to the earlier step, failed if either failed."""
        return StepReport(min(self.step, other.step), self.failed or other.failed)


@dataclass(frozen=True)
class RankPages:
    """What a worker tells the scheduler once, after its KV caches were registered: how this rank's pages are named."""

    fields: dict[str, str]
    page_bytes: int
