"""A fault plan (docs/faults.md) carried out on a test bed: nodes are its hosts by number, rails are rail0, rail1 ..."""

from __future__ import annotations

import fnmatch
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tent_core.errors import InvalidArgument
from tent_core.faults import Fault, FaultPlan
from tent_core.testbed.bed import Testbed
from tent_core.testbed.tools import ip

__all__ = ["Step", "run_plan", "steps"]

_CUTS = {"down": "down", "flap": "down", "silent": "blackhole", "one_way": "one-way"}
_DOES = (*_CUTS, "slow", "stop_node")


@dataclass(frozen=True)
class Step:
    """One thing that is done to the bed, so many nanoseconds after the start."""

    at_ns: int
    what: str  # "cut", "heal", "slow", "restore", "stop", "go on"
    rail: int = -1
    host: int = 0
    how: str = ""
    factor: int = 1

    def __str__(self) -> str:
        place = f"host {self.host}" if self.rail < 0 else f"rail {self.rail}"
        more = {"cut": f" ({self.how}, host {self.host})", "slow": f" to 1/{self.factor}"}.get(self.what, "")
        return f"{self.what} {place}{more}"


def steps(plan: FaultPlan, hosts: int, rails: int) -> list[Step]:
    """The plan as a list of steps in time. Raises InvalidArgument for what a bed cannot do."""
    found = [step for fault in plan.faults for step in _steps_of(fault, hosts, rails)]
    return sorted(found, key=lambda step: step.at_ns)


def run_plan(bed: Testbed, plan: FaultPlan, told: Callable[[Step], None] = lambda step: None) -> None:
    """Blocks until the plan is over; what it says is for ever stays. Interrupted, it undoes what it has begun."""
    rates = {row.rail: row.mbit for row in bed.show() if row.host == 0}
    todo = steps(plan, bed.hosts, bed.rails)
    started = time.monotonic_ns()
    undo: dict[tuple[str, int], Step] = {}
    try:
        for step in todo:
            while (left := started + step.at_ns - time.monotonic_ns()) > 0:
                time.sleep(left / 1e9)
            undo |= _undo(step)
            _take(bed, step, rates)
            told(step)
    except BaseException:
        for step in undo.values():
            _take(bed, step, rates)
        raise


def _steps_of(fault: Fault, hosts: int, rails: int) -> Iterator[Step]:
    if fault.kind not in _DOES:
        raise InvalidArgument(f"a test bed cannot do '{fault.kind}': it does {', '.join(_DOES)}")
    if (fault.from_attempt, fault.attempts, fault.chance_ppm) != (0, 0, 1_000_000):
        raise InvalidArgument(
            "a test bed sees no attempts: give 'at' and 'for', not from_attempt, attempts or chance"
        )
    ours = [host for host in range(hosts) if fnmatch.fnmatchcase(str(host), _glob(fault.node))]
    if not ours:
        raise InvalidArgument(f"no host of the bed is called '{fault.node}': they are 0 to {hosts - 1}")
    if fault.kind == "stop_node":
        for host in ours:
            yield from _span(fault, Step(fault.at_ns, "stop", host=host), Step(0, "go on", host=host))
        return
    hit = [rail for rail in range(rails) if fnmatch.fnmatchcase(f"rail{rail}", _glob(fault.rail))]
    if not hit:
        raise InvalidArgument(
            f"no rail of the bed is called '{fault.rail}': they are rail0 to rail{rails - 1}"
        )
    for rail in hit:
        if fault.kind == "slow":
            begin = Step(fault.at_ns, "slow", rail, factor=fault.factor)
            yield from _span(fault, begin, Step(0, "restore", rail))
        elif fault.kind == "flap":
            yield from _flap(fault, rail, ours[0])
        else:
            begin = Step(fault.at_ns, "cut", rail, _sender(fault, ours[0], hosts), _CUTS[fault.kind])
            yield from _span(fault, begin, Step(0, "heal", rail))


def _glob(pattern: str) -> str:
    return re.sub(r"\[", "[[]", pattern)  # only * and ? are special in a plan


def _sender(fault: Fault, host: int, hosts: int) -> int:
    """Whose packets vanish, where the cut is one-way."""
    if fault.kind != "one_way" or fault.direction == "out":
        return host
    if hosts != 2:
        raise InvalidArgument("direction 'in' needs a bed of two hosts: name the sender with 'out' instead")
    return 1 - host


def _span(fault: Fault, begin: Step, end: Step) -> Iterator[Step]:
    yield begin
    if fault.duration_ns:
        yield Step(fault.at_ns + fault.duration_ns, end.what, end.rail, end.host)


def _flap(fault: Fault, rail: int, host: int) -> Iterator[Step]:
    if not fault.duration_ns:
        raise InvalidArgument("a flap on a test bed needs 'for': it would never end")
    at, end = fault.at_ns, fault.at_ns + fault.duration_ns
    while at < end:
        yield Step(at, "cut", rail, host, "down")
        yield Step(min(at + fault.period_ns // 2, end), "heal", rail)
        at += fault.period_ns


def _undo(step: Step) -> dict[tuple[str, int], Step]:
    back = {"cut": "heal", "slow": "restore", "stop": "go on"}.get(step.what)
    if back is None:
        return {}
    return {(back, step.rail if step.rail >= 0 else step.host): Step(0, back, step.rail, step.host)}


def _take(bed: Testbed, step: Step, rates: dict[int, float]) -> None:
    if step.what == "cut":
        bed.cut(step.rail, step.how, host=step.host)
    elif step.what == "heal":
        bed.heal(step.rail)
    elif step.what in ("slow", "restore"):
        if not rates[step.rail]:
            raise InvalidArgument(f"rail {step.rail} has no rate to slow down from: shape it first")
        bed.shape(step.rail, rates[step.rail] / step.factor)
    else:
        for pid in ip("netns", "pids", bed.namespace(step.host)).split():
            os.kill(int(pid), signal.SIGSTOP if step.what == "stop" else signal.SIGCONT)
