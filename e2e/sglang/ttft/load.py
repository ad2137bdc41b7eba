"""What the clients of the benchmark ask, and when: conversations whose history grows.

A conversation is a long first prompt and short turns after it; each turn's prompt is all that came before it and some
new tokens. Everything is drawn from a seed, so that every backend is asked the same at the same times.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

__all__ = ["Ask", "Shape", "Turn", "closed_loop", "poisson", "prompts"]

_FIRST_TOKEN, _TOKENS = 5, 4000

Prompt = list[int]


@dataclass(frozen=True)
class Shape:
    """Of one block: what all backends are asked once."""

    clients: int
    turns: int
    """After the first, which finds nothing and leaves what the others find."""
    first: int
    """Tokens of the first prompt."""
    more: int
    """Tokens that each turn adds."""

    @property
    def longest(self) -> int:
        return self.first + self.turns * self.more


@dataclass(frozen=True)
class Turn:
    """One answer."""

    client: int
    turn: int
    prompt: int
    """Tokens."""
    stored: int
    """Of these, what came from the backend."""
    cached: int
    """Of these, what was not computed, from wherever."""
    ttft: float
    began: float
    """Seconds since the block began."""


Ask = Callable[[Prompt], tuple[int, int, float]]
"""Asks the server: (tokens from the backend, tokens not computed, seconds to the first token)."""


def prompts(shape: Shape, seed: int) -> list[list[Prompt]]:
    """Per client its prompts, turn by turn."""
    made = []
    for client in range(shape.clients):
        draw = random.Random(f"{seed}/{client}")
        whole = [_FIRST_TOKEN + draw.randrange(_TOKENS) for _ in range(shape.longest)]
        made.append([whole[: shape.first + turn * shape.more] for turn in range(shape.turns + 1)])
    return made


class _Block:
    """The answers of one block, collected from several threads."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.turns: list[Turn] = []

    def now(self) -> float:
        return time.monotonic() - self._started

    def one(self, client: int, turn: int, prompt: Prompt) -> None:
        began = self.now()
        stored, cached, ttft = self._ask(prompt)
        done = Turn(client, turn, len(prompt), stored, cached, ttft, began)
        with self._lock:
            self.turns.append(done)


def fill(ask: Ask, asked: Sequence[Sequence[Prompt]]) -> list[Turn]:
    """The first turns, one after the other."""
    block = _Block(ask)
    for client, prompt in enumerate(asked):
        block.one(client, 0, prompt[0])
    return block.turns


def poisson(ask: Ask, asked: Sequence[Sequence[Prompt]], rate: float, seed: int) -> list[Turn]:
    """Turns after the first arrive at random, `rate` a second together; clients take turns. A client whose last answer
    is not there yet asks as soon as it is: nobody asks twice at a time."""
    draw = random.Random(f"arrivals/{seed}")
    block = _Block(ask)
    order = [(client, turn) for turn in range(1, len(asked[0])) for client in range(len(asked))]
    at, times = 0.0, []
    for _ in order:
        at += draw.expovariate(rate)
        times.append(at)
    lanes = [
        [(t, turn) for t, (c, turn) in zip(times, order, strict=True) if c == n] for n in range(len(asked))
    ]

    def lane(client: int) -> None:
        for when, turn in lanes[client]:
            if (left := when - block.now()) > 0:
                time.sleep(left)
            block.one(client, turn, asked[client][turn])

    with ThreadPoolExecutor(len(asked)) as pool:
        list(pool.map(lane, range(len(asked))))
    return block.turns


def closed_loop(ask: Ask, asked: Sequence[Sequence[Prompt]], at_once: int) -> tuple[list[Turn], float]:
    """`at_once` callers that ask the next thing as soon as they have an answer, clients in turn; and its seconds."""
    block = _Block(ask)
    todo = iter([(client, turn) for turn in range(1, len(asked[0])) for client in range(len(asked))])
    lock = threading.Lock()

    def caller(_: int) -> None:
        while True:
            with lock:
                following = next(todo, None)
            if following is None:
                return
            client, turn = following
            block.one(client, turn, asked[client][turn])

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(caller, range(at_once)))
    return block.turns, block.now()
