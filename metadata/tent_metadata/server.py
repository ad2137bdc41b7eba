"""One Redis server: its idle connections, its breaker, and calls bounded by a deadline."""

from __future__ import annotations

import collections
import contextlib
import select
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import redis.exceptions
from redis.exceptions import RedisError

from tent_metadata.breaker import Breaker
from tent_metadata.connection import GRACE_S, Connection, ServerSettings
from tent_metadata.counters import Counters
from tent_metadata.faults import BROKEN_KINDS, Garbage, Refusal, Unreachable
from tent_metadata.resolve import Resolver
from tent_metadata.url import Endpoint

__all__ = ["Call", "Server", "ServerSettings", "finish_all"]

_KEPT_IDLE = 8


class Server:
    """Calls to one server. Thread-safe: each call has a connection of its own while it runs."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: ServerSettings,
        *,
        resolver: Resolver,
        counters: Counters,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.breaker = Breaker()
        self.counters = counters
        self._settings = settings
        self._resolver = resolver
        self._on_lost = on_lost
        self._idle: collections.deque[Connection] = collections.deque()
        self._closed = False

    def begin(self, payload: bytes, count: int, deadline: float, limit: int) -> Call:
        """Sends commands that have ``count`` replies; `Call.finish` fetches them. Raises `Unreachable`."""
        if not self.breaker.admits():
            raise Unreachable(f"{self.endpoint}: {self.breaker.reason}", kind="open")
        return Call(self, payload, count, deadline, limit)

    def exchange(self, payload: bytes, count: int, deadline: float, limit: int) -> list[Any]:
        """`begin` and `finish` in one."""
        return self.begin(payload, count, deadline, limit).finish()

    def take(self, deadline: float) -> Connection:
        """An idle connection, or a new one."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if connection.is_quiet():
                return connection
            connection.close()
        return Connection(self.endpoint, self._settings, self._resolver, deadline)

    def give_back(self, connection: Connection) -> None:
        connection.used = True
        if self._closed or connection.spoilt or len(self._idle) >= _KEPT_IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def lost(self, error: BaseException) -> Unreachable:
        """Opens the breaker for ``error``, and says so as `Unreachable`."""
        kind, text = _describe(error)
        self.breaker.failed(text)
        self.counters.count("failures", kind)
        if kind == "unreachable" and self._on_lost is not None and not self._closed:
            self._on_lost()
        return Unreachable(f"{self.endpoint}: {text}", kind)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def abandon(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().abandon()


class Call:
    """Commands sent to one server, whose replies are still to come."""

    def __init__(self, server: Server, payload: bytes, count: int, deadline: float, limit: int) -> None:
        self._server = server
        self._payload = payload
        self._count = count
        self._deadline = deadline
        self._limit = limit
        self._connection: Connection | None = None
        with self._dropped_on_error():
            try:
                self._send()
            except (ConnectionError, RedisError):
                self._send_again()

    def finish(self) -> list[Any]:
        """The replies, waited for; error replies are `Refusal` objects among them. Raises `Unreachable`."""
        with self._dropped_on_error():
            try:
                replies = self._receive()
            except ConnectionError:
                self._send_again()
                replies = self._receive()
            return self._done(replies)

    def arrived(self) -> list[Any] | None:
        """The replies if they are here by now, None if not. Raises `Unreachable`."""
        with self._dropped_on_error():
            assert self._connection is not None
            try:
                replies = self._connection.arrived()
            except ConnectionError:
                self._send_again()
                return None
            return None if replies is None else self._done(replies)

    def expire(self) -> Unreachable:
        """Gives up waiting."""
        return self._drop(TimeoutError())

    def fileno(self) -> int:
        assert self._connection is not None
        return self._connection.fileno()

    def _send(self) -> None:
        self._connection = self._server.take(self._deadline)
        self._connection.send(self._payload, self._deadline)
        self._connection.expect(self._count, self._limit)

    def _send_again(self) -> None:
        """After an error: on a new connection, if the old one had lain idle, since the server may have closed it then
        (a restart, a time-out for idle clients). What was sent may have run; each command of ours may run twice."""
        if self._connection is None or not self._connection.used:
            raise
        self._connection.close()
        self._connection = None
        self._send()

    def _receive(self) -> list[Any]:
        assert self._connection is not None
        return self._connection.receive(self._count, self._deadline, self._limit)

    def _done(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if type(reply) is Refusal and reply.kind in BROKEN_KINDS:
                raise reply
        assert self._connection is not None
        self._server.give_back(self._connection)
        self._server.breaker.succeeded()
        return replies

    @contextlib.contextmanager
    def _dropped_on_error(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RedisError, Garbage, Refusal) as error:
            raise self._drop(error) from error
        except BaseException as error:
            self._drop(error)
            raise

    def _drop(self, error: BaseException) -> Unreachable:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return self._server.lost(error)


def finish_all(calls: Sequence[Call], deadline: float) -> list[list[Any] | Unreachable]:
    """The outcome of each call, all waited for together: one that stands still takes nothing from the others."""
    if len(calls) == 1:
        try:
            return [calls[0].finish()]
        except Unreachable as error:
            return [error]
    outcomes: list[list[Any] | Unreachable] = [Unreachable("not asked")] * len(calls)
    poll = select.poll()
    waiting = {}
    for i, call in enumerate(calls):
        waiting[call.fileno()] = i
        poll.register(call.fileno(), select.POLLIN)
    while waiting:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        for fd, _ in ready:
            i = waiting.pop(fd)
            poll.unregister(fd)
            try:
                replies = calls[i].arrived()
            except Unreachable as error:
                outcomes[i] = error
                continue
            if replies is None:
                waiting[calls[i].fileno()] = i
                poll.register(calls[i].fileno(), select.POLLIN)
            else:
                outcomes[i] = replies
        if not ready or time.monotonic() > deadline + GRACE_S:
            break
    for i in waiting.values():
        outcomes[i] = calls[i].expire()
    return outcomes


def _describe(error: BaseException) -> tuple[str, str]:
    if isinstance(error, Refusal):
        return error.kind, error.explain()
    if isinstance(error, Garbage):
        return "garbage", f"it does not speak Redis's protocol ({error})"
    if isinstance(error, (TimeoutError, redis.exceptions.TimeoutError)):
        return "timeout", "no answer in time"
    if isinstance(error, (OSError, RedisError)):
        return "unreachable", str(error) or type(error).__name__
    return "interrupted", type(error).__name__
