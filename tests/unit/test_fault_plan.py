from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tent_core.errors import ConfigError
from tent_core.faults import KINDS, Fault, FaultPlan

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_is_read_with_its_units(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(
        'seed = 7\n[[fault]]\nkind = "slow"\nrail = "rail1"\nat = "200ms"\nfor = "2s"\nfactor = 10\n'
        '[[fault]]\nkind = "corrupt"\ntransport = "tcp"\nchance = 0.25\nbytes = 3\nfrom_attempt = 5\nattempts = 2\n'
    )
    plan = FaultPlan.load(file)
    slow = Fault("slow", rail="rail1", at_ns=200_000_000, duration_ns=2_000_000_000, factor=10)
    corrupt = Fault("corrupt", transport="tcp", chance_ppm=250_000, bytes=3, from_attempt=5, attempts=2)
    assert plan == FaultPlan(7, (slow, corrupt))
    as_json = tmp_path / "plan.json"
    as_json.write_text(json.dumps(plan.to_dict()))
    assert FaultPlan.load(as_json) == plan
    assert FaultPlan.load(plan) is plan


def test_the_plan_in_the_documentation_is_one() -> None:
    text = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    shown = text.split("```toml\n", 1)[1].split("```", 1)[0]
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    assert len(FaultPlan.load(tomllib.loads(shown)).faults) > 2
    for kind in KINDS:
        assert f"| `{kind}` |" in text, f"docs/faults.md does not name the kind {kind}"


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"faults": []}, ["'faults'", "did you mean 'fault'?"]),
        ({"fault": {}}, ["[[fault]]"]),
        ({"fault": [3]}, ["fault 1", "table"]),
        ({"fault": [{}]}, ["fault 1", "no 'kind'", "slow"]),
        ({"fault": [{"kind": "slwo", "factor": 2}]}, ["'slwo'", "did you mean 'slow'?"]),
        ({"fault": [{"kind": "slow"}]}, ["fault 1 (slow)", "needs 'factor'"]),
        ({"fault": [{"kind": "slow", "factr": 2}]}, ["'factr'", "did you mean 'factor'?"]),
        ({"fault": [{"kind": "drop"}, {"kind": "drop", "factor": 2}]}, ["fault 2 (drop)", "no 'factor'"]),
        ({"fault": [{"kind": "slow", "factor": 1}]}, ["factor", "between 2"]),
        ({"fault": [{"kind": "slow", "factor": True}]}, ["factor", "whole number"]),
        ({"fault": [{"kind": "drop", "at": 200}]}, ["at", "unit", "200"]),
        ({"fault": [{"kind": "drop", "at": "2 fortnights"}]}, ["at", "duration"]),
        ({"fault": [{"kind": "drop", "for": "0s"}]}, ["for", "between 1"]),
        ({"fault": [{"kind": "drop", "chance": 0}]}, ["chance", "above 0"]),
        ({"fault": [{"kind": "drop", "chance": 1.5}]}, ["chance", "at most 1"]),
        ({"fault": [{"kind": "drop", "rail": 3}]}, ["rail", "text"]),
        ({"fault": [{"kind": "one_way", "direction": "left"}]}, ["direction", "'out'", "'in'"]),
        ({"fault": [{"kind": "stop_node"}]}, ["needs 'node'"]),
        ({"seed": -1}, ["seed", "between 0"]),
    ],
)
def test_what_is_wrong_is_named(tree: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        FaultPlan.load(tree)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the fault plan .*none\.toml"):
        FaultPlan.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        FaultPlan.load(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match="a path or a dict, not int"):
        FaultPlan.load(3)  # type: ignore[arg-type]


_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1, max_size=8)
_TIMES = st.integers(0, 2**62)


@st.composite
def _faults(draw: st.DrawFn) -> Fault:
    name = draw(st.sampled_from(sorted(KINDS)))
    fields: dict[str, Any] = {key: draw(_NAMES) for key in ("transport", "node", "rail", "peer", "peer_rail")}
    fields |= {"at_ns": draw(_TIMES), "duration_ns": draw(_TIMES), "chance_ppm": draw(st.integers(1, 10**6))}
    fields |= {"from_attempt": draw(st.integers(0, 9)), "attempts": draw(st.integers(0, 9))}
    own = {
        "delay": ("delay_ns", _TIMES),
        "jitter": ("jitter_ns", _TIMES),
        "factor": ("factor", st.integers(2, 1000)),
        "period": ("period_ns", st.integers(2, 2**40)),
        "count": ("count", st.integers(0, 99)),
        "bytes": ("bytes", st.integers(1, 99)),
        "direction": ("direction", st.sampled_from(["in", "out"])),
        "error": ("error", _NAMES),
    }
    for key in (*KINDS[name].needs, *KINDS[name].takes):
        if key in own:
            fields[own[key][0]] = draw(own[key][1])
    return Fault(name, **fields)


@settings(deadline=None)
@given(st.builds(FaultPlan, st.integers(0, 2**64 - 1), st.lists(_faults(), max_size=4).map(tuple)))
def test_a_plan_survives_being_written_and_read(plan: FaultPlan) -> None:
    assert FaultPlan.load(json.loads(json.dumps(plan.to_dict()))) == plan
