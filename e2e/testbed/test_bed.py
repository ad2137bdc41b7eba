"""The test bed itself: what it makes is there, what it cuts is cut, and nothing of it stays."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.beds import MakeBed
from support.peers import until
from tent_core.cli.main import main
from tent_core.errors import InvalidArgument, NameInUse
from tent_core.faults import FaultPlan
from tent_core.testbed import CUTS, Testbed
from tent_core.testbed.plan import Step, run_plan
from tent_core.testbed.tools import ip_json

_SEND = """
import socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(200):
    try:
        out.sendto(bytes(1000), (sys.argv[1], 9))
    except OSError:
        pass  # a host that knows its rail to be down says so
"""
_SENT = 200


def _arrived(bed: Testbed, host: int) -> int:
    """Datagrams that a host has taken in. (Interfaces count what they then drop, too.)"""
    cat = bed.run(host, ["cat", "/proc/net/snmp"], stdout=subprocess.PIPE, text=True)
    names, values = (line.split() for line in cat.communicate()[0].splitlines() if line.startswith("Udp:"))
    return int(dict(zip(names, values, strict=True))["NoPorts"])


def _carried(bed: Testbed, rail: int, sender: int, receiver: int) -> int:
    """Of 200 datagrams, those that have arrived. Rails that are not shaped mostly deliver before send() returns."""
    before = _arrived(bed, receiver)
    command = [sys.executable, "-c", _SEND, bed.address(receiver, rail)]
    assert bed.run(sender, command).wait(60) == 0
    return _arrived(bed, receiver) - before


def _carries_all(bed: Testbed, rail: int, sender: int, receiver: int) -> None:
    before = _arrived(bed, receiver)
    _carried(bed, rail, sender, receiver)
    until(lambda: _arrived(bed, receiver) - before == _SENT, "every datagram")


@pytest.mark.parametrize("hosts", [2, 4])
def test_every_host_reaches_every_other_on_every_rail(make_bed: MakeBed, hosts: int) -> None:
    bed = make_bed(0, 0, hosts=hosts)
    for rail in range(2):
        for sender in range(hosts):
            receiver = (sender + 1) % hosts
            before = [one.received for one in bed.counters(receiver)]
            _carries_all(bed, rail, sender, receiver)
            now = [one.received for one in bed.counters(receiver)]
            assert now[rail] - before[rail] >= 200_000
            assert now[1 - rail] - before[1 - rail] < 100_000, "the other rail is idle"


@pytest.mark.parametrize("how", list(CUTS))
def test_a_cut_rail_carries_nothing_and_a_healed_one_all(make_bed: MakeBed, how: str) -> None:
    bed = make_bed(0, 0)
    _carries_all(bed, 0, 0, 1)
    bed.cut(0, how)
    assert _carried(bed, 0, 0, 1) == 0
    if how == "one-way":
        _carries_all(bed, 0, 1, 0)
    _carries_all(bed, 1, 0, 1)
    bed.heal(0)
    _carries_all(bed, 0, 0, 1)
    _carries_all(bed, 0, 1, 0)


def test_rates_are_set_changed_and_taken_away(make_bed: MakeBed) -> None:
    bed = make_bed(2000, 250)
    assert {row.mbit for row in bed.show() if row.rail == 0} == {2000}
    bed.shape(1, 0.5)
    assert {row.mbit for row in bed.show() if row.rail == 1} == {0.5}
    bed.shape(1, 100, host=0)
    assert {(row.host, row.mbit) for row in bed.show() if row.rail == 1} == {(0, 100), (1, 0.5)}
    bed.shape(0, 0)
    assert {row.mbit for row in bed.show() if row.rail == 0} == {0}


def test_two_beds_of_one_name_and_what_is_no_bed(make_bed: MakeBed) -> None:
    bed = make_bed(0)
    with pytest.raises(NameInUse, match="testbed down"):
        Testbed.up([0], name=bed.name)
    assert Testbed.find(bed.name).rails == 1
    for wrong in (
        {"rates_mbit": []},
        {"rates_mbit": [0], "hosts": 1},
        {"rates_mbit": [0], "name": "no such"},
    ):
        with pytest.raises(InvalidArgument):
            Testbed.up(**wrong)
    with pytest.raises(InvalidArgument, match="rails 0 to 0"):
        bed.cut(1)
    with pytest.raises(InvalidArgument, match="is no way to cut"):
        bed.cut(0, "scissors")
    with pytest.raises(InvalidArgument, match="tent testbed up"):
        Testbed.find("nosuchbed")


def test_the_command_line(make_bed: MakeBed, capfd: pytest.CaptureFixture[str]) -> None:
    name = make_bed(0).name + "c"
    named = ["--name", name]
    assert main(["testbed", "up", "--rails", "100,200", *named]) == 0
    try:
        assert "10.77.1.2" in capfd.readouterr().out
        assert main(["testbed", "shape", "0", "50", *named]) == 0
        assert main(["testbed", "cut", "1", "--how", "one-way", *named]) == 0
        assert main(["testbed", "show", "--json", *named]) == 0
        rails = json.loads(capfd.readouterr().out)["rails"]
        assert [(row["mbit"], row["silent"]) for row in rails[:2]] == [(50, False), (200, True)]
        assert main(["testbed", "heal", "1", *named]) == 0
        assert main(["testbed", "exec", *named, "1", "--", "ip", "-br", "addr", "show", "rail0"]) == 0
        assert "10.77.0.2/24" in capfd.readouterr().out
    finally:
        assert main(["testbed", "down", *named]) == 0
    assert not any(name in one["name"] for one in ip_json("netns", "list"))
    assert main(["testbed", "show", *named]) == 2


def test_a_process_on_a_host_knows_who_it_is(make_bed: MakeBed) -> None:
    bed = make_bed(0, 0)
    script = (
        "from tent_core.config import load_config;"
        "node = load_config({'cluster.secret': 'a secret of this test'}).node; print(node.host_identity, *node.bind)"
    )
    process = bed.run(1, [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.communicate()[0].split() == [bed.namespace(1), "10.77.0.2", "10.77.1.2"]


def test_a_fault_plan_is_carried_out_by_the_clock(make_bed: MakeBed) -> None:
    bed = make_bed(100, 50)
    plan = FaultPlan.load(
        {
            "fault": [
                {"kind": "slow", "rail": "rail0", "at": "10ms", "for": "20ms", "factor": 10},
                {"kind": "one_way", "node": "1", "rail": "rail1", "at": "20ms"},
            ]
        }
    )
    seen = []

    def told(step: Step) -> None:
        rows = {(row.host, row.rail): row for row in bed.show()}
        seen.append((step.what, rows[0, 0].mbit, rows[1, 1].silent, rows[0, 1].silent))

    run_plan(bed, plan, told)
    assert seen == [("slow", 10, False, False), ("cut", 10, True, False), ("restore", 100, True, False)]
