"""Load or compute: what was measured decides, and what was never measured does not."""

from __future__ import annotations

import pytest

from tent_vllm.costs import Costs, Line

MIB = 1 << 20


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_nobody_measured_is_loaded() -> None:
    costs = Costs()
    assert costs.pays(1000, 100 * MIB, predicted=99.0)
    # The first steps of a process are no measure.
    costs.computed(1000, 50.0)
    costs.computed(1000, 50.0)
    assert costs.tokens_per_second == 0


def warm() -> Costs:
    costs = Costs()
    for _ in range(5):
        costs.computed(1000, 1.0)
    return costs


def test_the_slower_of_prediction_and_experience_counts() -> None:
    costs = warm()
    assert costs.tokens_per_second == pytest.approx(1000)
    assert costs.pays(1000, 10 * MIB, predicted=0.5)
    assert not costs.pays(1000, 10 * MIB, predicted=1.5)
    costs.loaded(MIB, 1.0)
    assert not costs.pays(1000, 10 * MIB, predicted=0.0)


def test_a_pool_that_gets_faster_is_believed_again() -> None:
    costs = warm()
    costs.loaded(MIB, 5.0)
    for _ in range(20):
        costs.loaded(MIB, 0.01)
    assert costs.pays(1000, MIB, predicted=0.0)


def test_a_line_is_fitted() -> None:
    line = Line()
    assert line.seconds(MIB) == 0
    for mib in (1, 4, 16, 2, 8):
        line.add(mib * MIB, 0.01 + mib * 0.002)
    assert line.seconds(32 * MIB) == pytest.approx(0.01 + 32 * 0.002)
    same = Line()
    same.add(4 * MIB, 0.4)
    same.add(4 * MIB, 0.4)
    assert same.seconds(8 * MIB) == pytest.approx(0.8)


def test_probes_are_rare() -> None:
    clock = Clock()
    costs = Costs(clock)
    assert not costs.probe_due()
    clock.now += 11
    assert costs.probe_due()
    assert not costs.probe_due()
