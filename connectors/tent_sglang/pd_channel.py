"""How a prefill server tells a decode server that blocks are there to be fetched, and hears that they are.

The session id that SGLang hands around is "host:port"; here it is where this process listens. A request carries a
ticket of tent_core.handoff, sealed with the cluster's secret, whose `form` is a digest of everything else in it; so
nobody outside the cluster can ask for anything, and what was asked cannot be changed. All else is hostile.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tent_core.errors import PeerDead, PeerUnreachable, ProtocolError

from .guard import log
from .pd_grants import NAME_BYTES

__all__ = ["DONE", "ENDED", "FAILED", "Channels", "Fetch", "Listener"]

DONE, ENDED, FAILED = 0, 1, 2

_MAGIC = b"TNPD\x01"
_FETCH, _PROBE = 1, 2
_HEAD = struct.Struct(f"<5sBI{NAME_BYTES}sI")  # magic, kind, ranges, grant, bytes of ticket
_ANSWER = struct.Struct("<BH")
_MOST_RANGES, _MOST_TICKET, _MOST_WORDS = 1 << 20, 256 << 10, 512
_MOST_CONNECTIONS = 256
_REQUEST_S = 10.0  # for a request to arrive that has begun
_CONNECT_S = 5.0

Words = npt.NDArray[np.uint64]
Answer = tuple[int, str]


@dataclass(frozen=True)
class Fetch:
    """One request: what was offered under `ticket` is wanted at these addresses."""

    grant: bytes
    addresses: Words
    lengths: Words
    ticket: str

    @staticmethod
    def form(grant: bytes, addresses: Words, lengths: Words) -> bytes:
        """What the ticket must say that it is for."""
        return hashlib.sha256(grant + addresses.tobytes() + lengths.tobytes()).digest()

    def encode(self) -> bytes:
        ticket = self.ticket.encode()
        head = _HEAD.pack(_MAGIC, _FETCH, len(self.addresses), self.grant, len(ticket))
        return head + ticket + self.addresses.tobytes() + self.lengths.tobytes()


class Listener:
    """Answers requests, each connection on a thread of its own. `close` ends it."""

    def __init__(self, host: str, answer: Callable[[Fetch], Answer]) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self._answer = answer
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closed = False
        self.port = int(self._socket.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, name="tent-pd-accept", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Nothing new is taken."""
        with self._lock:
            self._closed = True
            ours = [self._socket, *self._open]
        for one in ours:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Waits for the requests that are being answered."""
        self.stop()
        with self._lock:
            threads = [self._acceptor, *self._open.values()]
        for thread in threads:
            thread.join()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.05)  # out of descriptors, or the connection was gone already
                continue
            with self._lock:
                if self._closed or len(self._open) >= _MOST_CONNECTIONS:
                    connection.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(connection,), name="tent-pd", daemon=True)
                self._open[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                connection.settimeout(None)
                first = connection.recv(1)  # whoever has nothing to ask may wait
                if not first:
                    return
                code, words = self._one(connection, first)
                text = words.encode()[:_MOST_WORDS]
                connection.sendall(_ANSWER.pack(code, len(text)) + text)
        except (OSError, ProtocolError) as error:
            log.debug("a prefill server's connection ended: %s", str(error))
        finally:
            with self._lock:
                self._open.pop(connection, None)
            connection.close()

    def _one(self, connection: socket.socket, first: bytes) -> Answer:
        until = time.monotonic() + _REQUEST_S
        head = first + _receive(connection, _HEAD.size - 1, until)
        magic, kind, ranges, grant, ticket = _HEAD.unpack(head)
        if magic != _MAGIC or kind not in (_FETCH, _PROBE) or ranges > _MOST_RANGES or ticket > _MOST_TICKET:
            raise ProtocolError("these are no words of a prefill server")
        if kind == _PROBE:
            return DONE, ""
        sealed = _receive(connection, ticket, until)
        addresses, lengths = (
            np.frombuffer(_receive(connection, 8 * ranges, until), dtype=np.uint64) for _ in range(2)
        )
        return self._answer(Fetch(grant, addresses, lengths, sealed.decode("ascii", "replace")))


class Channels:
    """Connections to decode servers, kept for the next request. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[str, list[socket.socket]] = {}

    def ask(self, session: str, request: Fetch | None, timeout: float) -> Answer:
        """What the decode server answers to the request (None: to a probe). Blocks up to `timeout`. Raises
        PeerUnreachable or PeerDead."""
        until = time.monotonic() + timeout
        data = _HEAD.pack(_MAGIC, _PROBE, 0, bytes(NAME_BYTES), 0) if request is None else request.encode()
        connection = self._take(session, until)
        try:
            connection.settimeout(max(0.001, until - time.monotonic()))
            connection.sendall(data)
            code, size = _ANSWER.unpack(_receive(connection, _ANSWER.size, until))
            words = _receive(connection, min(size, _MOST_WORDS), until).decode("utf-8", "replace")
        except (OSError, ProtocolError) as error:
            connection.close()
            raise PeerDead(f"decode server {session} did not answer: {error}") from None
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.setdefault(session, []).append(connection)
        return code, words

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _take(self, session: str, until: float) -> socket.socket:
        with self._lock:
            idle = self._idle.get(session, [])
            while idle:
                connection = idle.pop()
                if _quiet(connection):
                    return connection
                connection.close()
            self._idle.pop(session, None)
        host, _, port = session.rpartition(":")
        patience = min(_CONNECT_S, max(0.001, until - time.monotonic()))
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), patience)
        except (OSError, ValueError) as error:
            raise PeerUnreachable(f"decode server {session} cannot be reached: {error}") from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _quiet(connection: socket.socket) -> bool:
    """Whether an idle connection still is one: nothing has come, not even its end."""
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _receive(connection: socket.socket, size: int, until: float) -> bytes:
    """Exactly so many bytes; memory is taken as they come."""
    parts, left = [], size
    while left:
        connection.settimeout(max(0.001, until - time.monotonic()))
        part = connection.recv(min(left, 1 << 20))
        if not part:
            raise ProtocolError("the connection ended in the middle")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
