"""A trace of what a serving cluster asks a KV cache for: conversations of several turns, with think times between them.

Each conversation belongs to an application, whose system prompt all its conversations share, and half of them are about
a document that others ask about too; both are chosen by Zipf's law. Every turn's prompt is what was said before plus a
new message; the answer becomes part of the next turn's prompt. A page is a block of tokens and stands for everything
before it as well, so a prompt is a chain of pages, and two prompts share pages as far as they begin alike.

The same seed gives the same trace.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Request", "Workload", "conversations"]


@dataclass(frozen=True)
class Workload:
    """Tokens are medians of lognormal distributions unless it says otherwise; seconds throughout."""

    seed: int = 1
    requests: int = 12_000
    block: int = 64  # tokens of a page
    rate: float = 1.0  # conversations that begin in a second, on average
    applications: int = 50
    documents: int = 4000
    zipf: float = 1.0
    about_document: float = 0.5  # share of the conversations
    system_tokens: int = 1000
    document_tokens: int = 2500
    message_tokens: int = 80
    answer_tokens: int = 300
    turns: float = 5.0  # mean of a geometric distribution
    think: float = 40.0
    spread: float = 1.0  # of all lognormal distributions: the deviation of the logarithm


@dataclass(frozen=True)
class Request:
    """Pages by number. All of ``prompt`` is wanted; ``answer`` is new, and stored when it has been computed."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class _Choice:
    """Numbers below ``count`` by Zipf's law."""

    def __init__(self, count: int, exponent: float, chance: random.Random) -> None:
        self._totals = list(itertools.accumulate(1.0 / (k + 1) ** exponent for k in range(count)))
        self._numbers = range(count)
        self._chance = chance

    def __call__(self) -> int:
        return self._chance.choices(self._numbers, cum_weights=self._totals)[0]


class _Pages:
    """Numbers pages; those of a shared part of a prompt once for everybody who begins with it."""

    def __init__(self) -> None:
        self._fresh = itertools.count()
        self._shared: dict[tuple[int, ...], tuple[int, ...]] = {}

    def new(self, count: int) -> tuple[int, ...]:
        return tuple(itertools.islice(self._fresh, max(0, count)))

    def shared(self, key: tuple[int, ...], count: int) -> tuple[int, ...]:
        if key not in self._shared:
            self._shared[key] = self.new(count)
        return self._shared[key]


@dataclass
class _Conversation:
    pages: tuple[int, ...]
    tokens: int
    turns: int


def conversations(workload: Workload) -> Iterator[Request]:
    """The requests, in the order of their time."""
    w, chance = workload, random.Random(workload.seed)
    pages = _Pages()
    application = _Choice(w.applications, w.zipf, chance)
    document = _Choice(w.documents, w.zipf, chance)

    def about(median: float) -> int:
        return max(1, round(median * chance.lognormvariate(0.0, w.spread)))

    systems = [about(w.system_tokens) for _ in range(w.applications)]
    documents = [about(w.document_tokens) for _ in range(w.documents)]

    def begin() -> _Conversation:
        app = application()
        # Whole pages only: what begins within a page is the conversation's own.
        tokens = systems[app] // w.block * w.block
        known = pages.shared((app,), tokens // w.block)
        if chance.random() < w.about_document:
            doc = document()
            more = documents[doc] // w.block
            known += pages.shared((app, doc), more)
            tokens += more * w.block
        turns = 1
        while chance.random() > 1.0 / w.turns:
            turns += 1
        return _Conversation(known, tokens, turns)

    def extend(conversation: _Conversation, tokens: int) -> tuple[int, ...]:
        conversation.tokens += tokens
        more = pages.new(conversation.tokens // w.block - len(conversation.pages))
        conversation.pages += more
        return more

    order = itertools.count()  # ties of time
    waiting: list[tuple[float, int, _Conversation | None]] = [(0.0, next(order), None)]
    for _ in range(w.requests):
        now, _, conversation = heapq.heappop(waiting)
        if conversation is None:
            conversation = begin()
            heapq.heappush(waiting, (now + chance.expovariate(w.rate), next(order), None))
        extend(conversation, about(w.message_tokens))
        prompt = conversation.pages
        yield Request(prompt, extend(conversation, about(w.answer_tokens)))
        conversation.turns -= 1
        if conversation.turns:
            pause = w.think * chance.lognormvariate(0.0, w.spread)
            heapq.heappush(waiting, (now + pause, next(order), conversation))
