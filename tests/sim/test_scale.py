"""Many nodes: readers and writers of one owner, a switch that everybody shares, a cluster; slices that move early."""

from __future__ import annotations

import numpy as np
import pytest

from sim.worlds import late_writes, load, pair
from tent_core.sim import run
from tent_core.sim.scale import cluster, incast, page, plot, scenario, switch


@pytest.mark.parametrize("op", ["reads", "writes"])
def test_many_askers_of_one_owner_fill_its_rails_and_share_them_fairly(op: str) -> None:
    table = incast(op, [1, 12])
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    for row in rows:
        assert row["% of its rails"] >= 90
        assert row["least / mean share"] >= 0.8
        assert row["re-issued %"] < 1
        assert row["links lost to them"] == 0
        assert row["failed"] == 0


def test_credits_keep_small_writes_out_of_the_queue_of_many_writers() -> None:
    described = scenario("incast-writes", writer=24, other=2)
    late, moved = {}, {}
    for credits in (True, False):
        result = run({**described, "credits": credits})
        assert not result.violations
        late[credits] = np.median(result.times(1))
        moved[credits] = result.moved(0)
    assert late[True] < 0.6 * late[False]
    assert moved[True] > 0.97 * moved[False]


def test_a_full_switch_is_nobodys_fault() -> None:
    described = scenario("congested-switch", calm=6, busy=6)
    described["switch"][0]["rate"] = "75Gbit"
    result = run(described)
    assert not result.violations
    assert result.fates()["failed"] == 0
    assert result.reissued_share() < 0.01
    assert result.alarms()["down"] == 0
    assert result.goodput(120_000_000, 300_000_000) >= 0.95 * 75e9 / 8


def test_250_nodes_and_the_page_of_it() -> None:
    table = cluster([16, 250])
    small, large = (dict(zip(table.head, row, strict=True)) for row in table.rows)
    assert small["failed"] == large["failed"] == 0
    assert large["links"] == 250 * 4 * 2
    assert large["P99 µs"] <= 1.5 * small["P99 µs"]
    tables = [incast("reads", [1, 2]), incast("writes", [1, 2]), switch(2), table]
    text = page(tables, "a command", "scale.svg")
    assert "| 250 | 2,000 |" in text
    assert "<svg" in plot(tables)


def test_slices_that_move_early_keep_every_invariant() -> None:
    for seed in range(20):
        assert not run(late_writes(seed, hedge=0.5)).violations
    slow = [
        {"kind": "slow", "rail": f"rail{i}", "at": f"{7 + 9 * i}ms", "for": "4ms", "factor": 10}
        for i in range(2)
    ]
    loads = [load("256KiB", op=op, count=200, pause="100us") for op in ("read", "write")]
    described = {**pair(200, 200, burst="0B"), "transfers": loads, "fault": slow}
    result = run({**described, "hedge": 0.5})
    assert not result.violations
    assert result.fates()["done"] == 400
    assert result.report["hedged"] > 0
    assert result.digest == run({**described, "hedge": 0.5}).digest
    assert run(described).report["hedged"] == 0
