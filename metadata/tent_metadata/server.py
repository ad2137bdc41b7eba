"""One Redis server: its connections, its breaker, and calls bounded by a deadline.

redis-py makes the connections (TCP, TLS, unix sockets). Commands and replies go over them in pieces of our own
packing, because a deadline must hold for a call as a whole, whatever a hostile server drips into it.
"""

from __future__ import annotations

import collections
import dataclasses
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis.connection
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tent_metadata import resp
from tent_metadata.breaker import Breaker
from tent_metadata.counters import Counters
from tent_metadata.faults import BROKEN_KINDS, Garbage, Refusal, Unreachable
from tent_metadata.resolve import Resolver
from tent_metadata.url import Endpoint

__all__ = ["Call", "Server", "ServerSettings"]

_READ_BYTES = 1 << 17
_KEPT_IDLE = 8


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """How to greet a server."""

    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    db: int = 0
    tls: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)


class _BoundedTcp(redis.connection.Connection):  # type: ignore[misc]
    """redis-py's connection, whose name look-up and connects end by ``tent_deadline`` together."""

    tent_resolver: Resolver
    tent_deadline: float

    def _connect(self) -> socket.socket:
        failure: OSError = OSError(f"no address for {self.host!r}")
        for family, kind, proto, _, place in self.tent_resolver.addresses(
            self.host, self.port, self.tent_deadline
        ):
            sock = socket.socket(family, kind, proto)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.settimeout(_left(self.tent_deadline))
                sock.connect(place)
                return sock
            except OSError as error:
                failure = error
                sock.close()
        raise failure


class _BoundedTls(redis.connection.SSLConnection, _BoundedTcp):  # type: ignore[misc]
    """The same under TLS."""


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _greet_later(connection: Any) -> None:
    """Stands in for redis-py's own greeting: `Connection.greet` sends it in one piece, under the deadline."""


class Connection:
    """One connection and its reader. Used by one thread at a time."""

    def __init__(
        self, endpoint: Endpoint, settings: ServerSettings, resolver: Resolver, deadline: float
    ) -> None:
        left = _left(deadline)
        common = {
            "socket_timeout": left,
            "socket_connect_timeout": left,
            "retry": Retry(NoBackoff(), 0),
            "redis_connect_func": _greet_later,
        }
        if endpoint.path:
            self._redis = redis.connection.UnixDomainSocketConnection(path=endpoint.path, **common)
        else:
            made = _BoundedTls if settings.tls is not None else _BoundedTcp
            self._redis = made(host=endpoint.host, port=endpoint.port, **common, **(settings.tls or {}))
            self._redis.tent_resolver, self._redis.tent_deadline = resolver, deadline
        self._reader = resp.make_reader()
        self._redis.connect()
        self._socket: socket.socket = self._redis._sock
        self._plain = settings.tls is None
        self.used = False
        self.spoilt = False  # its reader stopped in the middle of something
        try:
            self._greet(settings, deadline)
        except BaseException:
            self.close()
            raise

    def _greet(self, settings: ServerSettings, deadline: float) -> None:
        words = []
        if settings.password is not None:
            user = [] if settings.username is None else [settings.username.encode()]
            words.append(resp.command(b"AUTH", *user, settings.password.encode()))
        if settings.db:
            words.append(resp.command(b"SELECT", b"%d" % settings.db))
        if words:
            self.send(b"".join(words), deadline)
            for reply in self.receive(len(words), deadline, 1 << 16):
                if isinstance(reply, Refusal):
                    raise reply

    def is_quiet(self) -> bool:
        """Whether an idle connection is still open and holds no bytes that nobody asked for."""
        if not self._plain:
            return True
        try:
            self._socket.settimeout(0)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def send(self, payload: bytes, deadline: float) -> None:
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(payload)

    def receive(self, count: int, deadline: float, limit: int) -> list[Any]:
        """The next ``count`` replies. More than ``limit`` bytes for them are `Garbage`."""
        replies: list[Any] = []
        reader, pieces, taken, tail = self._reader, [], 0, b"\r\n"
        while True:
            while len(replies) < count:
                reply = reader.gets()
                if reply is resp.NOT_YET:
                    break
                replies.append(reply)
            else:
                return replies
            self._socket.settimeout(_left(deadline))
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            taken += len(data)
            if taken > limit:
                raise Garbage(f"more than {limit} bytes in one answer")
            pieces.append(data)
            if not self.spoilt and resp.may_be_huge(tail + data):
                self.spoilt, reader, replies, data = True, resp.Parser(), [], b"".join(pieces)
            reader.feed(data)
            tail = data[-resp.HEADER_BYTES :]

    def close(self) -> None:
        self._redis.disconnect()

    def abandon(self) -> None:
        """Closes this process's descriptor and nothing else: after a fork the connection is the parent's."""
        self._socket.close()


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
        try:
            try:
                self._send()
            except (ConnectionError, RedisError):
                if self._connection is None or not self._connection.used:
                    raise
                self._send_again()
        except (OSError, RedisError, Garbage, Refusal) as error:
            raise self._drop(error) from error
        except BaseException as error:
            self._drop(error)
            raise

    def finish(self) -> list[Any]:
        """The replies; error replies are `Refusal` objects among them. Raises `Unreachable`."""
        try:
            try:
                replies = self._receive()
            except ConnectionError:
                # An idle connection that the server had closed meanwhile: a restart, or its time-out for idle clients.
                # What was sent may have run; every command of ours may run twice.
                if self._connection is None or not self._connection.used:
                    raise
                self._send_again()
                replies = self._receive()
            for reply in replies:
                if type(reply) is Refusal and reply.kind in BROKEN_KINDS:
                    raise reply
        except (OSError, RedisError, Garbage, Refusal) as error:
            raise self._drop(error) from error
        except BaseException as error:
            self._drop(error)
            raise
        assert self._connection is not None
        self._server.give_back(self._connection)
        self._server.breaker.succeeded()
        return replies

    def _send(self) -> None:
        self._connection = self._server.take(self._deadline)
        self._connection.send(self._payload, self._deadline)

    def _send_again(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._connection = None
        self._send()

    def _receive(self) -> list[Any]:
        assert self._connection is not None
        return self._connection.receive(self._count, self._deadline, self._limit)

    def _drop(self, error: BaseException) -> Unreachable:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return self._server.lost(error)


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
