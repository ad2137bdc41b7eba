"""Many threads that want the same pages of another node: one fetch, and each gets its pages or its own answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.store_process import SIZE, StoreProcess, contents
from support.stores import Open, Server, all_are, names, wait_for
from tent_core.store import PageStatus

_KEYS = names(8)
_READERS = 6


@pytest.fixture
def owner(server: Server) -> Iterator[StoreProcess]:
    """On another host, as far as it knows: its pages come over TCP, so it can hold them up by standing still."""
    made = StoreProcess(
        {"directory.url": server.url, "store.capacity": "16MiB", "node.host_identity": "far away"}
    )
    assert set(made.ask("put", _KEYS, 0)) == {PageStatus.STORED}
    yield made
    if made.process.poll() is None:
        made.kill()


class Readers:
    """Threads with a buffer each, of one store."""

    def __init__(self, open_store: Open) -> None:
        self.store = open_store(capacity="0", engine__session_lease_ms=60_000)
        self.space = self.store.namespace({"model": "chaos"})
        self.buffer = np.zeros((_READERS, len(_KEYS), SIZE), dtype=np.uint8)
        self.segment = self.store.register(self.buffer)
        self.status: list[Any] = [None] * _READERS
        self.threads: list[threading.Thread] = []
        self.get(0, 20)  # connected, and as it should be
        assert self.right(0)
        self.buffer[:] = 0

    def get(self, number: int, timeout: float) -> None:
        addresses = self.buffer[number].ctypes.data + np.arange(len(_KEYS), dtype=np.uint64) * np.uint64(SIZE)
        self.status[number] = self.store.get(self.space, _KEYS, addresses, SIZE, timeout=timeout)

    def start(self, number: int, timeout: float = 40) -> None:
        thread = threading.Thread(target=self.get, args=(number, timeout))
        thread.start()
        self.threads.append(thread)

    def join(self) -> None:
        for thread in self.threads:
            thread.join()

    def right(self, number: int) -> bool:
        found = [bytes(row) == contents(key, 0) for row, key in zip(self.buffer[number], _KEYS, strict=True)]
        return all_are(self.status[number], PageStatus.HIT) and all(found)

    @property
    def waiting(self) -> int:
        return self.store._reader._flights._native.following

    @property
    def fetched(self) -> int:
        return int(self.store.engine.stats()["counters"]["bytes_read"])


def test_one_fetch_serves_all_who_wait(open_store: Open, owner: StoreProcess) -> None:
    readers = Readers(open_store)
    before = readers.fetched
    owner.stop()
    readers.start(0)
    flights = readers.store._reader._flights._native
    wait_for(lambda: flights.under_way == len(_KEYS), "the first is fetching")
    for number in range(1, _READERS):
        readers.start(number)
    wait_for(lambda: readers.waiting == (_READERS - 1) * len(_KEYS), "the others wait for it")
    owner.go_on()
    readers.join()
    assert all(readers.right(number) for number in range(_READERS))
    assert readers.fetched - before == len(_KEYS) * SIZE
    assert readers.store.metrics.counter("store.shared_fetches").value == (_READERS - 1) * len(_KEYS)


def test_the_first_gives_up_and_another_fetches(open_store: Open, owner: StoreProcess) -> None:
    readers = Readers(open_store)
    owner.stop()
    readers.start(0, timeout=1)
    wait_for(lambda: readers.store._reader._flights._native.under_way, "the first is fetching")
    readers.start(1)
    readers.start(2)
    readers.threads[0].join()
    assert all_are(readers.status[0], PageStatus.DEADLINE)
    owner.go_on()
    readers.join()
    assert readers.right(1) and readers.right(2)


def test_when_the_owner_dies_each_hears_so(open_store: Open, owner: StoreProcess) -> None:
    readers = Readers(open_store)
    owner.stop()
    readers.start(0)
    wait_for(lambda: readers.store._reader._flights._native.under_way, "the first is fetching")
    for number in range(1, _READERS):
        readers.start(number)
    wait_for(lambda: readers.waiting == (_READERS - 1) * len(_KEYS), "the others wait for it")
    owner.process.kill()  # it stands still until then, and answers nobody any more
    readers.join()
    for status in readers.status:
        assert np.isin(status, (PageStatus.OWNER_UNREACHABLE, PageStatus.LINK_FAILED)).all(), status
