"""The ring of decisions: what one process writes another reads, whole, in order, and only while it lives."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tent_core.cli.main import main
from tent_core.explain import _BYTES, _SLOTS, Ring, rings


def mine(node: str):
    return [found for found in rings() if found.pid == os.getpid() and found.about.get("node") == node]


def test_the_newest_decisions_are_read_in_order_and_gone_with_the_ring():
    ring = Ring({"engine": "test", "node": "n"})
    try:
        for number in range(_SLOTS + 10):
            ring.add({"did": "look", "number": number})
        (found,) = mine("n")
        assert [record["number"] for record in found.records] == list(range(10, _SLOTS + 10))
        ring.about({"engine": "test", "node": "m", "fields": {"model": "x"}})
        assert mine("m")[0].about["fields"] == {"model": "x"}
    finally:
        ring.close()
        ring.close()
    ring.add({"did": "late"})
    assert mine("n") == mine("m") == []


def test_what_does_not_fit_loses_its_end_and_garbage_is_skipped(tmp_path: Path):
    ring = Ring({"node": "long"})
    try:
        ring.add({"did": "look", "fields": "x" * _BYTES})
        assert list(mine("long")[0].records[0]) == ["at", "did"]
        fake = tmp_path / "7" / "fd"
        fake.mkdir(parents=True)
        (fake / "3").symlink_to("/memfd:tent-explain (deleted)")
        assert list(rings(str(tmp_path))) == []
    finally:
        ring.close()


def test_the_command_says_why(capsys):
    ring = Ring({"engine": "sglang", "node": "explained", "fields": {"dtype": "bf16"}})
    try:
        ring.add(
            {
                "did": "look",
                "asked": 9,
                "found": 4,
                "given": 4,
                "why": "ABSENT",
                "pool": "kv",
                "page": 4,
                "key": "ab",
            }
        )
        ring.add({"did": "load", "asked": 4, "given": 3, "missed": {"CHECK_FAILED": 1}})
        ring.add(
            {
                "did": "look",
                "asked": 9,
                "given": 0,
                "why": "computing is faster",
                "load_s": 2,
                "compute_tps": 50.0,
            }
        )
        assert main(["explain", "--node", "explained", "--fields"]) == 0
        text = capsys.readouterr().out
        assert "page 4 of pool kv: ABSENT (key ab)" in text and "1 CHECK_FAILED" in text
        assert "loading takes 2 s" in text and "bf16" in text
        assert main(["explain", "--node", "explained", "--json", "--last", "1"]) == 0
        assert json.loads(capsys.readouterr().out)["records"][0]["asked"] == 9
    finally:
        ring.close()
    assert main(["explain", "--node", "explained"]) == 1
