"""One connection to a Redis server, made by redis-py, with commands and replies of our own packing over it.

redis-py knows TCP, TLS and unix sockets. What goes over them is sent and parsed here, because a deadline must hold for
a call as a whole, whatever a hostile server drips into it.
"""

from __future__ import annotations

import dataclasses
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

import redis.connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from tent_metadata import resp
from tent_metadata.faults import Garbage, Refusal
from tent_metadata.lives import Lives
from tent_metadata.resolve import Resolver
from tent_metadata.url import Endpoint

__all__ = ["GRACE_S", "Connection", "ServerSettings"]

_READ_BYTES = 1 << 17
GRACE_S = 0.02  # for taking in, past the deadline, what has arrived already


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """How to greet a server."""

    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    db: int = 0
    tls: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)
    lives: Lives = dataclasses.field(default_factory=Lives, repr=False, compare=False)
    """Told who answers."""


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
        self.spoilt = False  # not to be used for another call
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
        words.append(resp.command(b"INFO", b"server"))
        self.send(b"".join(words), deadline)
        *replies, info = self.receive(len(words), deadline, 1 << 16)
        for reply in replies:
            if isinstance(reply, Refusal):
                raise reply
        settings.lives.greeted(info)

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

    def expect(self, count: int, limit: int) -> None:
        """Gets ready for ``count`` replies; more than ``limit`` bytes for them are `Garbage`."""
        self._replies: list[Any] = []
        self._count, self._limit, self._taken = count, limit, 0
        self._pieces: list[bytes] = []
        self._tail = b"\r\n"

    def receive(self, count: int, deadline: float, limit: int) -> list[Any]:
        """The next ``count`` replies, waited for."""
        self.expect(count, limit)
        overdue = 0.0
        while True:
            now = time.monotonic()
            if now >= deadline:
                # This thread may not have been let run for a while: what has arrived meanwhile is no fault of the
                # server, so it is looked at once more, and taken in if it is all there.
                overdue = overdue or now
                if now > overdue + GRACE_S:
                    raise TimeoutError("no answer in time")
            self._socket.settimeout(max(0.0, deadline - now))
            try:
                data = self._socket.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                raise TimeoutError("no answer in time") from None
            if self._take_in(data):
                return self._replies

    def arrived(self) -> list[Any] | None:
        """The replies that were expected, if all of them are here by now; waits for nothing."""
        self._socket.settimeout(0)
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                return None
            if self._take_in(data):
                return self._replies

    def fileno(self) -> int:
        return self._socket.fileno()

    def _take_in(self, data: bytes) -> bool:
        """Parses one piece of what arrives. Whether the replies are complete."""
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._taken += len(data)
        if self._taken > self._limit:
            raise Garbage(f"more than {self._limit} bytes in one answer")
        self._pieces.append(data)
        if not self.spoilt and resp.may_be_huge(self._tail + data):
            self.spoilt, self._reader, self._replies = True, resp.Parser(), []
            data = b"".join(self._pieces)
        self._tail = data[-resp.HEADER_BYTES :]
        self._reader.feed(data)
        while len(self._replies) < self._count:
            reply = self._reader.gets()
            if reply is resp.NOT_YET:
                return False
            self._replies.append(reply)
        if self._reader.has_data():  # more than was asked for: the next answer would be mistaken
            self.spoilt = True
        self._pieces = []
        return True

    def close(self) -> None:
        self._redis.disconnect()

    def abandon(self) -> None:
        """Closes this process's descriptor and nothing else: after a fork the connection is the parent's."""
        self._socket.close()
