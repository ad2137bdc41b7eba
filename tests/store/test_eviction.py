"""A full pool: what goes, what stays, and that nobody reads what came after."""

from __future__ import annotations

import pytest

from support.stores import Client, Open, Server, all_are, names, wait_for
from tent_core.store import PageStatus


def test_a_full_pool_goes_on_and_old_records_leave_the_directory(open_store: Open, server: Server) -> None:
    owner = Client(open_store(capacity="4MiB", extent="1MiB"), size=100_000, count=10)
    for group in range(12):  # three times its size
        assert all_are(owner.put(names(10, f"g{group}-")), PageStatus.STORED)
    assert all_are(owner.get(names(10, "g11-")), PageStatus.HIT)
    assert owner.verify(names(10, "g11-"))
    assert all_are(owner.exists(names(10, "g0-")), PageStatus.ABSENT)
    wait_for(
        lambda: len(server.record_keys()) == owner.store.stats()["pages"],
        "the directory has what the owner has",
    )


def test_what_is_read_stays(open_store: Open) -> None:
    owner = Client(open_store(capacity="8MiB", extent="1MiB"), size=50_000, count=10)
    reader = Client(open_store(capacity="0"), size=50_000, count=10)
    hot = names(5, "hot")
    assert all_are(owner.put(hot), PageStatus.STORED)
    for group in range(40):  # 2.5 times its size
        owner.put(names(10, f"cold{group}-"))
        assert all_are(owner.get(hot), PageStatus.HIT), f"hot pages went after {group} groups"
    assert all_are(reader.get(hot), PageStatus.HIT)
    assert reader.verify(hot)


def test_pages_that_are_read_in_every_extent_are_moved_and_found_where_they_went(open_store: Open) -> None:
    owner = Client(open_store(capacity="8MiB", extent="1MiB"), size=50_000, count=20)
    reader = Client(open_store(capacity="0"), size=50_000, count=20)
    hot: list[bytes] = []
    for group in range(12):  # each fills an extent
        assert all_are(owner.put(names(20, f"g{group}-")), PageStatus.STORED)
        hot.append(b"g%d-0" % group)
        assert all_are(reader.get(hot[-4:]), PageStatus.HIT), f"hot pages went after {group} groups"
        assert reader.verify(hot[-4:])
        assert all_are(owner.get(hot[-4:]), PageStatus.HIT)
    assert owner.store.stats()["moved"] > 0


def test_pinned_pages_stay_and_a_pool_full_of_them_takes_no_more(open_store: Open) -> None:
    owner = Client(open_store(capacity="4MiB", extent="1MiB"), size=100_000, count=10)
    keys = names(30)
    for start in (0, 10, 20):
        some = keys[start : start + 10]
        assert all_are(owner.put(some), PageStatus.STORED)
        assert all_are(owner.store.pin(owner.space, some), PageStatus.HIT)
    late = [status for group in range(3) for status in owner.put(names(10, f"late{group}-")).tolist()]
    assert PageStatus.NO_SPACE in late
    for start in (0, 10, 20):
        assert all_are(owner.get(keys[start : start + 10]), PageStatus.HIT)
    owner.store.unpin(owner.space, keys)
    assert all_are(owner.put(names(10, "later")), PageStatus.STORED)


def test_a_read_lease_keeps_pages(open_store: Open) -> None:
    owner = Client(open_store(capacity="4MiB", extent="1MiB"), size=100_000, count=10)
    reader = Client(open_store(capacity="0"), size=100_000, count=10)
    keys = names(10)
    owner.put(keys)
    found = reader.lookup(keys, pin_ms=60_000)
    assert found.hits == 10
    for group in range(12):
        owner.put(names(10, f"g{group}-"))
    assert all_are(reader.get(keys, lookup=found), PageStatus.HIT)
    assert reader.verify(keys)


@pytest.mark.protects("epoch")
def test_invariant_1_a_record_from_before_the_reuse_is_a_miss(open_store: Open) -> None:
    owner = Client(open_store(capacity="4MiB", extent="1MiB"), size=100_000, count=10)
    reader = Client(open_store(capacity="0"), size=100_000, count=10)
    keys = names(10)
    owner.put(keys)
    found = reader.lookup(keys)
    assert all_are(reader.get(keys, lookup=found), PageStatus.HIT)
    for group in range(12):
        owner.put(names(10, f"g{group}-"))
    # The reader asks again when it is told; had it read instead, only the page check would have saved it.
    status = reader.get(keys, lookup=found)
    assert PageStatus.CHECK_FAILED not in status
    assert all_are(status, PageStatus.ABSENT)


@pytest.mark.protects("check")
def test_invariant_1_rotten_bytes_are_a_miss(open_store: Open) -> None:
    owner, reader = Client(open_store()), Client(open_store(capacity="0"))
    keys = names(3)
    owner.put(keys)
    found = reader.lookup(keys)
    segment = owner.store._segment
    assert segment is not None
    segment.view[int(found.located.offset[1]) + 10_000] ^= 1
    assert reader.get(keys).tolist() == [0, PageStatus.CHECK_FAILED, 0]
    # The reader has complained: the owner may have looked already.
    assert owner.get(keys).tolist() in ([0, PageStatus.CHECK_FAILED, 0], [0, PageStatus.ABSENT, 0])
    assert owner.get(keys)[1] == PageStatus.ABSENT  # its owner dropped it
