"""Other policies over the same links, to be compared with, and the comparison itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sim.worlds import late_writes, load, pair
from tent_core.cli.main import main
from tent_core.sim import run
from tent_core.sim.paper import Row, scenario
from tent_core.sim.plot import page, svg

_FOUR = (239, 239, 119.5, 29.9)


@pytest.mark.parametrize("policy", ["robin", "paper"])
def test_invariant_2_3_and_9_hold_for_every_policy(policy: str) -> None:
    for seed in range(20):
        assert not run(late_writes(seed, policy=policy)).violations
    fault = {"kind": "silent", "rail": "rail0", "at": "20ms", "for": "100ms"}
    loads = [load("1MiB", op=op, count=60, deadline="5s") for op in ("read", "write")]
    result = run({**pair(*_FOUR, policy=policy), "transfers": loads, "fault": [fault]})
    assert not result.violations
    assert result.fates()["done"] == 120


def test_what_is_bound_at_submit_waits_for_the_slowest_rail() -> None:
    """Known rails, so that only the policy differs; then one of them slows down under the transfers."""
    calm, hit = {}, {}
    for policy in ("water", "robin", "paper"):
        described = pair(*_FOUR, burst="0B", policy=policy)
        described["rail"] = [{**rail, "known": True} for rail in described["rail"]]
        described["transfers"] = [load("16MiB", count=10)]
        calm[policy] = np.median(run(described).times())
        fault = {"kind": "slow", "rail": "rail0", "at": "100ms", "factor": 10}
        hit[policy] = run({**described, "fault": [fault]}).times().max()
    assert calm["robin"] > 3 * calm["water"]
    assert hit["paper"] > 1.5 * hit["water"]


def test_the_papers_setting_runs_for_every_policy() -> None:
    for policy in ("water", "robin", "paper"):
        result = run(scenario(policy, "4MiB", 2, seconds=0.02))
        assert not result.violations
        assert len(result.times()) > 20


def test_the_comparison_is_written_as_a_page_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        Row(policy, "1MiB", 1, 1.5, (10.0, 20.0, 300.0, 4000.0), 0) for policy in ("water", "robin", "paper")
    ]
    monkeypatch.setattr("tent_core.sim.paper.compare", lambda seconds, seed: iter(rows))
    assert main(["sim", "paper", "--out", str(tmp_path), "--json"]) == 0
    text = (tmp_path / "paper-setting.md").read_text(encoding="utf-8")
    assert text == page(rows, "tent sim paper --seconds 2 --seed 1 --out docs", "paper-setting.svg")
    assert text.count("| 1MiB × 1 |") == 3
    assert (tmp_path / "paper-setting.svg").read_text(encoding="utf-8") == svg(rows)
    assert svg(rows).count("<polyline") == 3


def test_one_row_a_line_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("water", "1MiB", 1, 1.5, (10.0, 20.0, 300.0, 4000.0), 0)
    monkeypatch.setattr("tent_core.sim.paper.compare", lambda seconds, seed: iter([row]))
    assert main(["sim", "paper", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gigabytes_per_second"] == 1.5
