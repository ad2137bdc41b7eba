"""Redis gone, emptied, full of garbage; owners gone. Nothing raises, nothing hangs, everything recovers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.stores import Client, Open, Server, all_are, names, wait_for
from tent_core import _native
from tent_core.errors import Busy, SegmentGone
from tent_core.store import PageStatus

_OWNER = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from support.stores import Client, names
from tent_core.store import PageStore
with PageStore.open(json.loads(sys.argv[1])) as store:
    client = Client(store)
    status = client.put(names(20), flavour=int(sys.argv[3]))
    print(json.dumps([store.node_name, status.tolist()]), flush=True)
    sys.stdin.read()
"""


class Owner:
    """A node in a process of its own, with twenty pages."""

    def __init__(self, server: Server, flavour: int = 0, **config: object) -> None:
        settings = {
            "directory.url": server.url,
            "directory.timeout_ms": 2000,
            "store.capacity": "16MiB",
            **config,
        }
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _OWNER,
                json.dumps(settings),
                str(Path(__file__).parents[1]),
                str(flavour),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the owner's process ended early; its error is above"
        self.name, self.status = json.loads(line)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def close(self) -> None:
        self.process.communicate(timeout=30)


def test_the_directory_goes_and_comes_back_empty(open_store: Open, server: Server) -> None:
    owner = Client(open_store(directory__timeout_ms=300))
    reader = Client(open_store(capacity="0", directory__timeout_ms=300))
    keys = names(10)
    owner.put(keys)
    assert all_are(reader.get(keys), PageStatus.HIT)
    server.kill()
    started = time.monotonic()
    assert all_are(reader.get(keys), PageStatus.DIRECTORY_DOWN)
    assert all_are(owner.get(keys), PageStatus.HIT)  # its own pages need no directory
    assert owner.verify(keys)
    assert all_are(owner.put(names(5, "meanwhile")), PageStatus.STORED)
    assert all_are(reader.exists(keys), PageStatus.DIRECTORY_DOWN)
    assert time.monotonic() - started < 20
    server.start()
    assert not server.record_keys()
    everything = keys + names(5, "meanwhile")
    wait_for(
        lambda: all_are(reader.exists(everything), PageStatus.HIT), "the owner publishes its pages again"
    )
    assert all_are(reader.get(everything), PageStatus.HIT)
    assert reader.verify(everything)


def test_an_emptied_directory_learns_how_often_it_was_cleared(open_store: Open, server: Server) -> None:
    """Or a newcomer would publish under a generation that those who were there before call cleared."""
    store = open_store(directory__node_ttl_ms=1500)
    first = Client(store)
    store.clear(first.space)
    server.client().flushall()
    wait_for(lambda: server.client().keys("tent:*:g:*"), "the node tells it again")
    newcomer = Client(open_store())
    keys = names(10)
    assert all_are(newcomer.put(keys), PageStatus.STORED)
    assert all_are(first.get(keys), PageStatus.HIT) and first.verify(keys)


def test_an_emptied_directory_is_noticed_without_an_outage(open_store: Open, server: Server) -> None:
    owner = Client(open_store(directory__node_ttl_ms=1200))
    reader = Client(open_store(capacity="0"))
    owner.put(names(10))
    server.client().flushall()
    wait_for(lambda: all_are(reader.exists(names(10)), PageStatus.HIT), "the owner publishes its pages again")


def test_a_directory_that_is_down_at_the_start(open_store: Open, server: Server) -> None:
    server.kill()
    owner = Client(open_store(directory__timeout_ms=300))
    assert all_are(owner.put(names(5)), PageStatus.STORED)
    server.start()
    reader = Client(open_store(capacity="0"))
    wait_for(lambda: all_are(reader.get(names(5)), PageStatus.HIT), "the pages are published in the end")


def test_garbage_and_newer_records(open_store: Open, server: Server) -> None:
    owner, reader = Client(open_store()), Client(open_store(capacity="0"))
    keys = names(4)
    owner.put(keys)
    client = server.client()
    records = {key: client.get(key) for key in server.record_keys()}
    garbage, newer, wrong, fine = sorted(records)
    client.set(garbage, b"T\x01 garbage")
    client.set(newer, b"T\x02" + records[newer][2:])
    client.lpush("x", 1)
    client.delete(wrong)
    client.rename("x", wrong)  # a list where a record should be
    counts = sorted(reader.get(keys).tolist())
    assert counts == [PageStatus.HIT, PageStatus.ABSENT, PageStatus.BAD_RECORD, PageStatus.VERSION]
    assert client.get(fine) == records[fine]
    wait_for(lambda: client.get(garbage) is None, "garbage is taken out")
    assert client.get(newer) is not None  # not ours to judge


def test_a_killed_owner_is_a_miss_and_its_pages_can_be_put_again(open_store: Open, server: Server) -> None:
    owner = Owner(server, **{"directory.node_ttl_ms": 1200})
    survivor = Client(open_store())
    try:
        assert all_are(survivor.get(names(20)), PageStatus.HIT)
        assert survivor.verify(names(20))
    finally:
        owner.kill()
    wait_for(
        lambda: all(PageStatus(value).is_miss for value in survivor.get(names(20), timeout=10)),
        "the owner is known to be dead",
    )

    def put_and_get() -> bool:
        survivor.put(names(20), flavour=3)
        return all_are(survivor.get(names(20)), PageStatus.HIT)

    wait_for(put_and_get, "dead records give way to a new put")
    assert survivor.verify(names(20), flavour=3)


