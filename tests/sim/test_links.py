"""What the sprayer makes of uneven, slow, dying and silent links. Virtual time: the figures are the same everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.worlds import load, pair
from tent_core.sim import run

_MS = 1_000_000
# TCP payload of rails of 2, 2, 1 and 0.25 Gbit/s.
_FOUR = (239, 239, 119.5, 29.9)
_SUM = sum(_FOUR) * 1e6


@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize(
    ("size", "count", "least"), [("64MiB", 4, 0.97), ("1GiB", 1, 0.97), ("4MiB", 12, 0.90)]
)
def test_uneven_rails_carry_their_sum(op: str, size: str, count: int, least: float) -> None:
    result = run({**pair(*_FOUR, burst="0B"), "transfers": [load(size, op=op, count=count, pause="20ms")]})
    took = result.times()
    share = result.moved() / count / _SUM / (took / 1e9)
    assert np.median(share) >= least
    if size != "4MiB":
        assert share[0] >= 0.95, "nothing was known of the rails yet"
    assert all(wire["bytes_used"] > 0 for wire in result.report["wires"])


def test_rates_are_not_taken_for_what_a_token_bucket_passes_at_first() -> None:
    """Bursts of 128 KiB, refilled in each pause: transfers so small that a slow rail shows little else."""
    result = run({**pair(*_FOUR), "transfers": [load("4MiB", count=20, pause="30ms")]})
    for wire, rate in zip(result.report["wires"], _FOUR, strict=True):
        assert wire["rate"] == pytest.approx(rate * 1e6, rel=0.1)


@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize("rail", [0, 2, 3])
def test_a_rail_that_slows_down_tenfold_is_believed_within_50_ms(op: str, rail: int) -> None:
    fault = {"kind": "slow", "rail": f"rail{rail}", "at": "500ms", "for": "500ms", "factor": 10}
    loads = [load("1MiB", op=op, concurrent=8, stop="1500ms")]
    result = run({**pair(*_FOUR, bin="5ms"), "transfers": loads, "fault": [fault]})
    left = _SUM - 0.9 * _FOUR[rail] * 1e6
    assert result.goodput(550 * _MS, 600 * _MS) >= 0.95 * left
    assert result.goodput(1050 * _MS, 1100 * _MS) >= 0.95 * _SUM
    assert result.alarms()["down"] == 0
    before = np.percentile(result.times(after=200 * _MS, before=480 * _MS), 99)
    slowed = np.percentile(result.times(after=600 * _MS, before=960 * _MS), 99)
    assert slowed <= 1.25 * before * _SUM / left


@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize(("extra", "least"), [("2ms", 0.93), ("5ms", 0.8)])
def test_links_that_jitter_hardly_run_dry(op: str, extra: str, least: float) -> None:
    weather = [{"kind": "jitter", "on": "60s", "off": "1ms", "extra": extra, "start": "500ms"}]
    loads = [load("1MiB", op=op, concurrent=8, stop="1500ms")]
    result = run({**pair(*_FOUR, bin="5ms"), "transfers": loads, "weather": weather})
    assert result.goodput(600 * _MS, 1450 * _MS) >= least * _SUM
    assert result.alarms()["down"] == 0
    before = np.percentile(result.times(after=200 * _MS, before=480 * _MS), 99)
    jittery = np.percentile(result.times(after=600 * _MS, before=1450 * _MS), 99)
    assert jittery <= 1.5 * before


_DEATHS: list[dict[str, Any]] = [
    {"kind": "silent"},
    {"kind": "down"},
    {"kind": "one_way", "direction": "out"},
    {"kind": "one_way", "direction": "in"},
    {"kind": "flap", "period": "60ms"},
]


@pytest.mark.parametrize("death", _DEATHS, ids=lambda d: "-".join(map(str, d.values())))
@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize("size", ["1MiB", "64MiB"])
def test_invariant_3_a_dying_rail_costs_milliseconds(death: dict[str, Any], op: str, size: str) -> None:
    lost: list[int] = []
    for seed in range(8):
        fault = {**death, "node": "a", "rail": f"rail{seed % 4}", "at": f"{300 + 7 * seed}ms", "for": "200ms"}
        many = 4 if size == "1MiB" else 1
        loads = [load(size, op=op, concurrent=many, stop="600ms", deadline="10s")]
        result = run({**pair(*_FOUR, seed=seed), "transfers": loads, "fault": [fault]})
        assert not result.violations
        assert result.fates()["failed"] == 0
        lost += result.penalties().tolist()
    assert lost
    assert np.percentile(lost, 99) < 20 * _MS
    assert max(lost) < 50 * _MS


def test_invariant_3_all_rails_down_for_a_second_and_back() -> None:
    fault = {"kind": "down", "at": "100ms", "for": "1s"}
    loads = [load("4MiB", op=op, count=60, deadline="10s") for op in ("read", "write")]
    result = run({**pair(*_FOUR), "transfers": loads, "fault": [fault]})
    assert result.fates() == {"live": 0, "done": 120, "failed": 0, "cancelled": 0}
    assert not result.violations


def test_all_rails_down_for_longer_is_a_failure_in_time_and_nothing_lands_afterwards() -> None:
    fault = {"kind": "silent", "at": "100ms", "for": "8s"}
    loads = [load("4MiB", op=op, stop="300ms", concurrent=2, deadline="2s") for op in ("read", "write")]
    result = run({**pair(*_FOUR, lease="1s"), "transfers": loads, "fault": [fault], "duration": "20s"})
    assert result.fates()["failed"] == 4
    assert result.fates()["live"] == 0
    t = result.report["transfers"]
    late = (t["released"] - t["submitted"])[t["fate"] == 2]
    assert late.max() < 3500 * _MS, "a failure waits for no more than the deadline, the lease and its drift"
    assert not result.violations


@pytest.mark.parametrize("op", ["read", "write"])
def test_jitter_and_starved_processors_are_no_faults_of_links(op: str) -> None:
    """Long form: e2e/soak."""
    weather = [
        {"kind": "jitter", "on": "50ms", "off": "50ms", "extra": "3ms"},
        {"kind": "stop", "on": "3ms", "off": "30ms"},
        {"kind": "stop", "on": "100ms", "off": "5s"},
    ]
    loads = [load("64KiB..4MiB", op=op, concurrent=4, pause="20ms")]
    result = run({**pair(*_FOUR, duration="20s", bin="1s"), "transfers": loads, "weather": weather})
    assert result.report["posts"] > 20_000
    assert result.reissued_share() < 0.01
    assert result.alarms()["last_down"] == 0
    assert not result.violations


@pytest.mark.parametrize("rails", [(239,), _FOUR], ids=["one rail", "four rails"])
@pytest.mark.parametrize("asker", ["a", "c"], ids=["one reader", "two peers of one owner"])
def test_interactive_reads_beside_bulk(rails: tuple[float, ...], asker: str) -> None:
    small = load("64KiB", priority="interactive", pause="3ms", start="200ms", stop="1s")
    bulk = load("64MiB", priority="bulk", concurrent=2, stop="1s")
    idle = run({**pair(*rails), "transfers": [small]})
    alone = run({**pair(*rails), "transfers": [bulk]})
    three = {**pair(*rails), "node": [{"name": name} for name in "abc"]}
    both = run({**three, "transfers": [{**small, "from": asker}, bulk]})
    slice_time = 10 * _MS
    idle_p99 = np.percentile(idle.times(0), 99)
    assert np.percentile(both.times(0), 99) <= 2 * idle_p99 + slice_time
    assert np.percentile(both.times(0), 50) <= 8 * idle_p99, "it waits for whole slices of bulk"
    window = (300 * _MS, 900 * _MS)
    assert both.goodput(*window) >= 0.85 * alone.goodput(*window)


@pytest.mark.parametrize("op", ["read", "write"])
def test_thirty_one_peers_of_one_owner_share_it(op: str) -> None:
    nodes = [{"name": "n", "count": 31}, {"name": "owner"}]
    loads = [{"from": "n*", "to": "owner", "op": op, "bytes": "1MiB", "concurrent": 2, "stop": "1s"}]
    result = run({**pair(250), "node": nodes, "transfers": loads, "bin": "10ms"})
    assert not result.violations
    assert result.goodput(200 * _MS, 900 * _MS) >= 0.97 * 250e6
    t = result.report["transfers"]
    each = np.bincount(t["workload"][t["fate"] == 1], minlength=31)
    assert each.min() >= 0.5 * each.mean(), "one of them starves"
