"""Opening the store: mistakes end the start, faults of the world do not."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tent_core.config import Config, load_config
from tent_core.errors import AuthFailed, ConfigError, DirectoryUnavailable
from tent_vllm import handle as handles
from tent_vllm.handle import StoreHandle


class Store:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def failing(*faults: Exception) -> Any:
    """Opens a store after these faults."""
    left = list(faults)

    def open_store(config: Config) -> Store:
        if left:
            raise left.pop(0)
        return Store(config)

    return open_store


def test_a_mistake_is_raised() -> None:
    with pytest.raises(AuthFailed, match="wrong password"):
        StoreHandle("k", Config(), failing(AuthFailed("wrong password"))).open()


@pytest.mark.parametrize("fault", [DirectoryUnavailable("down"), BrokenPipeError(32, "gone")])
def test_a_fault_is_tried_again_beside_the_caller(fault: Exception) -> None:
    handle = StoreHandle("k", Config(), failing(fault, fault))
    handle.open()
    assert handle.store is None
    assert handle._opening is not None
    handle._opening.join(30)
    store = handle.store
    assert store is not None
    handle.close()
    assert store.closed.is_set()
    assert handle.store is None


def test_closing_ends_the_trying() -> None:
    handle = StoreHandle("k", Config(), failing(*[DirectoryUnavailable("down")] * 1000))
    handle.open()
    handle.close()
    assert handle._opening is not None
    handle._opening.join(30)
    assert not handle._opening.is_alive()


def test_one_store_for_all_who_share_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "_open_page_store", Store)
    worker = handles.acquire("engine", {"store": {"capacity": "8MiB"}}, worker=True)
    scheduler = handles.acquire("engine", {"store": {"capacity": "8MiB"}}, worker=False)
    assert scheduler is worker
    store = worker.store
    handles.release(worker)
    assert not store.closed.is_set()
    handles.release(scheduler)
    assert store.closed.is_set()
    other = handles.acquire("engine", {}, worker=True)
    assert other is not worker
    handles.release(other)


def test_processes_of_one_server_do_not_collide() -> None:
    config = load_config({"node": {"name": "n", "port": 9000}, "store": {"capacity": "8MiB"}}, env={})
    names = []
    for worker, rank in ((False, 0), (True, 0), (True, 1), (True, 2)):
        own = handles._one_of_many(config, worker, rank)
        names.append((own.node.name, own.node.port, own.store.capacity))
    assert names == [("", 0, 0), ("n", 9000, 8 << 20), ("n-1", 9001, 8 << 20), ("n-2", 9002, 8 << 20)]


def test_a_bad_configuration_is_raised_and_leaves_nothing() -> None:
    with pytest.raises(ConfigError, match=r"store\.capacity"):
        handles.acquire("engine", {"store": {"capacty": 1}}, worker=True)
    assert handles._handles == {}
