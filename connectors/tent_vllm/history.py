"""What became of requests: found, loaded, computed, and why; what `tent explain` shows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

_KEPT = 512


@dataclass
class Story:
    """One request. Counts are of tokens."""

    request: str
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
    why: str = "it never had its turn in vLLM's queue"

    def record(self, unit: int) -> dict[str, Any]:
        """For `tent explain`, in pages of `unit` tokens."""
        local, lost = self.local // unit, self.lost // unit
        why = [f"{local} in vLLM's own cache"] * bool(local) + [self.why] + [f"{lost} lost"] * bool(lost)
        if self.waited_ms >= 1:
            why.append(f"waited {self.waited_ms:.0f} ms for the look-up")
        return {
            "did": "prompt",
            "asked": self.prompt // unit,
            "found": self.found // unit,
            "given": (self.loaded - self.lost) // unit,
            "why": "; ".join(why),
            "request": self.request,
        }


class History:
    """Of the requests that have not ended, and no more than so many. For one thread."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._stories: OrderedDict[str, Story] = OrderedDict()

    def of(self, req_id: str) -> Story:
        story = self._stories.get(req_id)
        if story is None:
            story = self._stories[req_id] = Story(req_id)
            while len(self._stories) > self._kept:
                self._stories.popitem(last=False)
        return story

    def end(self, req_id: str) -> Story:
        """The story of a request that is over; it is forgotten."""
        story = self.of(req_id)
        del self._stories[req_id]
        return story
