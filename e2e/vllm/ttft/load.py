"""The load: clients that talk on over rounds, groups of them under one system prompt, requests at Poisson arrivals.

Every row gets the same prompts at the same times. What a conversation has said so far (its *history*) is what a cache
can have; the newest message is always computed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException

from tent_core.cli.demo_common import same_logprobs
from tent_core.cli.vllm_server import Answer, VllmServer
from tent_core.errors import Internal

_TOKENS = (5, 4000)


@dataclass(frozen=True)
class Shape:
    """What is varied. Lengths are of prompts, in tokens."""

    clients: int
    rounds: int
    groups: int
    """Clients of one group share their system prompt."""
    shortest: int
    longest: int
    message: int
    """Tokens of the newest message."""
    new_tokens: int
    seed: int = 7


@dataclass(frozen=True)
class Ask:
    """One request."""

    number: int
    client: int
    at: float
    """When it is sent, in mean gaps between requests."""
    prompt: list[int]
    history: int
    """So many tokens of it were said before."""


@dataclass
class Reply:
    ask: Ask
    first_token_s: float = 0.0
    handoff_s: float = 0.0
    """Prefill elsewhere: from the request to the decode server to its first token."""
    whole_s: float = 0.0
    cached_tokens: int = 0
    logprobs: list[float] = field(default_factory=list)
    error: str = ""


def conversations(shape: Shape) -> list[Ask]:
    """In the order of their arrival; a client's rounds are in theirs."""
    draw = random.Random(shape.seed)

    def text(count: int) -> list[int]:
        return [draw.randint(*_TOKENS) for _ in range(count)]

    system = [text(shape.shortest - shape.message) for _ in range(shape.groups)]
    growth = (shape.longest - shape.shortest) / max(1, shape.rounds - 1)
    said = [
        system[client % shape.groups] + text(shape.longest - shape.shortest + shape.message)
        for client in range(shape.clients)
    ]
    asks, at = [], 0.0
    for turn in range(shape.rounds):
        for client in draw.sample(range(shape.clients), shape.clients):
            length = int(shape.shortest + growth * turn)
            asks.append(Ask(len(asks), client, at, said[client][:length], length - shape.message))
            at += draw.expovariate(1.0)
    return asks


def histories(asks: list[Ask]) -> list[list[int]]:
    """What has to be computed for every request to find its history: the longest of each conversation."""
    last = {ask.client: ask for ask in asks}
    return [ask.prompt[: ask.history] for ask in last.values()]


def run(
    asks: list[Ask],
    gap: float,
    send: Callable[[Ask], Reply],
    *,
    midway: Callable[[], None] = lambda: None,
) -> tuple[list[Reply], float]:
    """(a reply for each request, seconds from the first request to the last answer). `gap`: mean seconds between
    arrivals. `midway` is called when half of them have been sent."""
    started = time.monotonic()
    with ThreadPoolExecutor(len(asks)) as threads:
        waiting = []
        for i, ask in enumerate(asks):
            time.sleep(max(0.0, started + ask.at * gap - time.monotonic()))
            if i == len(asks) // 2:
                midway()
            waiting.append(threads.submit(_sent, send, ask))
        replies = [one.result() for one in waiting]
    return replies, time.monotonic() - started


def _sent(send: Callable[[Ask], Reply], ask: Ask) -> Reply:
    """A request that fails is a row's result, not the end of the run."""
    began = time.monotonic()
    try:
        return send(ask)
    except (Internal, OSError, HTTPException) as fault:
        return Reply(ask, whole_s=time.monotonic() - began, error=str(fault) or type(fault).__name__)


def to(server: VllmServer, shape: Shape, *, salted: bool = False) -> Callable[[Ask], Reply]:
    """Requests to one server. `salted`: nothing is found anywhere."""

    def send(ask: Ask) -> Reply:
        began = time.monotonic()
        salt = f"cold {ask.number}" if salted else None
        answer = server.complete(ask.prompt, new_tokens=shape.new_tokens, salt=salt, timeout=600)
        return _reply(ask, answer, began, answer.first_token_s)

    return send


def through(prefill: VllmServer, decode: VllmServer, shape: Shape) -> Callable[[Ask], Reply]:
    """Requests as a proxy sends them: prefilled on one server, decoded on another."""

    def send(ask: Ask) -> Reply:
        began = time.monotonic()
        handoff = prefill.prefill(ask.prompt)
        prefilled = time.monotonic() - began
        answer = decode.complete(ask.prompt, new_tokens=shape.new_tokens, handoff=handoff, timeout=600)
        reply = _reply(ask, answer, began, prefilled + answer.first_token_s)
        reply.handoff_s = answer.first_token_s
        return reply

    return send


def _reply(ask: Ask, answer: Answer, began: float, first: float) -> Reply:
    return Reply(ask, first, 0.0, time.monotonic() - began, answer.cached_tokens or 0, list(answer.logprobs))


def differing(replies: list[Reply], reference: list[Reply]) -> int:
    """Answers that are not those of the reference; requests without an answer are not among them."""
    pairs = zip(replies, reference, strict=True)
    return sum(not one.error and not same_logprobs(one.logprobs, other.logprobs) for one, other in pairs)


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]
