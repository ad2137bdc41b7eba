#!/usr/bin/env python3
"""Writes golden/*.hex: every frame and every handshake message of wire protocol version 1.

Independent of the C++ code on purpose: it packs the bytes from the protocol's description, so that the test
compares two implementations. Run it only when a *new* message is added; the bytes of version 1 never change.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
NONE = 2**64 - 1


def save(name: str, data: bytes) -> None:
    lines = [data[i : i + 32].hex() for i in range(0, len(data), 32)]
    (GOLDEN / f"{name}.hex").write_text("\n".join(lines) + "\n")


def frame(
    kind: int,
    *,
    flags: int = 0,
    code: int = 0,
    attempt: int = 0,
    aux: int = 0,
    body: bytes = b"",
    data: bytes = b"",
) -> bytes:
    return struct.pack("<IBBHQQQ", len(body), kind, flags, code, attempt, len(data), aux) + body + data


def text(s: str) -> bytes:
    return struct.pack("<H", len(s)) + s.encode()


def frames() -> dict[str, bytes]:
    pieces = struct.pack("<IIQQ", 7, 3, 0x1122334455667788, 5) + struct.pack("<IIQQ", 8, 0, 4096, 3)
    table = (
        struct.pack("<I", 2)
        + struct.pack("<IBBQQQ", 7, 1, 3, 1 << 30, 64 << 20, 0)
        + text("pages")
        + struct.pack("<IBBQQQ", 9, 2, 1, 12345, 0, 0x7F0000001000)
        + text("")
    )
    ours, theirs = bytes(range(16)), bytes([0] * 10 + [0xFF, 0xFF, 10, 77, 0, 2])
    end = ours + struct.pack("<IIBBH", 0x123456, 0xABCDEF, 3, 16, 9)
    keys = struct.pack("<IBQQQI", 7, 1, 1 << 27, 1 << 20, 0x7F0000001000, 0x8001) + struct.pack(
        "<IBQQQI", 8, 3, 0, 4096, 0x7F0000003000, 0x8002
    )
    return {
        "qp_open": frame(22, attempt=3, body=end + theirs),
        "qp_opened": frame(23, attempt=3, body=end + struct.pack("<IQI", 1, 0x7F0000001000, 0x77)),
        "qp_close": frame(24, attempt=5, body=struct.pack("<2Q", 3, 4)),
        "ask_keys": frame(25, flags=2, attempt=6, aux=3, body=pieces),
        "keys": frame(26, attempt=6, body=keys),
        "write": frame(1, attempt=41, aux=17, body=pieces, data=b"tent page"[:8]),
        "write_ack": frame(2, code=26, attempt=41, aux=1, body=b"extent was reused"),
        "read": frame(3, flags=2, attempt=42, body=pieces),
        "data": frame(4, attempt=42, aux=4096, data=bytes(range(16))),
        "read_fail": frame(5, code=2, attempt=42, aux=NONE, body=b"past the end"),
        "revoke": frame(6, attempt=5, aux=40, body=struct.pack("<3Q", 41, 44, 2**63)),
        "revoked": frame(7, attempt=5),
        "token": frame(8, attempt=1234567, aux=99),
        "echo": frame(9, attempt=7654321, aux=99),
        "notify": frame(10, attempt=3, body=b"layer 7 is there"),
        "notify_ack": frame(11, attempt=3),
        "segments": frame(12, attempt=6),
        "segment_table": frame(13, attempt=6, body=table),
        "segment_gone": frame(14, aux=7),
        "call": frame(15, attempt=8, aux=3, body=b"request"),
        "reply": frame(16, code=19, attempt=8, body=b"no room"),
        "map": frame(17, flags=1, attempt=9, aux=7 << 32 | 2),
        "mapped": frame(18, attempt=9, body=b"\x01"),
        "bye": frame(19, code=23, body=b"closing"),
        "pull": frame(
            20, attempt=43, aux=17, body=pieces + struct.pack("<QQ", 0x7F0000001000, 0x7F0000003000)
        ),
        "credit": frame(21, attempt=2, aux=262144),
    }


def message(body: bytes) -> bytes:
    return b"TENT" + struct.pack("<H", len(body)) + body


def identity(cluster: str, name: str, incarnation: int, host: str) -> bytes:
    return text(cluster) + text(name) + bytes([incarnation] * 16) + text(host)


def handshake() -> dict[str, bytes]:
    secret = b"correct horse battery staple"
    initiator = identity("prod", "prefill-0", 0x11, "host-a")
    owner = identity("prod", "decode-1", 0x22, "host-b")
    asked = text("decode-1") + bytes([0x22] * 16) + b"\x02" + bytes([0x33] * 16) + struct.pack("<I", 4)
    no_extension = struct.pack("<H", 0)

    hello = message(
        b"\x01" + struct.pack("<HH", 1, 1) + initiator + asked + bytes([0x44] * 16) + no_extension
    )
    newer = message(
        b"\x01"
        + struct.pack("<HH", 1, 2)
        + initiator
        + asked
        + bytes([0x44] * 16)
        + struct.pack("<H", 5)
        + b"later"
    )
    # Kind 1, four bytes: what it can do beyond version 1; before it something of a later version.
    entries = b"\x07\x02??" + b"\x01\x04" + struct.pack("<I", 0x80000001)
    capable = message(
        b"\x01"
        + struct.pack("<HH", 1, 1)
        + initiator
        + asked
        + bytes([0x44] * 16)
        + struct.pack("<H", len(entries))
        + entries
    )
    plain = b"\x01\x04" + struct.pack("<I", 1)
    can = b"\x02" + struct.pack("<H", 1) + owner + bytes([0x55] * 16) + struct.pack("<H", len(plain)) + plain
    can = b"TENT" + struct.pack("<H", len(can) + 32) + can
    # Version 2 alone: what follows the version range is its own business.
    only_newer = message(b"\x01" + struct.pack("<HH", 2, 2) + b"a layout that version 1 does not know")

    covered = b"\x02" + struct.pack("<H", 1) + owner + bytes([0x55] * 16) + no_extension
    framed = b"TENT" + struct.pack("<H", len(covered) + 32) + covered
    reply = framed + hmac.digest(secret, b"owner" + hello + framed, hashlib.sha256)
    proof = message(b"\x03" + hmac.digest(secret, b"initiator" + hello + reply, hashlib.sha256))
    return {
        "hello": hello,
        "hello_newer": newer,
        "hello_capable": capable,
        "reply_capable": can + hmac.digest(secret, b"owner" + capable + can, hashlib.sha256),
        "hello_only_newer": only_newer,
        "handshake_reply": reply,
        "proof": proof,
        "accept": message(b"\x04"),
        "reject": message(b"\x05" + struct.pack("<H", 10) + text("wrong cluster")),
    }


def store_messages() -> dict[str, bytes]:
    version = struct.pack("<H", 1)
    a, b, space = bytes([0xA0] * 16), bytes(range(16)), bytes([0x5A] * 16)
    digests = struct.pack("<I", 2) + a + b
    items = a + struct.pack("<QQQ", 64, 1000, 0x1122334455667788) + b + struct.pack("<QQQ", 1152, 7, 3)
    return {
        "lend": version + struct.pack("<QQ", 64 << 20, 1 << 20),
        "lent": version + struct.pack("<BQIIIQQ", 1, 77, 5, 6, 7, 64 << 20, 32 << 20),
        "give_back": version + struct.pack("<Q", 77),
        "commit": version + struct.pack("<QI", 77, 7) + space + struct.pack("<QI", 9, 2) + items,
        "pin": version + struct.pack("<I", 1500) + digests,
        "digests": version + digests,
        "remove": version + space + digests,
        "stat": version,
        "adopt": version + space + struct.pack("<QB", 9, 2) + digests,
        "keep": version + b"\x01" + digests,
        "list": version + struct.pack("<QI", 4711, 512),
        "page_list": version
        + struct.pack("<QII", 4712, 5, 1)
        + a
        + space
        + struct.pack("<4Q3I", 9, 64, 1000, 0x1122334455667788, 7, 3, 1),
        "space_list": version + struct.pack("<I", 1) + space + struct.pack("<QQQ", 9, 12, 12345),
        "store_stat": version + struct.pack("<5Q", 1 << 30, 12345, 64 << 20, 12, 2),
        "staged": version
        + struct.pack("<I", 2)
        + struct.pack("<BIIQQQ", 0, 3, 9, 0x1000040, 12345, 0xFEDCBA9876543210)
        + bytes([0x77]) * 16
        + struct.pack("<BIIQQQ16x", 3, 0, 0, 0, 0, 0),
        "disk_stat": version + struct.pack("<4QB", 1 << 40, 12345, 12, 2, 1),
        "scrub": version + b"\x02",
        "disk_scrub": version + struct.pack("<6QB", 3, 1000, 1 << 30, 2, 1, 7, 1),
        "statuses": version + struct.pack("<I", 3) + bytes([0, 16, 1]),
    }


def observe_messages() -> dict[str, bytes]:
    version = struct.pack("<H", 1)
    link = text("prefill-0") + text("tcp") + text("prefill-0/eth0-eth1") + struct.pack("<BI", 2, 4)
    link += struct.pack("<4Q", 1_250_000_000, 131072, 8 << 20, 25_000)
    link += struct.pack("<9Q", 10, 5, 1, 2, 1, 1, 40 << 20, 20 << 20, 12 << 20)
    link += struct.pack("<5q", 1234000000, 5000000, 5100000, 5200000, -1)
    counters = struct.pack("<H", 2) + text("submitted") + struct.pack("<Q", 7)
    counters += text("bytes_read") + struct.pack("<Q", 1 << 40)
    head = text("decode-1") + bytes([0x22] * 16) + struct.pack("<QQ", 1234567890, 1000000000)
    return {
        "stats_request": version + struct.pack("<I", 256),
        "node_stats": version + head + counters + struct.pack("<IIH", 3, 1, 1) + link,
        "recording_request": version + struct.pack("<QIQ", 9, 3, 196608),
        "recording_part": version
        + struct.pack("<QQQIIQQQ", 9, 1234567890, 1_700_000_000_000_000_000, 8, 3, 77, 400000, 196608)
        + bytes([1, 2, 3]),
        "probe_request": version + struct.pack("<I", 250) + bytes([5, 6]),
        "probe_ticket": version + struct.pack("<Q", 12),
        "probe_memory": version,
        "probe_report": version + bytes([1]) + b"{}",
    }


def handoff_messages() -> dict[str, bytes]:
    version, offer = struct.pack("<H", 1), bytes(range(16))
    ranges = struct.pack("<QQQQ", 4096, 0x1122334455667788, 100, 9)
    return {
        "open_offer": version + offer + struct.pack("<I", 8192),
        "offer_opened": version + struct.pack("<IBBQIIII", 12, 1, 1, 1 << 30, 8200, 30000, 8192, 2) + ranges,
        "release_offer": version + offer + b"\x02",
        "offer_released": version + b"\x03",
    }


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    everything = [frames(), handshake(), store_messages(), observe_messages(), handoff_messages()]
    for name, data in {name: data for some in everything for name, data in some.items()}.items():
        save(name, data)


if __name__ == "__main__":
    main()
