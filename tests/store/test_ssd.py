"""Pages that leave memory for the disk: found there, brought up with the right bytes, there again after a restart; and
whatever becomes of the disk, a miss at worst."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.disks import GROUPS, SIZE, Owner
from support.store_process import NodeProcess
from support.stores import Client, Open, Server, all_are, names, page, wait_for
from tent_core import _native
from tent_core.errors import InvalidArgument, NameInUse, Unsupported, VersionMismatch
from tent_core.store import PageStatus, PageStore
from tent_core.store.ssd import FILE


def _record_of(client: Client, key: bytes) -> dict[str, Any] | None:
    digests = _native.page_digests(client.space.digest, [key])
    records, _ = client.store.directory.lookup(client.space.digest, digests)
    return None if records[0] is None else _native.record_info(records[0])


@pytest.mark.parametrize("io", ["uring", "threads"])
def test_pages_that_left_memory_come_back_from_the_disk(open_store: Open, tmp_path: Path, io: str) -> None:
    try:
        owner = Owner(open_store, tmp_path, store__ssd_io=io)
    except Unsupported:  # a kernel without io_uring says so, and by default threads do it
        assert io == "uring"
        owner, io = Owner(open_store, tmp_path), "threads"
    groups = owner.fill()
    assert owner.disk["written"] >= 70 and owner.disk["dropped"] == 0
    assert all_are(owner.exists(groups[0]), PageStatus.HIT)
    for group in groups:
        assert all_are(owner.get(group), PageStatus.HIT)
        assert owner.verify(group)
        owner.keep_up()  # what is brought up sends others to the disk
    assert owner.disk["read"] > 0 and owner.disk["io"] == ("io_uring" if io == "uring" else "threads")


def test_readers_on_other_nodes_get_them_too(open_store: Open, tmp_path: Path) -> None:
    owner = Owner(open_store, tmp_path)
    groups = owner.fill()
    owner.settle()
    reader = Client(open_store(capacity="0", store__ssd_timeout_ms=20_000), size=SIZE, count=10)
    info = _record_of(reader, groups[0][0])
    assert info is not None and info["replicas"][0][2] == _native.DISK_SEGMENT
    for group in groups:
        assert all_are(reader.exists(group), PageStatus.HIT)
        assert all_are(reader.get(group), PageStatus.HIT)
        assert reader.verify(group)
        owner.keep_up()


def test_a_restart_finds_them_again(open_store: Open, tmp_path: Path) -> None:
    owner = Owner(open_store, tmp_path)
    groups = owner.fill()
    on_disk = owner.disk["pages"]
    owner.end()
    again = Owner(open_store, tmp_path)
    assert again.disk["rebuilt"] >= on_disk  # and what upkeep moved there meanwhile
    again.settle()
    reader = Client(open_store(capacity="0", store__ssd_timeout_ms=20_000), size=SIZE, count=10)
    for group in groups[:6]:
        assert all_are(reader.get(group), PageStatus.HIT)
        assert reader.verify(group)
        assert all_are(again.get(group), PageStatus.HIT)
        assert again.verify(group)
        again.keep_up()


def test_a_node_that_left_is_back_with_its_pages(open_store: Open, server: Server, tmp_path: Path) -> None:
    config = {
        "directory.url": server.url, "directory.timeout_ms": 2000, "directory.node_ttl_ms": 1500,
        "store.capacity": "4MiB", "store.extent": "1MiB", "store.ssd_path": str(tmp_path),
        "store.ssd_capacity": "64MiB", "store.ssd_timeout_ms": 20_000,
    }  # fmt: skip
    node = NodeProcess(server.folder, "keeper", **config)
    try:
        reader = Client(open_store(capacity="0", store__ssd_timeout_ms=20_000), size=SIZE, count=10)
        for group in range(GROUPS):
            keys = names(10, f"g{group}-")
            # While upkeep makes room, the node may have none to lend.
            wait_for(lambda k=keys: (reader.put(k) <= PageStatus.PRESENT).all(), "the node takes them")
        node.process.send_signal(signal.SIGTERM)
        left = node.left()  # nobody takes what it has, so it is kept on disk
        assert left["kept"] > 0 and left["kept"] + left["lost"] == left["pages"]
        assert (reader.get(names(10, "g11-")) != PageStatus.HIT).all()
        node = NodeProcess(server.folder, "keeper", **config)
        assert node.last["disk_pages"] >= left["kept"]
        wait_for(lambda: (reader.get(names(10, "g11-")) == PageStatus.HIT).any(), "they are published")
        found = 0
        for group in range(GROUPS):
            status = reader.get(names(10, f"g{group}-"))
            for row in np.flatnonzero(status == PageStatus.HIT).tolist():
                assert bool((reader.buffer[row] == page(b"g%d-%d" % (group, row), SIZE)).all())
                found += 1
        assert found > 0
    finally:
        node.close()


def test_invariant_1_what_was_cleared_while_the_node_was_down_stays_away(
    open_store: Open, tmp_path: Path
) -> None:
    owner = Owner(open_store, tmp_path)
    groups = owner.fill()
    owner.end()
    other = Client(open_store(capacity="0"), size=SIZE, count=10)
    other.store.clear(other.space)
    again = Owner(open_store, tmp_path)
    for group in groups:
        assert (again.get(group) != PageStatus.HIT).all()
        assert (other.get(group) != PageStatus.HIT).all()
    assert again.disk["pages"] == 0


@pytest.mark.protects("generation")
def test_invariant_1_while_nobody_can_say_whether_they_were_cleared_they_are_not_found(
    open_store: Open, tmp_path: Path, server: Server
) -> None:
    owner = Owner(open_store, tmp_path)
    groups = owner.fill()
    owner.end()
    with server.silent():
        again = Owner(open_store, tmp_path, directory__timeout_ms=50)
        assert (again.get(groups[0]) != PageStatus.HIT).all()
    wait_for(lambda: all_are(again.get(groups[0]), PageStatus.HIT), "the directory says that they may be")
    assert again.verify(groups[0])


def test_removed_pages_do_not_come_back(open_store: Open, tmp_path: Path) -> None:
    owner = Owner(open_store, tmp_path)
    groups = owner.fill()
    assert all_are(owner.store.remove(owner.space, groups[0]), PageStatus.HIT)
    assert (owner.get(groups[0]) != PageStatus.HIT).all()
    owner.end()
    again = Owner(open_store, tmp_path)
    wait_for(lambda: all_are(again.get(groups[1]), PageStatus.HIT), "it is published again")
    assert (again.get(groups[0]) != PageStatus.HIT).all()


@pytest.mark.protects("check")
def test_invariant_1_rotten_bytes_on_disk_are_a_miss(open_store: Open, tmp_path: Path) -> None:
    owner = Owner(open_store, tmp_path)
    groups = owner.fill()
    owner.end()
    again = Owner(open_store, tmp_path)
    path = tmp_path / FILE
    with path.open("r+b") as file:  # every page has a bad byte somewhere
        for at in range(64 * 1024, path.stat().st_size, 50_000):
            file.seek(at)
            file.write(b"\xa5\x5a\xa5")
    bad = 0
    for group in groups[:7]:
        status = again.get(group)
        for row in np.flatnonzero(status == PageStatus.HIT).tolist():
            assert again.verify_row(group[row], row)
        bad += int((status != PageStatus.HIT).sum())
    assert bad > 0 and again.disk["check_failed"] > 0
    assert all_are(again.put(names(5, "later")), PageStatus.STORED)


def test_a_torn_table_costs_its_extent_and_nothing_else(open_store: Open, tmp_path: Path) -> None:
    owner = Owner(open_store, tmp_path)
    owner.fill()
    owner.end()
    again = Owner(open_store, tmp_path)
    on_disk = again.disk["rebuilt"]
    again.end()
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(4096 + 200)  # in the first extent's table
        file.write(b"torn")
    again = Owner(open_store, tmp_path)
    assert 0 < again.disk["rebuilt"] < on_disk


def test_a_file_cut_short_behind_our_back_is_misses(open_store: Open, tmp_path: Path) -> None:
    owner = Owner(open_store, tmp_path)
    groups = owner.fill()
    os.truncate(tmp_path / FILE, 8192)
    for group in groups:
        status = owner.get(group)
        for row in np.flatnonzero(status == PageStatus.HIT).tolist():
            assert owner.verify_row(group[row], row)
    # Reading beyond the end is an error; writing made the file long again, with zeros in between.
    assert owner.disk["bad_extents"] + owner.disk["check_failed"] > 0
    assert all_are(owner.put(names(10, "later")), PageStatus.STORED)
    assert all_are(owner.get(names(10, "later")), PageStatus.HIT)


def test_a_newer_file_is_refused_and_left_alone(open_store: Open, tmp_path: Path) -> None:
    path = tmp_path / FILE
    block = bytearray(4096)
    block[:8] = b"TENTPAGE"
    block[8] = 2
    path.write_bytes(bytes(block) * 3)
    with pytest.raises(VersionMismatch, match="newer TENT"):
        Owner(open_store, tmp_path)
    assert path.read_bytes() == bytes(block) * 3
    path.write_bytes(b"somebody else's" * 1000)
    with pytest.raises(InvalidArgument, match="no page file"):
        Owner(open_store, tmp_path)
    assert path.read_bytes() == b"somebody else's" * 1000


def test_a_file_in_use_is_refused(open_store: Open, tmp_path: Path, server: Server) -> None:
    Owner(open_store, tmp_path)
    config = {
        "directory.url": server.url, "store.capacity": "4MiB", "store.extent": "1MiB",
        "store.ssd_path": str(tmp_path), "store.ssd_capacity": "64MiB",
    }  # fmt: skip
    with pytest.raises(NameInUse, match="another process"):
        PageStore.open(config, daemon=True)
    with PageStore.open(config) as store:  # a serving process goes on without
        assert "ssd" not in store.stats()


def test_a_full_disk_means_no_disk(
    open_store: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner = Owner(open_store, tmp_path, store__ssd_capacity="512TiB")
    assert "ssd" not in owner.store.stats()
    assert sum("no pages are kept on disk" in record.message for record in caplog.records) == 1
    assert all_are(owner.put(names(10)), PageStatus.STORED)
