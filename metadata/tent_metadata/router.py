"""Which server holds which bucket, and a batch of commands sent to all of them at once.

A router takes ``(bucket, packed command)`` pairs and returns one reply each: data, a `Refusal` (the server's error
reply) or an `Unreachable` (that command's server did not answer). It raises nothing for faults of servers.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tent_metadata import resp
from tent_metadata.counters import Counters
from tent_metadata.faults import Refusal, Unreachable
from tent_metadata.resolve import Resolver
from tent_metadata.server import Server, ServerSettings, finish_all
from tent_metadata.url import Address, Endpoint

__all__ = ["Router", "SentinelRouter", "StandaloneRouter", "ask_any"]

_REDISCOVER_S = 0.1


class Router(Protocol):
    """Thread-safe; every call ends by its deadline (``time.monotonic``)."""

    spread: bool  # whether the keys of one command must lie in one bucket

    def call(self, commands: Sequence[tuple[int, bytes]], deadline: float, limit: int) -> list[Any]: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


class StandaloneRouter:
    """One server for every bucket."""

    spread = False

    def __init__(
        self,
        endpoint: Endpoint,
        settings: ServerSettings,
        *,
        resolver: Resolver,
        counters: Counters,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.server = Server(endpoint, settings, resolver=resolver, counters=counters, on_lost=on_lost)

    def call(self, commands: Sequence[tuple[int, bytes]], deadline: float, limit: int) -> list[Any]:
        payload = b"".join([command for _, command in commands]) if len(commands) > 1 else commands[0][1]
        try:
            return self.server.exchange(payload, len(commands), deadline, limit)
        except Unreachable as error:
            return [error] * len(commands)

    def close(self) -> None:
        self.server.close()

    def abandon(self) -> None:
        self.server.abandon()


def ask_any(
    servers: Sequence[Server], command: bytes, good: Callable[[Any], bool], deadline: float
) -> tuple[Any, Server] | Unreachable:
    """The first good answer of several servers, asked at once; those whose breaker is closed come first."""
    order = list(servers)
    random.shuffle(order)
    order.sort(key=lambda server: server.breaker.is_open)
    calls, why = [], Unreachable("no server to ask")
    now = time.monotonic()
    deadline = now + (deadline - now) / 2  # what is asked for is still to be used
    for server in order:
        now = time.monotonic()
        try:  # half of what is left each: one that swallows packets must not take the others' time
            calls.append((server, server.begin(command, 1, now + (deadline - now) / 2, 1 << 20)))
        except Unreachable as error:
            why = error if why.kind != "auth" else why
        if len(calls) >= 3:
            break
    answer: tuple[Any, Server] | None = None
    for (server, _), outcome in zip(calls, finish_all([call for _, call in calls], deadline), strict=True):
        if isinstance(outcome, Unreachable):
            why = outcome if why.kind != "auth" else why
            continue
        reply = outcome[0]
        if answer is None and good(reply):
            answer = (reply, server)
        elif isinstance(reply, Refusal):
            why = Unreachable(f"{server.endpoint}: {reply.explain()}", reply.kind)
    return answer if answer is not None else why


class SentinelRouter:
    """The master that the sentinels name; asked again whenever it fails or turns out to be read-only."""

    spread = False

    def __init__(
        self, address: Address, settings: ServerSettings, *, resolver: Resolver, counters: Counters
    ) -> None:
        self._service = address.service
        self._settings = settings
        self._resolver = resolver
        self._counters = counters
        greeting = ServerSettings(address.sentinel_username, address.sentinel_password, 0, address.tls)
        self._sentinels = [
            Server(endpoint, greeting, resolver=resolver, counters=counters) for endpoint in address.endpoints
        ]
        self._lock = threading.Lock()
        self._master: Server | None = None
        self._why = Unreachable("no sentinel has been asked yet")
        self._doubted = True
        self._next_ask = 0.0

    def call(self, commands: Sequence[tuple[int, bytes]], deadline: float, limit: int) -> list[Any]:
        if self._doubted:
            self._discover(deadline)
        master = self._master
        if master is None:
            return [self._why] * len(commands)
        try:
            replies = master.exchange(b"".join([c for _, c in commands]), len(commands), deadline, limit)
        except Unreachable as error:
            self._doubted = True
            return [error] * len(commands)
        if any(type(reply) is Refusal and reply.kind == "read_only" for reply in replies):
            self._doubted = True
        return replies

    def _discover(self, deadline: float) -> None:
        """Asks the sentinels, one caller at a time and at a bounded pace; the others go on with what is known."""
        if not self._lock.acquire(
            blocking=self._master is None, timeout=_wait(self._master is None, deadline)
        ):
            return
        try:
            now = time.monotonic()
            if not self._doubted or now < self._next_ask:
                return
            self._next_ask = now + _REDISCOVER_S * (0.5 + random.random())
            command = resp.command(b"SENTINEL", b"get-master-addr-by-name", self._service.encode())
            answer = ask_any(self._sentinels, command, _is_place, deadline)
            if isinstance(answer, Unreachable):
                self._why = answer
                return
            host, port = answer[0]
            self._use(Endpoint(host=host.decode(), port=int(port)))
            self._doubted = False
        finally:
            self._lock.release()

    def _use(self, endpoint: Endpoint) -> None:
        old = self._master
        if old is not None and old.endpoint == endpoint:
            return
        self._master = Server(endpoint, self._settings, resolver=self._resolver, counters=self._counters)
        if old is not None:
            self._counters.count("topology", "failover")
            old.close()

    def close(self) -> None:
        for server in [*self._sentinels, *([self._master] if self._master else [])]:
            server.close()

    def abandon(self) -> None:
        for server in [*self._sentinels, *([self._master] if self._master else [])]:
            server.abandon()


def _wait(blocking: bool, deadline: float) -> float:
    return max(0.0, deadline - time.monotonic()) if blocking else -1


def _is_place(reply: Any) -> bool:
    return (
        isinstance(reply, list)
        and len(reply) == 2
        and all(isinstance(part, bytes) for part in reply)
        and 0 < len(reply[0]) < 256
        and reply[0].isascii()
        and reply[1].isdigit()
        and 0 < int(reply[1][:6]) < 65536
    )