@pytest.mark.protects("incarnation")
def test_invariant_5_a_restarted_owner_is_not_read_by_old_records(open_store: Open, server: Server) -> None:
    config = {"node.name": "phoenix", "directory.node_ttl_ms": 1200}
    first = Owner(server, **config)
    client = server.client()
    records = {key: client.get(key) for key in server.record_keys()}
    first.kill()
    directory = open_store(capacity="0").directory
    wait_for(lambda: directory.get_node("phoenix") is None, "its node record expires")
    second = Owner(server, flavour=1, **config)
    try:
        reader = Client(open_store(capacity="0"))
        assert all_are(reader.get(names(20)), PageStatus.HIT)
        assert reader.verify(names(20), flavour=1)
        client.mset(records)  # an old snapshot
        assert all_are(reader.get(names(20)), PageStatus.STALE_INCARNATION)
        wait_for(lambda: not server.record_keys(), "records of a dead incarnation are taken out")
    finally:
        second.close()


def test_the_first_publisher_wins_between_processes(open_store: Open, server: Server) -> None:
    mine = Client(open_store())
    other = Owner(server, flavour=1)
    try:
        assert other.status == [PageStatus.STORED] * 20
        assert all_are(mine.put(names(20), flavour=2), PageStatus.PRESENT)
        assert all_are(mine.get(names(20)), PageStatus.HIT)
        assert mine.verify(names(20), flavour=1)
    finally:
        other.close()


def test_two_nodes_with_one_name(open_store: Open) -> None:
    from tent_core.errors import NameInUse

    open_store(node__name="twin")
    with pytest.raises(NameInUse, match="twin"):
        open_store(node__name="twin")


def test_pages_put_into_another_node(open_store: Open) -> None:
    owner, writer = Client(open_store()), Client(open_store(capacity="0"))
    third = Client(open_store(capacity="0"))
    keys = names(40)
    put = {"node": owner.store.node_name}
    assert all_are(writer.put(keys, **put), PageStatus.STORED)
    wait_for(
        lambda: all_are(third.exists(keys), PageStatus.HIT), "the owner publishes what was committed to it"
    )
    assert all_are(third.get(keys), PageStatus.HIT)
    assert third.verify(keys)
    assert all_are(writer.put(keys, flavour=1, **put), PageStatus.PRESENT)
    assert writer.put([b"x"], node="nobody").tolist() == [PageStatus.OWNER_UNREACHABLE]
    large = Client(writer.store, size=2 << 20, count=1)
    assert large.put([b"large"], **put).tolist() == [PageStatus.TOO_LARGE]
    writer.store.close()
    wait_for(lambda: owner.store.stats()["lent_extents"] == 0, "the loan comes back")
    assert all_are(third.get(keys), PageStatus.HIT)


def test_the_same_statuses_on_both_sides() -> None:
    for status in PageStatus:
        assert _native.status_name(status) == status.name


@pytest.mark.protects("hold")
@pytest.mark.parametrize("submitted", [False, True])
def test_invariant_11_memory_in_use_by_a_put_is_not_unregistered(
    open_store: Open, server: Server, submitted: bool
) -> None:
    """The directory hangs under a put: its source stays registered until the put is over."""
    client = Client(open_store(directory__timeout_ms=60_000))
    keys = names(3)
    with server.silent():
        if submitted:
            addresses = client.addresses(len(keys))
            transfer = client.store.submit_put(client.space, keys, addresses, client.size)
            over: Callable[[float], Any] = transfer.wait_released
        else:
            thread = threading.Thread(target=client.put, args=(keys,))
            thread.start()
            over = thread.join
        wait_for(lambda: client.store.stats()["stored"] == 3, "the put has begun")
        with pytest.raises(Busy):
            client.segment.close(0.05)
        with pytest.raises(SegmentGone):  # and nothing new begins on it
            client.put(keys)
    over(30)
    client.segment.close(30)


def test_a_directory_that_was_only_away_is_not_told_everything_again(
    open_store: Open, server: Server
) -> None:
    store = open_store(directory__timeout_ms=300)
    owner, reader = Client(store), Client(open_store(capacity="0", directory__timeout_ms=300))
    owner.put(names(20))
    with server.silent():
        assert all_are(reader.get(names(20)), PageStatus.DIRECTORY_DOWN)
        assert all_are(owner.put(names(5, "meanwhile")), PageStatus.STORED)
    wait_for(
        lambda: all_are(reader.get(names(5, "meanwhile")), PageStatus.HIT), "what it missed is published"
    )
    wait_for(lambda: not store.stats()["directory_lost"], "the node has heard of the directory again")
    assert not any("store.republished" in name for name in store.metrics.snapshot())
    assert all_are(reader.get(names(20)), PageStatus.HIT)


def test_a_directory_restored_from_an_old_snapshot(open_store: Open, server: Server) -> None:
    """The node's record is in it: only the server's process tells that there is something to publish again."""
    owner, reader = Client(open_store()), Client(open_store(capacity="0"))
    owner.put(names(10))
    server.client().save()
    owner.put(names(10, "later"))
    owner.store.remove(owner.space, names(10)[:5])  # the snapshot still has them
    server.kill()
    server.start()
    assert server.record_keys()
    everything = names(10)[5:] + names(10, "later")
    wait_for(lambda: all_are(reader.exists(everything), PageStatus.HIT), "what came later is published again")
    assert all_are(reader.get(everything), PageStatus.HIT) and reader.verify(everything)
    assert not (reader.get(names(10)[:5]) == PageStatus.HIT).any()
