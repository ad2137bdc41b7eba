"""Scenario files, their shrinker, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.worlds import late_writes, load, pair
from tent_core.cli.main import main
from tent_core.errors import ConfigError
from tent_core.sim import Scenario, run, shrink

_TOML = """
seed = 3
[[node]]
name = "a"
[[node]]
name = "b"
[[rail]]
name = "rail0"
rate = "2Gbit"
[[rail]]
name = "rail1"
rate = "0.25Gbit"
[[transfers]]
from = "a"
to = "b"
bytes = "512KiB..2MiB"
count = 20
[[fault]]
kind = "slow"
rail = "rail0"
at = "5ms"
factor = 10
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sed": 1}, "did you mean 'seed'"),
        ({"rail": [{"name": "r", "rate": "2 parsecs"}]}, "rail 1: rate must be a rate"),
        ({"rail": [{"rate": "2Gbit"}]}, "rail 1 needs 'name'"),
        ({"transfers": [{"from": "a", "to": "b"}]}, "transfers 1 needs 'bytes'"),
        ({"transfers": [load("1MiB", count=1, priorty="bulk")]}, "did you mean 'priority'"),
        ({"transfers": [load("1MiB")]}, "'duration'"),
        ({"transfers": [{**load("1MiB", count=1), "to": "c"}]}, "called 'c'"),
        ({"fault": [{"kind": "slwo"}]}, "did you mean 'slow'"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run({**pair(100), **change})


def test_shrinking_leaves_what_it_takes_to_fail() -> None:
    scenario = late_writes(5, fencing=False)
    scenario["node"].append({"name": "bystander"})
    scenario["transfers"].append({**load("1MiB", count=10), "from": "bystander"})
    small = shrink(scenario)
    assert run(small).report["violated"] > 0
    assert len(small.get("fault", [])) <= 2 < len(scenario["fault"])
    assert [row["name"] for row in small["node"]] == ["a", "b"]
    assert len(small["transfers"]) == 1


def test_the_command_runs_a_file_and_writes_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, trace = tmp_path / "two.toml", tmp_path / "trace.json"
    file.write_text(_TOML, encoding="utf-8")
    assert main(["sim", "run", str(file), "--json", "--trace", str(trace)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["transfers"][0]["done"] == 20
    assert said["digest"] == run(file).digest != run(file, seed=4).digest
    drawn = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    assert sum(event["ph"] == "X" for event in drawn) == said["slices"]
    assert main(["sim", "run", str(file)]) == 0
    assert "read a - b" in capsys.readouterr().out


def test_a_failing_scenario_is_told_and_shrunk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "late.json"
    file.write_text(json.dumps(late_writes(5, fencing=False)), encoding="utf-8")
    assert main(["sim", "run", str(file)]) == 1
    assert "INVARIANT" in capsys.readouterr().out
    assert main(["sim", "shrink", str(file), "--budget", "60"]) == 0
    assert run(json.loads(capsys.readouterr().out)).report["violated"]


def test_a_scenario_reads_back_as_it_was_written() -> None:
    scenario = Scenario(late_writes(3))
    again = Scenario(json.loads(json.dumps(scenario.source)))
    assert again.sections == scenario.sections and again.plan == scenario.plan
