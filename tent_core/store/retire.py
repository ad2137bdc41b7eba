"""Taking replicas out of the directory: the record goes with its last one."""

from __future__ import annotations

from collections.abc import Sequence

from tent_core import _native
from tent_metadata import Directory

__all__ = ["retire"]

_ANY_SPACE = bytes(16)  # generations do not matter here


def retire(directory: Directory, items: Sequence[tuple[bytes, bytes]]) -> None:
    """Of each ``(digest, record)`` the replicas that the record names leave the directory; those that others have
    added since stay. Raises DirectoryUnavailable: the caller must know that a record may be left."""
    if not items or directory.unpublish(items) == len(items):
        return
    records, _ = directory.lookup(_ANY_SPACE, [digest for digest, _ in items])
    fewer: list[tuple[bytes, bytes, bytes]] = []
    gone: list[tuple[bytes, bytes]] = []
    for (digest, mine), there in zip(items, records, strict=True):
        left = None if there is None else _native.record_minus(there, mine)
        if there is None or left is None:
            continue
        if left:
            fewer.append((digest, there, left))
        else:
            gone.append((digest, there))
    if gone:
        directory.unpublish(gone)
    if fewer:
        directory.replace(fewer)
