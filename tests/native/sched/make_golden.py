#!/usr/bin/env python3
"""Writes golden/recording.hex: a recording of format 1 with every kind of event.

Independent of the C++ code on purpose: it packs the bytes from the format's description (csrc/sched/recording.h), so
that the test compares two implementations. The bytes of format 1 never change. Needs the package xxhash.
"""

from __future__ import annotations

import struct
from pathlib import Path

import xxhash

GOLDEN = Path(__file__).parent / "golden"
NEVER = 2**63 - 1


def u(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def z(value: int) -> bytes:
    return u(2 * value if value >= 0 else -2 * value - 1)


def name(text: str) -> bytes:
    return u(len(text)) + text.encode()


def short(text: str) -> bytes:
    return struct.pack("<H", len(text)) + text.encode()


def segment() -> bytes:
    base = 1_000_000_000
    # Head: the time; no rails, links or attempts; no checkpoint.
    out = z(base) + u(0) + u(0) + u(0) + struct.pack("<I", 0)
    now = base

    def event(kind: int, at: int, fields: bytes = b"") -> None:
        nonlocal out, now
        out += bytes([kind]) + z(base + at - now) + fields
        now = base + at

    event(1, 0, u(125_000_000) + name("eth0"))
    event(2, 10, u(7) + u(0) + u(1) + z(25_000) + u(4) + u(1) + name("b/eth0-eth0"))
    event(3, 20, u(3))
    event(4, 20, u(3))
    event(5, 30, u(3))
    event(6, 30, u(300))
    event(7, 40, u(3))
    event(8, 1000, u(99) + u(7) + u(1 << 20) + u(1) + u(2) + z(NEVER) + u(1) + u(0) + u(2) + u(3) + u(300))
    event(9, 1000, u(99) + u(0))
    event(10, 1000, u(99))
    event(32, 2000, u(99) + z(5) + u(3) + u(0) + u(65536) + u(70000) + z(1_000_000))
    event(12, 3000, z(0) + u(4096))
    event(11, 2500, z(0) + u(1) + u(15))
    event(13, 2500, z(3_000_000))
    event(14, 4000)
    event(15, 4000)
    event(16, 4000, u(7) + u(1 << 30) + u(1) + z(NEVER))
    event(33, 5000, u(99) + z(-1) + u(3) + u(0) + u(65536))
    event(34, 5000, u(99))
    event(35, 5000, u(99) + u(16))
    event(36, 5000, u(99))
    event(37, 5000, u(3))
    event(38, 5000, u(3) + u(2))
    return out


def recording() -> bytes:
    body = segment()
    out = b"TENTFLR1" + struct.pack("<H", 1) + short("node-a") + bytes([0x5A]) * 16
    out += struct.pack("<QQ", 1_000_006_000, 1_700_000_000_000_000_000) + short("asked for")
    out += struct.pack("<I", 1) + struct.pack("<QI", 1, len(body)) + body
    return out + struct.pack("<Q", xxhash.xxh3_64_intdigest(out))


if __name__ == "__main__":
    data = recording()
    GOLDEN.mkdir(exist_ok=True)
    lines = [data[i : i + 32].hex() for i in range(0, len(data), 32)]
    (GOLDEN / "recording.hex").write_text("\n".join(lines) + "\n")
