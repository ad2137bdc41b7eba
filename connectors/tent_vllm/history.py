"""What became of the last requests: found, loaded, computed, and why. A bounded ring, kept by the scheduler's side."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

_KEPT = 512


@dataclass
class Story:
    """One request. Counts are of tokens."""

    request: str
    at: float
    """Seconds since the epoch, at its arrival."""
    prompt: int = 0
    local: int = 0
    """Found in vLLM's own cache."""
    found: int = 0
    """Found in the pool, beyond the local ones."""
    loaded: int = 0
    lost: int = 0
    """Promised and not come: computed after all."""
    waited_ms: float = 0.0
    """How long it waited for its look-up after its turn had come."""
    why: str = "waiting in vLLM's queue"

    def in_words(self) -> str:
        """One line for a log."""
        return (
            f"{self.request}: prompt {self.prompt}, local {self.local}, in the pool {self.found}, loaded "
            f"{self.loaded}, lost {self.lost} tokens; waited {self.waited_ms:g} ms; {self.why}"
        )


class History:
    """For one thread; `rows` may be called by another."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._stories: OrderedDict[str, Story] = OrderedDict()

    def of(self, req_id: str) -> Story:
        story = self._stories.get(req_id)
        if story is None:
            story = self._stories[req_id] = Story(req_id, time.time())
            while len(self._stories) > self._kept:
                self._stories.popitem(last=False)
        return story

    def rows(self) -> list[dict[str, Any]]:
        """The last requests, oldest first."""
        return [asdict(story) for story in list(self._stories.values())]
