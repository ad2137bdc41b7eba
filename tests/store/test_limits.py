"""How long pages stay, and how much of a node's memory one tenant may have."""

from __future__ import annotations

import pytest

from support.stores import Client, Open, Server, all_are, names, wait_for
from tent_core.errors import InvalidArgument
from tent_core.store import PageStatus
from tent_core.store.tenants import tenant_id


def test_a_page_whose_time_is_over_is_a_miss_for_everybody(open_store: Open, server: Server) -> None:
    owner = Client(open_store(store__ttl_s=1))
    reader = Client(open_store(capacity="0"))
    short, lasting = names(3, "short"), names(3, "lasting")
    assert all_are(owner.put(lasting, ttl=0), PageStatus.STORED)
    assert all_are(owner.put(short), PageStatus.STORED)
    wait_for(lambda: all_are(owner.get(short), PageStatus.ABSENT), "the owner takes them for gone")
    wait_for(lambda: len(server.record_keys()) == 3, "they leave the directory")
    assert all_are(reader.get(short), PageStatus.ABSENT)
    assert all_are(reader.get(lasting), PageStatus.HIT)
    assert reader.verify(lasting)
    assert owner.store.stats()["expired"] == 3
    assert all_are(owner.put(short), PageStatus.STORED)


def test_a_time_to_live_is_checked(open_store: Open) -> None:
    owner = Client(open_store())
    with pytest.raises(InvalidArgument, match="ttl"):
        owner.put(names(1), ttl=-1.0)
    assert all_are(owner.put(names(1), ttl=3600.0), PageStatus.STORED)


def test_a_tenant_loses_its_own_pages_first(open_store: Open) -> None:
    """16 MiB, of which a tenant may have an eighth."""
    config = {"store__tenant_quota_percent": 12}
    a = Client(open_store(store__tenant="a", **config), size=100_000, count=20)
    other = a.store.namespace({"tenant": "b", "model": "test"})
    theirs = names(10, "theirs")
    a.store.put(other, theirs, a.addresses(10), a.size)
    for group in range(10):
        assert all_are(a.put(names(10, f"g{group}-")), PageStatus.STORED)
    assert all_are(a.get(names(10, "g9-")), PageStatus.HIT)
    assert a.verify(names(10, "g9-"))
    assert all_are(a.store.exists(other, theirs), PageStatus.HIT)
    used = a.store._context.native.tenant_bytes(tenant_id("a"))
    assert 15 * a.size < used <= a.store.stats()["capacity"] * 12 // 100
    assert a.store.stats()["quota_evicted"] > 50


def test_a_tenant_that_keeps_all_of_its_pages_is_told(open_store: Open) -> None:
    a = Client(open_store(store__tenant="a", store__tenant_quota_percent=12), size=100_000, count=30)
    mine = names(20)
    status = a.put(mine)
    a.store.pin(a.space, mine)
    assert all_are(status, PageStatus.STORED)
    assert all_are(a.put(names(5, "more")), PageStatus.QUOTA)
    assert a.store.stats()["quota_refused"] == 5
    a.store.unpin(a.space, mine)
    assert all_are(a.put(names(5, "more")), PageStatus.STORED)


def test_tenants_do_not_find_each_others_pages(open_store: Open) -> None:
    a, b = Client(open_store(store__tenant="a")), Client(open_store(store__tenant="b"))
    a.put(names(3))
    assert all_are(b.get(names(3)), PageStatus.ABSENT)


def test_an_owner_learns_the_tenants_of_what_peers_put(open_store: Open) -> None:
    owner = open_store(node__name="owner", store__tenant_quota_percent=50)
    writer = Client(open_store(capacity="0", store__tenant="a"))
    assert all_are(writer.put(names(4), node="owner"), PageStatus.STORED)
    native = owner._context.native
    wait_for(lambda: native.tenant_bytes(tenant_id("a")) == 4 * writer.size, "the owner counts them as a's")
