"""Fixtures of the store's tests: an empty Redis, and stores on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.stores import Open, Server
from tent_core.store import PageStore


@pytest.fixture
def server() -> Iterator[Server]:
    """A Redis of the test's own, empty."""
    made = Server()
    yield made
    made.close()


@pytest.fixture
def open_store(server: Server) -> Iterator[Open]:
    """Opens stores that share ``server`` and are closed after the test. Tests are patient with a busy machine."""
    stores: list[PageStore] = []

    def make(capacity: str = "16MiB", extent: str = "1MiB", **more: Any) -> PageStore:
        config = {
            "directory.url": server.url,
            "directory.timeout_ms": 2000,
            "store.capacity": capacity,
            "store.extent": extent,
            **{name.replace("__", "."): value for name, value in more.items()},
        }
        stores.append(PageStore.open(config))
        return stores[-1]

    yield make
    while stores:
        stores.pop().close()
