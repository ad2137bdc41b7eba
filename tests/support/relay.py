"""A relay between two nodes: a TCP or unix-socket proxy that can hold bytes back, swallow them or cut the way.

It stands where a network would misbehave: ``hold`` keeps the bytes of one direction (the sender's socket fills up, as
on a stalled path), ``release`` lets them go on in order, ``cut`` resets every connection and refuses new ones. File
descriptors that ride along a unix socket are passed on.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Relay", "Rewritten", "rewrite"]

_CHUNK = 256 << 10


@dataclass
class Rewritten:
    """A node's descriptor, taken apart: see csrc/engine/descriptor.cpp."""

    cluster: str
    name: str
    host: str
    incarnation: bytes
    unix_name: str
    probe: int
    rails: list[tuple[str, int, str]] = field(default_factory=list)
    version: int = 1

    @staticmethod
    def parse(blob: bytes) -> Rewritten:
        at = 4
        (version,) = struct.unpack_from("<H", blob, at)
        at += 2

        def text() -> str:
            nonlocal at
            (n,) = struct.unpack_from("<H", blob, at)
            at += 2 + n
            return blob[at - n : at].decode()

        cluster, name, host = text(), text(), text()
        incarnation = blob[at : at + 16]
        at += 16
        unix_name = text()
        probe, count = struct.unpack_from("<QH", blob, at)
        at += 10
        rails = []
        for _ in range(count):
            address = text()
            (port,) = struct.unpack_from("<H", blob, at)
            at += 2
            rails.append((address, port, text()))
        assert at == len(blob), "the descriptor's layout has changed"
        return Rewritten(cluster, name, host, incarnation, unix_name, probe, rails, version)

    def encode(self) -> bytes:
        def text(value: str) -> bytes:
            return struct.pack("<H", len(value.encode())) + value.encode()

        out = struct.pack("<I", 0x544E4454)
        out += struct.pack("<H", self.version) + text(self.cluster) + text(self.name) + text(self.host)
        out += self.incarnation + text(self.unix_name) + struct.pack("<QH", self.probe, len(self.rails))
        for address, port, name in self.rails:
            out += text(address) + struct.pack("<H", port) + text(name)
        return out


def rewrite(descriptor: bytes, relays: Sequence[Relay]) -> bytes:
    """The descriptor as seen through relays: one for each rail, or one for the unix socket."""
    parsed = Rewritten.parse(descriptor)
    if relays[0].is_unix:
        parsed.unix_name = relays[0].address
    else:
        assert len(relays) == len(parsed.rails)
        parsed.rails = [
            (relay.address, relay.port, rail[2]) for relay, rail in zip(relays, parsed.rails, strict=True)
        ]
    return parsed.encode()


class _Way:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.passed = 0  # bytes
        self.waiting = 0  # bytes that are held here


