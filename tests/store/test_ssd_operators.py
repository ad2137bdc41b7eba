"""What operators see of pages on disk, and what they can do with them: stat, pin, verify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.disks import Owner
from support.stores import Open, Server, wait_for
from support.tent import tent
from tent_core.store import PageStatus
from tent_core.store.ssd import FILE


@pytest.fixture
def owner(open_store: Open, tmp_path: Path) -> Owner:
    made = Owner(open_store, tmp_path)
    made.groups = made.fill()
    made.settle()
    return made


def test_stat_shows_pages_on_disk(server: Server, owner: Owner) -> None:
    status, shown = tent(server, "stat", "--model", "test")
    (row,) = shown["spaces"]
    assert status == 0 and row["disk_pages"] == owner.disk["pages"]
    assert row["disk_bytes"] == owner.disk["pages"] * owner.size and row["pages"] > 0
    below = owner.groups[0][0].decode()
    status, shown = tent(server, "stat", below)
    assert shown["pages"][0]["replicas"] == ["owner"] and shown["pages"][0]["on_disk"] == ["owner"]
    newest = owner.groups[-1][-1].decode()
    assert tent(server, "stat", newest)[1]["pages"][0]["on_disk"] == []


def test_a_pin_brings_a_page_up_from_the_disk(server: Server, owner: Owner) -> None:
    keys = [key.decode() for key in owner.groups[0][:3]]
    assert tent(server, "pin", *keys) == (0, {"pinned": 3})
    assert owner.store.stats()["pinned_pages"] == 3
    assert tent(server, "unpin", *keys) == (0, {"unpinned": 3})
    below = owner.groups[1][:2]
    assert (owner.store.pin(owner.space, below) == PageStatus.HIT).all()
    assert owner.store.stats()["pinned_pages"] == 2


def test_verify_finds_rotten_pages_on_disk_and_removes_them(
    server: Server, owner: Owner, tmp_path: Path
) -> None:
    on_disk = owner.disk["pages"]
    status, shown = tent(server, "verify")
    rows = {row["where"]: row for row in shown["nodes"]}
    assert status == 0 and rows["disk"]["unread"] == 0
    # Pages that the scrub of the memory made room for may have come since.
    assert rows["disk"]["pages"] >= on_disk and rows["disk"]["bad"] == 0
    assert rows["disk"]["bytes"] == rows["disk"]["pages"] * owner.size
    # Ten pages of the file's first extent, where what was put first lies.
    with (tmp_path / FILE).open("r+b") as file:
        for at in range(10):
            file.seek(100_000 + at * 100_032)
            file.write(b"\xa5\x5a\xa5")
    status, shown = tent(server, "verify", "--keep")
    rows = {row["where"]: row for row in shown["nodes"]}
    bad = rows["disk"]["bad"]
    assert status == 1 and bad > 0 and rows["disk"]["removed"] == 0
    status, shown = tent(server, "verify", "owner")
    rows = {row["where"]: row for row in shown["nodes"]}
    assert status == 1 and (rows["disk"]["bad"], rows["disk"]["removed"]) == (bad, bad)
    status, shown = tent(server, "verify")
    assert status == 0 and {row["bad"] for row in shown["nodes"]} == {0}
    wait_for(lambda: not owner.store.stats()["unpublishing"], "their records are gone")
    found = np.concatenate([owner.exists(group) for group in owner.groups])
    assert (found != PageStatus.HIT).sum() >= bad
