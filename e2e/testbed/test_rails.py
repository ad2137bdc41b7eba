"""Engines on two hosts with four rails: every rail carries, and a rail that breaks fails nothing."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.beds import OWNER, MakeBed
from tent_core.testbed import CUTS, Testbed

_SIZE = 16 << 20
_SETTINGS = {"cluster.secret": "only for this test", "engine.deadline_ms": 60_000}
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

# Begins transfers until one ends at its deadline; after the rails' return nothing of it may have landed.
_OUTAGE = """
import base64, json, sys
import numpy as np
from tent_core import Engine, Intent
from tent_core.errors import DeadlineExceeded, PeerDead, TentError
def say(what):
    print(what, flush=True)
settings, size, descriptor, op = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
with Engine(settings, name="caller") as engine:
    peer = engine.connect(base64.b64decode(descriptor), 30)
    memory = np.full(size, 1, np.uint8)
    segment = engine.register(memory)
    intent = lambda deadline=None: Intent(
        op, peer, [memory.ctypes.data], peer.segment("kv"), [0], size, deadline=deadline
    )
    engine.run(intent(30))
    say("ready")
    failed = None
    while failed is None:
        transfer = engine.submit(intent())
        try:
            transfer.result(30)
        except TentError as error:
            failed = error
    assert isinstance(failed, (DeadlineExceeded, PeerDead)), failed
    assert transfer.wait_released(30), "released in bounded time"
    memory[:] = 2
    say("deadline")
    sys.stdin.readline()
    again = engine.connect(base64.b64decode(descriptor), 30)
    check = np.zeros(size, np.uint8)
    other = engine.register(check)
    seen = []
    for _ in range(20):
        engine.run(Intent("read", again, [check.ctypes.data], again.segment("kv"), [0], size, deadline=30))
        seen.append(check.copy())
    assert (memory == 2).all(), "something landed in the caller's memory"
    assert all(np.array_equal(seen[0], one) for one in seen), "something landed in the owner's memory"
    say("untouched")
    for one in (segment, other):
        one.close()
"""


class Pair:
    """An owner on host 1 and a caller on host 0."""

    def __init__(self, bed: Testbed, program: str = _CALLER, *arguments: str, **settings: Any) -> None:
        python = [sys.executable, "-c"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        settings = json.dumps({**_SETTINGS, **settings})
        self.owner = bed.run(1, [*python, OWNER, settings, str(_SIZE)], cwd=Path.cwd(), **pipes)
        descriptor = self.owner.stdout.readline().strip()
        assert base64.b64decode(descriptor), "the owner did not start; its error is above"
        self.caller = bed.run(0, [*python, program, settings, str(_SIZE), descriptor, *arguments], **pipes)

    def rounds(self, count: int) -> None:
        """So many more rounds, each verified."""
        for _ in range(count):
            line = self.caller.stdout.readline()
            assert line.strip().isdigit(), f"the caller failed: {line}"

    def said(self, what: str) -> None:
        line = self.caller.stdout.readline()
        assert line.strip() == what, f"the caller failed: {line}"

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


def test_invariant_3_two_rails_lost_at_once_fail_no_transfer(bed: Testbed, pair: Pair) -> None:
    pair.rounds(3)
    bed.cut(0, "blackhole")
    bed.cut(1, "down")
    pair.rounds(3)
    bed.heal(0)
    bed.heal(1)
    pair.rounds(3)
    assert pair.end()["transfers_failed"] == 0


@pytest.mark.parametrize("how", ["down", "blackhole"])
def test_invariant_3_with_every_rail_lost_transfers_wait(bed: Testbed, pair: Pair, how: str) -> None:
    pair.rounds(2)
    for rail in range(bed.rails):
        bed.cut(rail, how)
    time.sleep(1)  # how long the outage lasts
    for rail in range(bed.rails):
        bed.heal(rail)
    pair.rounds(4)
    assert pair.end()["transfers_failed"] == 0


@pytest.mark.parametrize("how", ["blackhole", "nothing-arrives"])
@pytest.mark.parametrize("op", ["read", "write"])
def test_invariant_2_what_failed_because_every_rail_was_lost_never_lands(
    bed: Testbed, op: str, how: str
) -> None:
    """The deadline passes, the buffer is used for something else, the rails return with what they held up."""
    # A lease that outlasts mending: a read is released at once, and finds its session alive.
    settings = {"engine.session_lease_ms": 4_000, "engine.deadline_ms": 500}
    pair = Pair(bed, _OUTAGE, op, **settings)
    try:
        pair.said("ready")
        for rail in range(bed.rails):
            bed.cut(rail, "one-way" if how == "nothing-arrives" else how)
        pair.said("deadline")
        for rail in range(bed.rails):
            bed.heal(rail)
        pair.caller.stdin.write("\n")
        pair.caller.stdin.flush()
        pair.said("untouched")
        assert pair.caller.wait(60) == 0
    finally:
        pair.kill()


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
