from __future__ import annotations

from typing import Any

import pytest

from tent_core.errors import InvalidArgument
from tent_core.faults import FaultPlan
from tent_core.testbed.plan import Step, steps

MS = 1_000_000


def plan(*faults: dict[str, Any]) -> FaultPlan:
    return FaultPlan.load({"fault": list(faults)})


def test_steps_come_in_the_order_of_time() -> None:
    wanted = plan(
        {"kind": "slow", "rail": "rail1", "at": "20ms", "for": "30ms", "factor": 10},
        {"kind": "silent", "rail": "rail0", "at": "10ms", "for": "15ms"},
        {"kind": "one_way", "node": "0", "rail": "rail2", "direction": "in", "at": "30ms"},
        {"kind": "stop_node", "node": "1", "at": "40ms", "for": "1ms"},
    )
    assert steps(wanted, hosts=2, rails=3) == [
        Step(10 * MS, "cut", 0, 0, "blackhole"),
        Step(20 * MS, "slow", 1, factor=10),
        Step(25 * MS, "heal", 0),
        Step(30 * MS, "cut", 2, 1, "one-way"),
        Step(40 * MS, "stop", host=1),
        Step(41 * MS, "go on", host=1),
        Step(50 * MS, "restore", 1),
    ]


def test_a_flap_goes_down_and_up_until_it_ends() -> None:
    flap = plan({"kind": "flap", "rail": "rail?", "period": "20ms", "for": "50ms"})
    found = steps(flap, hosts=2, rails=1)
    assert [(step.at_ns // MS, step.what) for step in found] == [
        (0, "cut"), (10, "heal"), (20, "cut"), (30, "heal"), (40, "cut"), (50, "heal"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"kind": "corrupt"}, ["cannot do 'corrupt'", "silent"]),
        ({"kind": "down", "chance": 0.5}, ["no attempts"]),
        ({"kind": "down", "rail": "eth0"}, ["'eth0'", "rail0 to rail1"]),
        ({"kind": "down", "node": "prefill"}, ["'prefill'", "0 to 1"]),
        ({"kind": "flap", "period": "1s"}, ["'for'"]),
    ],
)
def test_what_a_bed_cannot_do_is_refused(fault: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        steps(plan(fault), hosts=2, rails=2)
    for word in words:
        assert word in str(caught.value)
