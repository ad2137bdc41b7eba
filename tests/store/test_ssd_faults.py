"""What really happens to disks: they get full while a node runs, and processes die with pages in write buffers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.small_disk import SmallDisk
from support.store_process import StoreProcess, contents
from support.stores import Server, wait_for
from tent_core.store import PageStatus
from tent_core.store.ssd import FILE

_GROUPS, _GROUP = 12, 20
_KEYS = [[b"g%d-%d" % (group, i) for i in range(_GROUP)] for group in range(_GROUPS)]


@pytest.fixture
def stores(server: Server) -> Iterator[Any]:
    """Starts processes of 1 MiB of memory and a disk of 12 MiB, in which all groups have room."""
    made: list[StoreProcess] = []

    def start(folder: Path) -> StoreProcess:
        settings = {
            "directory.url": server.url, "directory.timeout_ms": 2000, "directory.node_ttl_ms": 1500,
            "store.capacity": "1MiB", "store.extent": "1MiB", "store.ssd_path": str(folder),
            "store.ssd_capacity": "12MiB", "store.ssd_timeout_ms": 20_000,
        }  # fmt: skip
        made.append(StoreProcess(settings))
        return made[-1]

    yield start
    for store in made:
        if store.process.poll() is None:
            store.kill()


def _disk(store: StoreProcess) -> dict[str, Any]:
    found: dict[str, Any] = store.ask("stats")["ssd"]
    return found


def _put(store: StoreProcess, group: int) -> None:
    keys = _KEYS[group]
    wait_for(lambda: set(store.ask("put", keys, 0)) <= {1, 2}, "there is room for a group")


def _hits(store: StoreProcess, group: int) -> int:
    """Of the group's pages. Each has the right bytes."""
    rows, _away = store.ask("get", _KEYS[group])
    hits = 0
    for key, (status, digest) in zip(_KEYS[group], rows, strict=True):
        if status == PageStatus.HIT:
            assert digest == hashlib.blake2b(contents(key, 0), digest_size=16).digest(), key
            hits += 1
    return hits


def test_invariant_1_killed_with_pages_in_the_write_buffers(stores: Any, tmp_path: Path) -> None:
    store = stores(tmp_path)
    for group in range(_GROUPS):
        _put(store, group)
        if group < _GROUPS - 1:
            wait_for(lambda: not _disk(store)["writing"], "the disk has written what is full")
    before = _disk(store)
    assert before["pages"] > 0
    store.kill()  # what gathers in a buffer, and what is being written, is gone with it
    again = stores(tmp_path)
    rebuilt = _disk(again)["rebuilt"]
    assert 0 < rebuilt < before["pages"]
    wait_for(
        lambda: sum(_hits(again, group) for group in range(_GROUPS)) >= rebuilt, "they are all found again"
    )
    _put(again, 0)
    again.close()


def test_invariant_1_the_disk_gets_full_while_the_node_runs(stores: Any) -> None:
    """Real ENOSPC: the file loses blocks behind the node's back, and the rest of the disk is taken."""
    disk = SmallDisk(16 << 20)
    try:
        store = stores(disk.path)
        for group in range(3):
            _put(store, group)
        wait_for(lambda: not _disk(store)["writing"], "the disk has written what is full")
        path = disk.path / FILE
        disk.take_blocks(path, 1 << 20, path.stat().st_size - (1 << 20))
        disk.fill()
        for group in range(3, _GROUPS):
            _put(store, group)
        wait_for(lambda: _disk(store)["no_space"], "an extent found no room")
        found = [_hits(store, group) for group in range(_GROUPS)]
        assert found[-1] > 0 and not _disk(store)["off"], (
            found
        )  # it goes on, with what memory and disk there is
        # With room again the next process uses the whole file.
        store.close()
        disk.empty()
        again = stores(disk.path)
        for group in range(_GROUPS):
            _put(again, group)
            _hits(again, group)
        assert _disk(again)["no_space"] == 0 and _disk(again)["written"] > 0
        again.close()
    finally:
        disk.close()
