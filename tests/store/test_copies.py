"""Pages with several replicas: how they come to be, which is read, and what happens when one is gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.stores import Client, Open, Server, all_are, names, wait_for
from tent_core import _native
from tent_core.store import PageStatus, PageStore
from tent_core.store.copies import ask, spread
from tent_core.store.pools import Pool

_KEYS = names(20)


def _digests(client: Client, keys: list[bytes] = _KEYS) -> Any:
    return _native.page_digests(client.space.digest, keys)


def _replicas(client: Client) -> list[list[str]]:
    """Node names by page, as the directory has them."""
    records, _ = client.store.directory.lookup(client.space.digest, _digests(client))
    found = []
    for record in records:
        info = None if record is None else _native.record_info(record)
        found.append([] if info is None else [name for name, *_ in info["replicas"]])
    return found


def _know_each_other(*stores: PageStore) -> None:
    for store in stores:
        store._context.pools.refresh()


def _two_hosts(open_store: Open) -> tuple[Client, Client]:
    """A node that keeps two copies, and one on another host that has the second ones."""
    first = open_store(node__host_identity="host-a", store__replicas=2)
    second = open_store(node__host_identity="host-b")
    _know_each_other(first, second)
    owner, other = Client(first), Client(second)
    assert all_are(owner.put(_KEYS), PageStatus.STORED)
    wait_for(lambda: all(len(nodes) == 2 for nodes in _replicas(owner)), "each page has two replicas")
    return owner, other


def test_pages_get_as_many_copies_on_other_hosts_as_asked_for(open_store: Open) -> None:
    owner, other = _two_hosts(open_store)
    expected = {owner.store.node_name, other.store.node_name}
    assert all(set(nodes) == expected for nodes in _replicas(owner))
    assert other.store.stats()["pages"] == len(_KEYS)
    assert all_are(other.get(_KEYS), PageStatus.HIT) and other.verify(_KEYS)


def test_no_copy_goes_to_the_same_host(open_store: Open) -> None:
    first = open_store(node__host_identity="host-a", store__replicas=2)
    neighbour = open_store(node__host_identity="host-a")
    far = open_store(node__host_identity="host-b")
    _know_each_other(first, neighbour, far)
    owner = Client(first)
    owner.put(_KEYS)
    wait_for(lambda: all(len(nodes) == 2 for nodes in _replicas(owner)), "each page has two replicas")
    assert neighbour.stats()["pages"] == 0


def test_reads_go_to_all_replicas(open_store: Open) -> None:
    _two_hosts(open_store)
    reader = Client(open_store(capacity="0", node__host_identity="host-c"))
    located = reader.lookup(_KEYS).located
    assert sorted(np.bincount(located.node).tolist()) == [10, 10]
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)


def test_a_dead_replica_is_passed_over(open_store: Open) -> None:
    """The other one has the page: no miss, and no more time than it takes to notice."""
    _, other = _two_hosts(open_store)
    reader = Client(open_store(capacity="0", node__host_identity="host-c"))
    assert all_are(reader.get(_KEYS), PageStatus.HIT)
    other.store.close()
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)


def test_what_is_removed_is_gone_from_all_its_nodes(open_store: Open) -> None:
    owner, other = _two_hosts(open_store)
    reader = Client(open_store(capacity="0", node__host_identity="host-c"))
    assert all_are(reader.store.remove(reader.space, _KEYS), PageStatus.HIT)
    assert owner.store.stats()["pages"] == other.store.stats()["pages"] == 0
    assert all_are(reader.get(_KEYS), PageStatus.ABSENT)


def test_an_evicted_replica_leaves_the_record_and_the_page_stays(open_store: Open) -> None:
    owner, other = _two_hosts(open_store)
    other.store._context.native.remove(_digests(other))
    other.store._context.wake.set()
    wait_for(lambda: all(nodes == [owner.store.node_name] for nodes in _replicas(owner)), "one replica left")
    reader = Client(open_store(capacity="0", node__host_identity="host-c"))
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)


def test_a_replica_that_is_gone_unannounced_is_taken_out_by_who_meets_it(
    open_store: Open, server: Server
) -> None:
    """As after a lost unpublish: the record names a page that its node has not got any more."""
    _, other = _two_hosts(open_store)
    native = other.store._context.native
    native.remove(_digests(other))
    native.take_unpublish(1000)
    reader = Client(open_store(capacity="0", node__host_identity="host-c"))
    for _ in range(3):  # some pages are read from the good replica at once, and the other one is not met
        assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)


@pytest.mark.protects("check")
def test_invariant_1_a_rotten_replica_is_passed_over(open_store: Open) -> None:
    _, other = _two_hosts(open_store)
    segment = other.store._segment
    assert segment is not None
    segment.view[:] = 0xEE
    reader = Client(open_store(capacity="0", node__host_identity="host-c"))
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)


def test_a_rotten_page_is_dropped_by_its_owner_when_a_reader_complains(open_store: Open) -> None:
    owner = Client(open_store())
    assert all_are(owner.put(_KEYS), PageStatus.STORED)
    reader = Client(open_store(capacity="0"))
    assert all_are(reader.get(_KEYS), PageStatus.HIT)
    segment = owner.store._segment
    assert segment is not None
    offsets = owner.store._context.native.list(0, 1024)[5]
    segment.view[int(offsets[3]) + 9] ^= 4
    assert (reader.get(_KEYS) == PageStatus.CHECK_FAILED).sum() == 1
    wait_for(
        lambda: owner.store.stats()["pages"] == len(_KEYS) - 1, "the owner dropped the bad page, and it alone"
    )
    assert owner.store.stats()["check_failed"] == 1
    owner.store._context.native.doubt(_digests(owner))  # a liar, or a reader whose own memory is bad
    owner.store._context.wake.set()
    wait_for(lambda: owner.store._context.native.scrub(1) == 0, "all of them were looked at")
    assert owner.store.stats()["pages"] == len(_KEYS) - 1


def test_copies_that_died_with_their_node_are_made_anew(open_store: Open) -> None:
    owner, other = _two_hosts(open_store)
    third = open_store(node__host_identity="host-c")
    other.store.close()
    _know_each_other(owner.store)
    expected = {owner.store.node_name, third.node_name}
    wait_for(lambda: all(set(nodes) == expected for nodes in _replicas(owner)), "the third node has copies")
    assert third.stats()["pages"] == len(_KEYS)


def test_pages_that_are_read_again_and_again_get_a_copy_here(open_store: Open) -> None:
    owner = Client(open_store(node__host_identity="host-a"))
    assert all_are(owner.put(_KEYS), PageStatus.STORED)
    store = open_store(node__host_identity="host-b", store__fan_out=3)
    reader = Client(store)
    for _ in range(2):
        assert all_are(reader.get(_KEYS), PageStatus.HIT)
    assert all_are(reader.get(_KEYS[:5]), PageStatus.HIT)
    wait_for(lambda: store.stats()["pages"] == 5, "the five pages that were read three times are here")
    wait_for(
        lambda: [len(nodes) for nodes in _replicas(owner)] == [2] * 5 + [1] * 15, "they are in the records"
    )
    assert all_are(reader.get(_KEYS[:5]), PageStatus.HIT) and reader.verify(_KEYS[:5])
    near = open_store(node__host_identity="host-a", store__fan_out=1)
    neighbour = Client(near)
    for _ in range(3):
        assert all_are(neighbour.get(_KEYS[5:]), PageStatus.HIT)
    assert near.stats()["pages"] == 0  # the owner is on the same host


def test_a_page_of_another_version_is_not_copied(open_store: Open) -> None:
    """Who has the page computed it itself: the two need not agree bit for bit, so they stay apart."""
    owner = Client(open_store(node__host_identity="host-a"))
    owner.put(_KEYS)
    other = Client(open_store(node__host_identity="host-b"))
    native = other.store._context.native
    records, _ = owner.store.directory.lookup(owner.space.digest, _digests(owner))
    assert all_are(other.put(_KEYS, flavour=1), PageStatus.PRESENT)
    assert native.stats()["pages"] == 0
    after, _ = owner.store.directory.lookup(owner.space.digest, _digests(owner))
    assert records == after


def test_a_copy_of_what_was_cleared_meanwhile_is_dropped(open_store: Open) -> None:
    owner = Client(open_store(node__host_identity="host-a"))
    other = Client(open_store(node__host_identity="host-b"))
    owner.put(_KEYS)
    _know_each_other(owner.store, other.store)
    owner.store.clear(owner.space)
    pool = owner.store._context.pools.known[other.store.node_name]
    answers = ask(owner.store._context, pool, (owner.space.digest, 0, _digests(owner)), 0)
    assert answers is not None and all_are(answers, PageStatus.PENDING)
    wait_for(lambda: not other.store._context.native.take_wanted(1), "the request was looked at")
    assert all_are(other.get(_KEYS), PageStatus.CLEARED) or all_are(other.get(_KEYS), PageStatus.ABSENT)
    assert other.store.stats()["pages"] == 0


def test_pages_are_spread_evenly_and_stay_where_they_are() -> None:
    pools = [Pool(f"node-{i}", bytes([i] * 16), f"host-{i // 2}", 1 << 30, 1 << 20, True) for i in range(8)]
    digests = np.random.default_rng(3).integers(0, 256, (4000, 16), dtype=np.uint8)
    chosen = spread(digests, pools, 2)
    assert all(len({pools[i].host for i in mine}) == 2 for mine in chosen)
    share = np.bincount([i for mine in chosen for i in mine], minlength=8) / 8000
    assert share.min() > 0.09 and share.max() < 0.16
    fewer = spread(digests, pools[:7], 2)
    moved = sum(7 not in before and before != after for before, after in zip(chosen, fewer, strict=True))
    assert moved == 0
    assert spread(digests, [], 2)[0] == [] and len(spread(digests, pools, 9)[0]) == 4


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version": 2}',
        b'{"version": 1, "host": 1, "capacity": 2, "extent": 1, "daemon": true, "leaving": false}',
        b'{"version": 1, "host": "a", "capacity": -2, "extent": -3, "daemon": true, "leaving": false}',
        b'{"version": 1, "host": "a", "capacity": 1e300, "extent": 1, "daemon": true, "leaving": false}',
        b'{"version": 1, "host": "a", "capacity": 2, "extent": 1, "daemon": 1, "leaving": false}',
    ],
)
def test_a_hostile_pool_record_is_no_pool(record: bytes) -> None:
    assert Pool.decode("node", bytes(16), record) is None