class _Pair:
    def __init__(self, relay: Relay, number: int, client: socket.socket, server: socket.socket) -> None:
        self.number = number
        self.to_server, self.to_client = _Way(client, server), _Way(server, client)
        self.threads = [
            threading.Thread(target=relay._carry, args=(self, way), daemon=True)
            for way in (self.to_server, self.to_client)
        ]

    def drop(self) -> None:
        for way in (self.to_server, self.to_client):
            if way.source.family != socket.AF_UNIX:
                # A reset, as of a peer that is gone, instead of an orderly end.
                way.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                way.source.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Relay:
    """Listens at ``address`` (and ``port``) and carries bytes to the target. Close it, or use ``with``."""

    def __init__(self, target: tuple[str, int] | str, listen: str = "127.0.0.1", port: int = 0) -> None:
        """``target``: (address, port), or the name of an abstract unix socket. ``port``: to listen at; 0: any."""
        self.is_unix = isinstance(target, str)
        self._target = target
        self._condition = threading.Condition()
        self._held: set[str] = set()
        self._limit: dict[str, int] = {}
        self._cut = self._closed = False
        self.pairs: list[_Pair] = []
        family = socket.AF_UNIX if self.is_unix else socket.AF_INET6 if ":" in listen else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        if self.is_unix:
            self._listener.bind("")  # the kernel chooses an abstract name
            self.address, self.port = self._listener.getsockname()[1:].decode(), 0
        else:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((listen, port))
            self.address, self.port = self._listener.getsockname()[:2]
        self._listener.listen(64)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    # ---- what a test does

    def hold(self, direction: str, after: int | None = None, connection: int | None = None) -> None:
        """Keeps the bytes of ``direction`` ("to_server" or "to_client") of every connection, or of one by its number;
        of each, ``after`` more bytes still pass."""
        with self._condition:
            for pair in self.pairs if connection is None else [self.pairs[connection]]:
                way = getattr(pair, direction)
                self._limit[f"{direction}/{pair.number}"] = way.passed + (after or 0)
            if connection is None:
                self._held.add(direction)

    def release(self, connection: int | None = None) -> None:
        """Lets everything go on, or everything of one connection."""
        with self._condition:
            if connection is None:
                self._held.clear()
                self._limit.clear()
            else:
                for direction in ("to_server", "to_client"):
                    self._limit[f"{direction}/{connection}"] = 1 << 62
            self._condition.notify_all()

    def cut(self) -> None:
        """Resets every connection; new ones are reset, too, until ``mend``."""
        with self._condition:
            self._cut = True
            for pair in self.pairs:
                pair.drop()
            self._condition.notify_all()

    def drain(self, direction: str, connection: int) -> None:
        """Lets everything held go on, ends that direction behind it, and returns once the receiver has closed its side:
        it has read every byte by then."""
        self.release(connection)
        pair = self.pairs[connection]
        try:
            getattr(pair, direction).source.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the sender is gone already
        for thread in pair.threads:
            thread.join(60)
            assert not thread.is_alive(), "the receiver did not read to the end"

    def mend(self) -> None:
        with self._condition:
            self._cut = False

    def passed(self, direction: str, connection: int) -> int:
        with self._condition:
            return int(getattr(self.pairs[connection], direction).passed)

    def total_passed(self, direction: str) -> int:
        """Of all connections since the relay was made."""
        with self._condition:
            return sum(int(getattr(pair, direction).passed) for pair in self.pairs)

    def waiting(self, direction: str) -> int:
        """Bytes that arrived here and are held."""
        with self._condition:
            return sum(getattr(pair, direction).waiting for pair in self.pairs)

    def close(self) -> None:
        with self._condition:
            self._closed = True
            for pair in self.pairs:
                pair.drop()
            self._condition.notify_all()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        for pair in self.pairs:
            for thread in pair.threads:
                thread.join()
            for way in (pair.to_server, pair.to_client):
                way.source.close()
        self._listener.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- threads

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(
                socket.AF_UNIX
                if self.is_unix
                else socket.AF_INET6
                if ":" in str(self._target[0])
                else socket.AF_INET
            )
            try:
                with self._condition:
                    if self._cut or self._closed:
                        raise ConnectionResetError
                server.connect("\0" + self._target if isinstance(self._target, str) else self._target)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                server.close()
                continue
            with self._condition:
                pair = _Pair(self, len(self.pairs), client, server)
                self.pairs.append(pair)
            for thread in pair.threads:
                thread.start()

    def _allowance(self, pair: _Pair, direction: str, way: _Way) -> int:
        key = f"{direction}/{pair.number}"
        if key in self._limit:
            return self._limit[key] - way.passed
        return 0 if direction in self._held else _CHUNK

    def _carry(self, pair: _Pair, way: _Way) -> None:
        direction = "to_server" if way is pair.to_server else "to_client"
        try:
            while True:
                data, fds = self._receive(way.source)
                if not data:
                    break
                while data:
                    with self._condition:
                        way.waiting = len(data)
                        self._condition.wait_for(
                            lambda: self._closed or self._cut or self._allowance(pair, direction, way) > 0
                        )
                        if self._closed or self._cut:
                            return
                        part = data[: self._allowance(pair, direction, way)]
                        way.waiting = 0
                    self._send(way.sink, part, fds)
                    fds = []
                    data = data[len(part) :]
                    with self._condition:
                        way.passed += len(part)
        except OSError:
            pass
        finally:
            try:
                way.sink.shutdown(socket.SHUT_WR)  # the end of this direction alone
            except OSError:
                pass

    def _receive(self, source: socket.socket) -> tuple[bytes, list[int]]:
        if not self.is_unix:
            return source.recv(_CHUNK), []
        data, fds, _, _ = socket.recv_fds(source, _CHUNK, 16)
        return data, fds

    def _send(self, sink: socket.socket, data: bytes, fds: list[int]) -> None:
        if not fds:
            sink.sendall(data)
            return
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        sent = sink.sendmsg([data], ancillary)
        for fd in fds:
            os.close(fd)
        sink.sendall(data[sent:])
