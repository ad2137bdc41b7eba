"""Random clusters, transfers and faults against the invariants. Long form: ``TENT_TEST_SIM_EXAMPLES=20000``."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.worlds import late_writes, load, pair, scenarios
from tent_core.sim import Result, run

_EXAMPLES = int(os.environ.get("TENT_TEST_SIM_EXAMPLES", "120"))
_random = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


def _clean(result: Result) -> None:
    assert not result.violations, result.violations[:5]
    fates = result.fates()
    assert fates["live"] == 0, f"{fates['live']} transfers never ended, though every fault did"


@_random
@given(scenarios())
def test_invariant_2_3_9_and_11_hold_whatever_happens(scenario: dict[str, Any]) -> None:
    _clean(run(scenario))


def test_what_was_held_up_is_not_overtaken_when_it_comes() -> None:
    """A connection's bytes come in their order, also over a rail that was dead for a moment. Found by chance, above."""
    scenario = {
        **pair(1000, burst="0B", latency="400us", lease="200ms", late="0ms"),
        "transfers": [load("64KiB", op="write", count=1)],
        "fault": [{"kind": "flap", "node": "a", "at": "0ms", "for": "7ms", "period": "3ms"}],
    }
    _clean(run(scenario))


@settings(parent=_random, max_examples=max(10, _EXAMPLES // 6))
@given(scenarios())
def test_invariant_8_same_seed_same_run(scenario: dict[str, Any]) -> None:
    first, second = run(scenario), run(scenario)
    assert first.digest == second.digest
    assert first.summary() == second.summary()


def test_invariant_8_another_seed_is_another_run() -> None:
    scenario = {**pair(200, 100), "transfers": [load("64KiB..4MiB", count=50)]}
    assert run(scenario).digest == run(scenario, seed=1).digest
    assert run(scenario).digest != run(scenario, seed=2).digest


def test_invariant_3_one_link_is_enough() -> None:
    """Of three rails two are silent for good: nothing fails, not even with a deadline."""
    scenario = {
        **pair(200, 200, 50),
        "transfers": [
            load("1MiB", count=100, deadline="5s"),
            load("1MiB", op="write", count=100, deadline="5s"),
        ],
        "fault": [{"kind": "silent", "rail": rail, "at": "50ms"} for rail in ("rail0", "rail1")],
    }
    result = run(scenario)
    _clean(result)
    assert result.fates()["done"] == 200


@settings(parent=_random, max_examples=max(10, _EXAMPLES // 6))
@given(st.integers(0, 2**32), st.sampled_from(["read", "write"]), st.integers(1, 60))
def test_invariant_11_nothing_touches_memory_that_was_unregistered(seed: int, op: str, at: int) -> None:
    result = run(
        {
            **pair(200, 100, seed=seed),
            "transfers": [load("64KiB..4MiB", op=op, concurrent=4, stop="80ms")],
            "unregister": [{"node": "b", "at": f"{at}ms"}],
            "duration": "60s",
        }
    )
    _clean(result)
    assert result.fates()["failed"] > 0


# ---- what was given up and arrives all the same ----------------------------------------------------------------------


def test_without_fences_late_arrivals_hit_memory_that_is_in_use_again() -> None:
    """The check can see it: otherwise the next test says nothing."""
    hit = sum(run(late_writes(seed, fencing=False)).violated(1) > 0 for seed in range(50))
    assert hit >= 25


def test_invariant_1_and_2_late_arrivals_are_kept_out_for_a_thousand_seeds() -> None:
    late = 0
    for seed in range(1000):
        result = run(late_writes(seed))
        assert not result.violations, f"seed {seed}: {result.violations[:3]}"
        late += result.report["drained"]
    assert late > 1000, "nothing came late: the scenario is too tame"


@pytest.mark.protects("fence")
def test_invariant_2_an_abandoned_write_lands_nowhere() -> None:
    for seed in range(20):
        assert not run(late_writes(seed)).violations


@pytest.mark.protects("grant")
def test_invariant_11_an_owner_takes_and_gives_nothing_after_unregister() -> None:
    for op in ("read", "write"):
        result = run(
            {
                **pair(200, 100),
                "transfers": [load("4MiB", op=op, concurrent=4, stop="80ms")],
                "unregister": [{"node": "b", "at": "40ms"}],
            }
        )
        assert not result.violated(11)


@pytest.mark.protects("lease")
def test_invariant_2_a_stopped_owner_takes_nothing_once_its_lease_ran_out() -> None:
    """It wakes with the bytes already in its socket, long after the writer was told that its writes had failed."""
    result = run(
        {
            **pair(200, 100, lease="300ms", late="0ms"),
            "transfers": [load("4MiB", op="write", concurrent=4, stop="3s", deadline="100ms")],
            "fault": [{"kind": "stop_node", "node": "b", "at": "50ms", "for": "2s"}],
        }
    )
    assert result.report["sessions_lost"] > 0, "the lease never ran out"
    assert not result.violations, result.violations[:3]
