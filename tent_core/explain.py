"""Why a prompt hit or missed: the last decisions of a connector, where another process can read them.

A ring of records in a memfd. Nothing is sent, no thread serves it, no file is left behind: `tent explain` finds the
rings of this user's processes under /proc and reads them there, and they are gone with their process.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Found", "Ring", "rings"]

_NAME = "tent-explain"
_MAGIC = b"TENTEXP1"
_HEAD = struct.Struct("<8sQ")  # magic, records written so far
_SLOT = struct.Struct("<QI")  # the record's number (a torn one has another), its bytes
_SLOTS = 256
_BYTES = 4096


class Ring:
    """The newest records of one connector. Thread-safe; a record costs some microseconds and no system call."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        """`about`: what `tent explain` shows of this connector: engine, node."""
        self._lock = threading.Lock()
        self._written = 0
        file = os.memfd_create(_NAME, os.MFD_CLOEXEC)
        os.ftruncate(file, _HEAD.size + (_SLOTS + 1) * _BYTES)
        self._memory: mmap.mmap | None = mmap.mmap(file, 0)
        os.close(file)  # the mapping keeps a descriptor of its own, by which the ring is found
        self._slot(_SLOTS, 0, about)  # after the ring: never overwritten by a record
        self._head(0)

    def about(self, about: Mapping[str, Any]) -> None:
        """In place of what was given before."""
        with self._lock:
            if self._memory is not None:
                self._slot(_SLOTS, 0, about)

    def add(self, record: Mapping[str, Any]) -> None:
        """One decision. One that is too long loses its fields from the end on."""
        with self._lock:
            if self._memory is None:
                return
            self._slot(self._written % _SLOTS, self._written, {"at": round(time.time(), 3), **record})
            self._written += 1
            self._head(self._written)

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._memory is not None:
                self._memory.close()
                self._memory = None

    def _head(self, written: int) -> None:
        assert self._memory is not None
        _HEAD.pack_into(self._memory, 0, _MAGIC, written)

    def _slot(self, slot: int, number: int, record: Mapping[str, Any]) -> None:
        assert self._memory is not None
        kept = dict(record)
        data = json.dumps(kept).encode()
        while len(data) > _BYTES - _SLOT.size:
            kept.popitem()
            data = json.dumps(kept).encode()
        start = _HEAD.size + slot * _BYTES
        written = _SLOT.pack(number, len(data)) + data
        self._memory[start : start + len(written)] = written


@dataclass(frozen=True)
class Found:
    """A ring of another process, as it was a moment ago."""

    pid: int
    about: dict[str, Any]
    records: list[dict[str, Any]]  # oldest first


def rings(proc: str = "/proc") -> Iterator[Found]:
    """Of all processes that this user may look into, and that are in this PID namespace."""
    for folder in sorted(Path(proc).glob("[0-9]*/fd"), key=lambda path: int(path.parent.name)):
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # another user's, or gone
        for name in names:
            try:
                if not os.readlink(folder / name).startswith(f"/memfd:{_NAME}"):
                    continue
                data = (folder / name).read_bytes()
            except OSError:
                continue
            found = _decode(int(folder.parent.name), data)
            if found is not None:
                yield found


def _decode(pid: int, data: bytes) -> Found | None:
    """What another process wrote is not trusted to be whole."""
    if len(data) != _HEAD.size + (_SLOTS + 1) * _BYTES:
        return None
    magic, written = _HEAD.unpack_from(data)
    about = _record(data, _SLOTS, 0)
    if magic != _MAGIC or about is None:
        return None
    numbers = range(max(0, written - _SLOTS), written)
    records = [_record(data, number % _SLOTS, number) for number in numbers]
    return Found(pid, about, [record for record in records if record is not None])


def _record(data: bytes, slot: int, number: int) -> dict[str, Any] | None:
    start = _HEAD.size + slot * _BYTES
    told, size = _SLOT.unpack_from(data, start)
    if told != number or size > _BYTES - _SLOT.size:
        return None  # overwritten while it was read
    try:
        record = json.loads(data[start + _SLOT.size : start + _SLOT.size + size])
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
