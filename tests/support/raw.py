"""A peer that speaks TENT's wire protocol by hand, as csrc/proto/*.h describe it, and may misspeak it."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "CODES",
    "CONTROL",
    "DATA",
    "FRAMES",
    "Frame",
    "RawPeer",
    "connections",
    "hello",
    "message",
    "piece",
    "text",
]

FRAMES = {
    name: number
    for number, name in enumerate(
        [
            "write",
            "write_ack",
            "read",
            "data",
            "read_fail",
            "revoke",
            "revoked",
            "token",
            "echo",
            "notify",
            "notify_ack",
            "segments",
            "segment_table",
            "segment_gone",
            "call",
            "reply",
            "map",
            "mapped",
            "bye",
            "pull",
            "credit",
        ],
        start=1,
    )
}
_NAMES = {number: name for name, number in FRAMES.items()}
CODES = {"ok": 0, "out_of_range": 2, "segment_gone": 4, "permission_denied": 8, "auth_failed": 9}
CODES |= {"cluster_mismatch": 10, "version_mismatch": 11, "protocol": 12, "stale_incarnation": 27}
CONTROL, DATA = 1, 2
_HELLO, _REPLY, _PROOF, _ACCEPT, _REJECT = 1, 2, 3, 4, 5


def text(value: str) -> bytes:
    return struct.pack("<H", len(value.encode())) + value.encode()


def piece(segment: int, offset: int, length: int, epoch: int = 0) -> bytes:
    return struct.pack("<IIQQ", segment, epoch, offset, length)


def message(body: bytes) -> bytes:
    return b"TENT" + struct.pack("<H", len(body)) + body


def hello(
    *,
    cluster: str = "default",
    name: str = "raw",
    incarnation: bytes = bytes(16),
    expect: tuple[str, bytes] = ("", bytes(16)),
    purpose: int = CONTROL,
    session: bytes = b"s" * 16,
    versions: tuple[int, int] = (1, 1),
    capabilities: int = 0,
) -> bytes:
    body = (
        struct.pack("<BHH", _HELLO, *versions) + text(cluster) + text(name) + incarnation + text("elsewhere")
    )
    body += text(expect[0]) + expect[1] + struct.pack("<B", purpose) + session + struct.pack("<I", 0)
    extensions = struct.pack("<BBI", 1, 4, capabilities) if capabilities else b""
    return message(body + os.urandom(16) + struct.pack("<H", len(extensions)) + extensions)


@dataclass
class Frame:
    kind: str
    code: int = 0
    attempt: int = 0
    aux: int = 0
    body: bytes = b""
    payload: bytes = field(default=b"", repr=False)


class RawPeer:
    """One connection. Reads block up to 30 s; a closed connection is ConnectionError."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        """A string is the name of an abstract unix socket."""
        if isinstance(address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(30)
            self.socket.connect("\0" + address)
        else:
            self.socket = socket.create_connection(address, timeout=30)
        self.transcript = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def take(self, nbytes: int) -> bytes:
        data = b""
        while len(data) < nbytes:
            part = self.socket.recv(nbytes - len(data))
            if not part:
                raise ConnectionError(f"closed by the node after {len(data)} of {nbytes} bytes")
            data += part
        return data

    def closed(self) -> bool:
        """True once the node has closed the connection; whatever it still says is passed over."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        return True

    # ---- the handshake

    def take_message(self) -> bytes:
        head = self.take(6)
        assert head[:4] == b"TENT", head
        return head + self.take(struct.unpack("<H", head[4:])[0])

    def rejection(self) -> tuple[int, str]:
        """The code and the reason of the REJECT that comes next."""
        body = self.take_message()[6:]
        assert body[0] == _REJECT, body[:1]
        code, length = struct.unpack_from("<HH", body, 1)
        return code, body[5 : 5 + length].decode()

    def shake(self, first: bytes, secret: str) -> RawPeer:
        """HELLO ... ACCEPT, as somebody who knows the secret."""
        self.send(first)
        reply = self.take_message()
        assert reply[6] == _REPLY, f"rejected: {reply[7:]!r}"
        self.transcript = first + reply
        self.send(message(bytes([_PROOF]) + self._proof(secret)))
        assert self.take_message()[6] == _ACCEPT
        return self

    def _proof(self, secret: str) -> bytes:
        return hmac.new(secret.encode(), b"initiator" + self.transcript, hashlib.sha256).digest()

    # ---- frames

    def frame(
        self,
        kind: str | int,
        body: bytes = b"",
        payload: bytes = b"",
        *,
        attempt: int = 0,
        aux: int = 0,
        payload_bytes: int | None = None,
    ) -> None:
        """``payload_bytes``: how much is announced, when more follows by ``send``."""
        number = FRAMES[kind] if isinstance(kind, str) else kind
        announced = len(payload) if payload_bytes is None else payload_bytes
        self.send(struct.pack("<IBBHQQQ", len(body), number, 0, 0, attempt, announced, aux) + body + payload)

    def take_frame(self, *wanted: str) -> Frame:
        """The next frame; of the kinds wanted, when any are named. Tokens are echoed on the way."""
        while True:
            size, number, _, code, attempt, payload, aux = struct.unpack("<IBBHQQQ", self.take(32))
            got = Frame(_NAMES[number], code, attempt, aux, self.take(size), self.take(payload))
            if got.kind == "token":
                self.frame("echo", aux=got.aux)
            if got.kind in wanted or not wanted:
                return got

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connections(port: int) -> list[int]:
    """Bytes that wait to be read, of every connection that a process holds at that local port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = [row for row in rows if int(row[1].rpartition(":")[2], 16) == port and row[3] != "0A"]
    return [int(row[4].partition(":")[2], 16) for row in mine if row[9] != "0"]
