"""What goes wrong while a node leaves, and while a put is on its way to the node of its host."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.store_process import NodeProcess
from support.stores import Client, Open, Server, all_are, names, page, wait_for
from tent_core import _native
from tent_core.store import PageStatus
from tent_core.store.batch import Statuses

_KEYS = names(20)


@pytest.fixture
def nodes(server: Server) -> Iterator[Any]:
    """Starts daemons that end with the test."""
    made: list[NodeProcess] = []
    config = {"directory.url": server.url, "directory.timeout_ms": 2000, "store.extent": "1MiB"}

    def start(name: str, *options: str) -> NodeProcess:
        made.append(NodeProcess(server.folder, name, *options, **{**config, "store.capacity": "16MiB"}))
        return made[-1]

    yield start
    for node in made:
        node.close()


def _owners(client: Client) -> list[str]:
    """Of each page the first node that its record names; "" without one."""
    digests = _native.page_digests(client.space.digest, _KEYS)
    records, _ = client.store.directory.lookup(client.space.digest, digests)
    infos = [None if record is None else _native.record_info(record) for record in records]
    return [info["replicas"][0][0] if info else "" for info in infos]


def _right(client: Client, found: Statuses) -> bool:
    """Every page that was found by the get just made has its own bytes."""
    rows = np.flatnonzero(found == PageStatus.HIT).tolist()
    return all((client.buffer[row] == page(_KEYS[row], client.size)).all() for row in rows)


def _stopped(node: NodeProcess) -> NodeProcess:
    os.kill(node.process.pid, signal.SIGSTOP)
    os.waitpid(node.process.pid, os.WUNTRACED)
    return node


def _published(client: Client, node: str) -> None:
    assert all_are(client.put(_KEYS), PageStatus.STORED)
    wait_for(lambda: set(_owners(client)) == {node}, "the node published them")


def test_an_heir_that_dies_during_a_drain_costs_no_page_that_another_takes(
    nodes: Any, open_store: Open
) -> None:
    leaver = nodes("leaver", "--drain-for", "60s")
    reader = Client(open_store(capacity="0"))
    _published(reader, "leaver")
    nodes("heir")
    doomed = _stopped(nodes("doomed"))
    leaver.process.send_signal(signal.SIGTERM)
    assert leaver.event() == "leaving"
    doomed.close()
    left = leaver.left()
    assert left == {"event": "left", "pages": 20, "moved": 20, "lost": 0, "kept": 0}
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)


def test_a_drain_without_a_directory_ends_and_loses_what_it_must(
    server: Server, nodes: Any, open_store: Open
) -> None:
    leaver = nodes("leaver", "--drain-for", "5s")
    reader = Client(open_store(capacity="0", directory__timeout_ms=300))
    _published(reader, "leaver")
    heir = _stopped(nodes("heir"))  # so that the drain has begun, and is not over, when Redis goes
    leaver.process.send_signal(signal.SIGTERM)
    assert leaver.event() == "leaving"
    server.kill()
    heir.process.send_signal(signal.SIGCONT)
    left = leaver.left()
    assert left["moved"] + left["lost"] == left["pages"] == 20
    server.start()
    wait_for(lambda: not all_are(reader.get(_KEYS), PageStatus.DIRECTORY_DOWN), "Redis is back")
    found = reader.get(_KEYS)
    assert _right(reader, found)


def test_a_put_into_the_hosts_node_can_be_given_up(nodes: Any, open_store: Open) -> None:
    """The node stands still when the put comes, and goes on when the memory holds something else."""
    keeper = nodes("keeper")
    client = Client(open_store(directory__timeout_ms=300))
    assert all_are(client.put(names(3, "before")), PageStatus.STORED)
    _stopped(keeper)
    try:
        for row, key in enumerate(_KEYS):
            client.buffer[row] = page(key, client.size)
        transfer = client.store.submit_put(client.space, _KEYS, client.addresses(20), client.size, timeout=30)
        transfer.cancel()
        assert transfer.wait(20) and transfer.wait_released(20)
        assert not np.isin(transfer.status, [PageStatus.PENDING, PageStatus.HIT]).any()
        client.buffer[:] = 0xEE
    finally:
        keeper.process.send_signal(signal.SIGCONT)
    reader = Client(open_store(capacity="0"))
    assert all_are(client.put(names(3, "after")), PageStatus.STORED)
    wait_for(lambda: all_are(reader.exists(names(3, "after")), PageStatus.HIT), "the node works again")
    found = reader.get(_KEYS)
    assert _right(reader, found)
