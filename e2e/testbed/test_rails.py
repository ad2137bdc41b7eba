"""Engines on two hosts with four rails: every rail carries, and a rail that breaks fails nothing."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.beds import MakeBed
from tent_core.testbed import CUTS, Testbed

_SIZE = 16 << 20
_SETTINGS = {"cluster.secret": "only for this test", "engine.deadline_ms": 60_000}
_OWNER = """
import base64, json, sys
from tent_core import Engine
with Engine(json.loads(sys.argv[1]), name="owner") as engine:
    segment = engine.allocate(int(sys.argv[2]), name="kv")
    print(base64.b64encode(engine.descriptor()).decode(), flush=True)
    sys.stdin.read()
"""
# Writes its own pattern and reads it back, again and again, a line each time, until its input closes.
_CALLER = """
import base64, json, select, sys
import numpy as np
from tent_core import Engine, Intent
with Engine(json.loads(sys.argv[1]), name="caller") as engine:
    peer = engine.connect(base64.b64decode(sys.argv[3]), 30)
    size = int(sys.argv[2])
    source, back = np.empty(size, np.uint8), np.zeros(size, np.uint8)
    segments = [engine.register(source), engine.register(back)]
    random = np.random.default_rng(7)
    done = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        source[:] = random.integers(0, 256, size, dtype=np.uint8)
        for op, memory in (("write", source), ("read", back)):
            engine.run(Intent(op, peer, [memory.ctypes.data], peer.segment("kv"), [0], size))
        assert np.array_equal(source, back), "wrong bytes"
        done += 1
        print(done, flush=True)
    m = engine.metrics()
    print(json.dumps({key: m[key] for key in ("transfers_completed", "transfers_failed")}), flush=True)
    for segment in segments:
        segment.close()
    peer.close()
"""


class Pair:
    """An owner on host 1 and a caller on host 0."""

    def __init__(self, bed: Testbed, **settings: Any) -> None:
        python = [sys.executable, "-c"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        settings = json.dumps({**_SETTINGS, **settings})
        self.owner = bed.run(1, [*python, _OWNER, settings, str(_SIZE)], cwd=Path.cwd(), **pipes)
        descriptor = self.owner.stdout.readline().strip()
        assert base64.b64decode(descriptor), "the owner did not start; its error is above"
        self.caller = bed.run(0, [*python, _CALLER, settings, str(_SIZE), descriptor], **pipes)

    def rounds(self, count: int) -> None:
        """So many more rounds, each verified."""
        for _ in range(count):
            line = self.caller.stdout.readline()
            assert line.strip().isdigit(), f"the caller failed: {line}"

    def end(self) -> dict[str, int]:
        rest = self.caller.communicate("\n", timeout=120)[0].splitlines()
        assert self.caller.returncode == 0
        self.owner.communicate(timeout=60)
        counted: dict[str, int] = json.loads(rest[-1])
        return counted

    def kill(self) -> None:
        for process in (self.caller, self.owner):
            process.kill()
            process.wait()


@pytest.fixture
def bed(make_bed: MakeBed) -> Testbed:
    return make_bed(400, 400, 200, 50)


@pytest.fixture
def pair(bed: Testbed) -> Any:
    made = Pair(bed)
    yield made
    made.kill()


def test_rails_carry_side_by_side_and_nothing_else_does(bed: Testbed, pair: Pair) -> None:
    pair.rounds(8)
    counted = pair.end()
    assert counted["transfers_failed"] == 0
    sent = [one.sent for one in bed.counters(0)]
    received = [one.received for one in bed.counters(0)]
    assert sum(sent) >= 8 * _SIZE and sum(received) >= 8 * _SIZE, "every byte went over a rail"
    for carried in (sent, received):
        assert min(carried) >= 8 * _SIZE // 200, "the slowest rail has its part, too"


def test_links_that_come_up_during_a_transfer_carry_their_part_of_it(bed: Testbed, pair: Pair) -> None:
    """The first write begins when the first connection is there; the others follow."""
    pair.rounds(1)
    sent = [one.sent for one in bed.counters(0)]
    assert min(sent[:3]) >= 256 << 10, sent
    pair.end()


@pytest.mark.parametrize("how", list(CUTS))
def test_invariant_3_a_rail_cut_under_traffic_fails_no_transfer(bed: Testbed, pair: Pair, how: str) -> None:
    pair.rounds(3)
    bed.cut(0, how)
    pair.rounds(4)
    bed.heal(0)
    before = bed.counters(0)[0].sent
    pair.rounds(4)
    counted = pair.end()
    assert counted["transfers_failed"] == 0
    assert bed.counters(0)[0].sent >= before, "counters of a healed rail go on"


@pytest.mark.parametrize("how", ["blackhole", "one-way"])
def test_nothing_waits_for_a_lost_rail_that_carried_the_control_connection(bed: Testbed, how: str) -> None:
    """Revokes, answers and tokens find another rail. By the lease, half a minute would pass, and by TCP more."""
    pair = Pair(bed, **{"engine.session_lease_ms": 60_000, "engine.deadline_ms": 10_000})
    try:
        pair.rounds(2)
        bed.cut(0, how)
        pair.rounds(6)
        bed.heal(0)
        pair.rounds(2)
        assert pair.end()["transfers_failed"] == 0
    finally:
        pair.kill()
