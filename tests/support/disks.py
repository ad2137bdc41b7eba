"""For tests of pages on disk: a store with a small memory and a disk behind it."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import Any

from support.stores import Client, Open, all_are, names, page, wait_for
from tent_core.store import PageStatus

__all__ = ["GROUPS", "SIZE", "Owner", "rot"]

GROUPS = 12  # of ten pages of 100 kB: three times the memory
SIZE = 100_000
_HEAD = 4096


def rot(path: Path, chance: random.Random, count: int) -> None:
    """Changes bytes of a file of pages, but for its head."""
    size = path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        for _ in range(count if size > _HEAD else 0):
            with contextlib.suppress(OSError):  # a full disk, and a byte that has no block of its own
                os.pwrite(file.fileno(), bytes([chance.randrange(256)]), chance.randrange(_HEAD, size))


class Owner(Client):
    """A store of 4 MiB with a disk of 64 MiB behind it, closed by itself or with the test."""

    def __init__(self, open_store: Open, folder: Path, **more: Any) -> None:
        options: dict[str, Any] = {
            "capacity": "4MiB",
            "extent": "1MiB",
            "node__name": "owner",
            "store__ssd_path": str(folder),
            "store__ssd_capacity": "64MiB",
            "store__ssd_timeout_ms": 20_000,  # a busy machine's disk
            **more,
        }
        super().__init__(open_store(**options), size=SIZE, count=10)

    @property
    def disk(self) -> dict[str, Any]:
        found: dict[str, Any] = self.store.stats()["ssd"]
        return found

    def fill(self, groups: int = GROUPS) -> list[list[bytes]]:
        """Puts more than fits into memory, a group at a time, so slowly that the disk keeps up."""
        made = [names(10, f"g{group}-") for group in range(groups)]
        for group in made:
            assert all_are(self.put(group), PageStatus.STORED)
            self.keep_up()
        return made

    def keep_up(self) -> None:
        """Lets the disk take what leaves memory next: pages that nobody read are dropped while it is behind."""
        wait_for(lambda: self.store.stats()["free_extents"] > 0, "upkeep makes room")
        wait_for(lambda: not self.disk["writing"], "the disk has written it")

    def verify_row(self, key: bytes, row: int) -> bool:
        return bool((self.buffer[row] == page(key, self.size)).all())

    def end(self) -> None:
        self.segment.close()
        self.store.close()

    def settle(self) -> None:
        """What was put and did not stay in memory is on disk, and the directory has it all."""
        wait_for(lambda: not self.store.stats()["queued"], "everything is published")
