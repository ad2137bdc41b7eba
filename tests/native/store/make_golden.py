"""Writes golden/*.hex from the formats' description in csrc/store/record.h and slot.h, not from the code.

Run only when a format gets a new version: ``python tests/native/store/make_golden.py`` (needs ``xxhash``).
"""

from __future__ import annotations

import struct
from pathlib import Path

import xxhash

HERE = Path(__file__).parent / "golden"


def ident(first: int) -> bytes:
    return bytes(range(first, first + 16))


def record(replicas: list[tuple[bytes, bytes, int, int, int, int]], version: int = 1) -> bytes:
    rest = struct.pack("<Q16sQQ", 7, ident(0x10), 1 << 20, 0x0123456789ABCDEF)
    for name, incarnation, segment, extent, epoch, offset in replicas:
        rest += incarnation + struct.pack("<IIIQB", segment, extent, epoch, offset, len(name)) + name
    total = xxhash.xxh3_64_intdigest(rest, seed=ord("T") << 8 | version) & 0xFFFFFFFF
    return struct.pack("<BBBBI", ord("T"), version, 0, len(replicas), total) + rest


def slot(mark: bytes) -> bytes:
    return struct.pack(
        "<4sHH4sI16s16sQQ", b"TSLT", 1, 0, mark, 5, ident(0x40), ident(0x50), 12345, 0xFEDCBA9876543210
    )


def disk_head(version: int = 1) -> bytes:
    front = struct.pack("<8sII16sQQ", b"TENTPAGE", version, 0, ident(0x60), 1 << 20, 64)
    total = xxhash.xxh3_64_intdigest(front, seed=ord("T") << 8 | 1)
    return (front + struct.pack("<Q", total)).ljust(4096, b"\0")


def disk_table() -> bytes:
    front = struct.pack("<4sHH16sIIQ", b"TEXT", 1, 1, ident(0x60), 5, 9, 77)
    slot = ident(0x40) + ident(0x50) + ident(0x70)
    slot += struct.pack("<QQQQQ", 7, 8192, 12345, 0xFEDCBA9876543210, 0)
    total = xxhash.xxh3_64_intdigest(front + slot, seed=ord("T") << 8 | 1)
    return (front + struct.pack("<Q", total) + slot).ljust(8192, b"\0")


def main() -> None:
    one = (b"node-a", ident(0x20), 3, 4, 9, 0x1000040)
    two = (b"b", ident(0x30), 1, 0, 1, 64)
    files = {
        "record": record([one]),
        "record_two_replicas": record([one, two]),
        "record_newer": record([one], version=2),
        "slot_committed": slot(b"CMMT"),
        "slot_open": slot(b"OPEN"),
        "slot_dropped": slot(b"DROP"),
        "disk_head": disk_head(),
        "disk_head_newer": disk_head(2),
        "disk_table": disk_table(),
    }
    for name, data in files.items():
        text = data.hex()
        lines = [text[i : i + 64] for i in range(0, len(text), 64)]
        (HERE / f"{name}.hex").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
