"""Which rails and links there are: found, lost, new ones, crossed ones, and closed for want of work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from support.beds import MakeBed
from support.peers import until
from tent_core.testbed import Testbed
from tent_core.testbed.tools import ip

_SECRET = {"cluster.secret": "only for this test"}
# Reads commands, a JSON list a line, and answers each by a line.
_NODE = """
import base64, json, sys
import numpy as np
from tent_core import Engine, Intent
size = 4 << 20
with Engine(json.loads(sys.argv[1])) as engine:
    segment, mine = engine.allocate(size, name="kv"), np.zeros(size, np.uint8)
    own = engine.register(mine)
    peer = None
    print(base64.b64encode(engine.descriptor()).decode(), flush=True)
    for line in sys.stdin:
        what, *rest = json.loads(line)
        if what == "connect":
            peer = engine.connect(base64.b64decode(rest[0]), 30)
            answer = "ok"
        elif what == "write":
            mine[:] = rest[0]
            engine.run(Intent("write", peer, [mine.ctypes.data], peer.segment("kv"), [0], size))
            answer = "ok"
        elif what == "submit":
            under_way = engine.submit(Intent("write", peer, [mine.ctypes.data], peer.segment("kv"), [0], size))
            answer = "ok"
        elif what == "finish":
            under_way.result(30)
            answer = "ok"
        elif what == "notify":
            engine.run(Intent("write", peer, [mine.ctypes.data], peer.segment("kv"), [0], 64, notify=rest[0].encode()))
            answer = "ok"
        elif what == "notified":
            answer = [payload.decode() for _, payload in engine.notifications(1)]
        elif what == "holds":
            answer = bool((segment.view == rest[0]).all())
        elif what == "links":
            answer = {row["name"].split("/")[1]: row["state"] for row in engine.links()}
        elif what == "descriptor":
            answer = base64.b64encode(engine.descriptor()).decode()
        print(json.dumps(answer), flush=True)
    own.close()
"""


class Node:
    def __init__(self, bed: Testbed, host: int, **settings: Any) -> None:
        # The interfaces are to be found: no node.bind from the test bed.
        environment = {**bed.environment(host), "TENT_NODE_BIND": ""}
        command = [sys.executable, "-c", _NODE, json.dumps({**_SECRET, **settings})]
        inside = ["env", *(f"{key}={value}" for key, value in environment.items()), *command]
        self.process = bed.run(host, inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.descriptor = self.process.stdout.readline().strip()
        assert self.descriptor, "the node did not start; its error is above"

    def ask(self, what: str, *rest: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([what, *rest]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, f"the node died of {what!r}; its error is above"
        return json.loads(line)

    def end(self) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


MakeNode = Callable[..., Node]


@pytest.fixture
def make_node() -> Any:
    nodes: list[Node] = []

    def make(bed: Testbed, host: int, **settings: Any) -> Node:
        nodes.append(Node(bed, host, **settings))
        return nodes[-1]

    yield make
    for node in nodes:
        node.process.kill()
        node.process.wait()


def _up(node: Node) -> set[str]:
    return {name for name, state in node.ask("links").items() if state == "up"}


def _write(owner: Node, caller: Node, value: int) -> None:
    caller.ask("write", value)
    assert owner.ask("holds", value)


def test_links_that_are_waited_for_are_not_idle(make_bed: MakeBed, make_node: MakeNode) -> None:
    """Every rail is down for longer than idle links live: the transfer waits, and finishes."""
    bed = make_bed(400)
    lasting = {"tcp.idle_close_ms": 1, "engine.session_lease_ms": 60_000}
    owner, caller = make_node(bed, 1), make_node(bed, 0, **lasting)
    caller.ask("connect", owner.descriptor)
    _write(owner, caller, 1)
    bed.cut(0, "down")
    caller.ask("submit")
    for _ in range(200):
        assert caller.ask("links")["rail0-rail0"] != "asleep"
    bed.heal(0)
    caller.ask("finish")


def _ports(bed: Testbed, host: int) -> list[int]:
    """Of the host's end of every connection, the oldest first."""
    listing = bed.run(host, ["ss", "-Htn", "state", "established"], stdout=subprocess.PIPE, text=True)
    return sorted(int(line.split()[2].rpartition(":")[2]) for line in listing.communicate()[0].splitlines())


def _reset(bed: Testbed, host: int, port: int) -> None:
    assert bed.run(host, ["ss", "-K", "sport", "=", str(port)], stdout=subprocess.DEVNULL).wait() == 0


def test_interfaces_are_found_and_left_out_by_pattern(make_bed: MakeBed, make_node: MakeNode) -> None:
    bed = make_bed(400, 400, 400)
    owner = make_node(bed, 1, **{"rails.exclude": "rail1"})
    caller = make_node(bed, 0, **{"rails.include": "rail0, rail2"})
    caller.ask("connect", owner.descriptor)
    _write(owner, caller, 1)
    until(lambda: _up(caller) == {"rail0-rail0", "rail2-rail2"}, "both rails in use")


def test_a_rail_that_goes_and_comes_back_is_believed_at_once(make_bed: MakeBed, make_node: MakeNode) -> None:
    bed = make_bed(400, 400)
    owner, caller = make_node(bed, 1), make_node(bed, 0)
    caller.ask("connect", owner.descriptor)
    _write(owner, caller, 1)
    until(lambda: _up(caller) == {"rail0-rail0", "rail1-rail1"}, "both rails in use")
    bed.cut(0, "down")
    # Without any work: nothing but the kernel's news can tell.
    until(lambda: caller.ask("links")["rail0-rail0"] == "down", "the link is down")
    _write(owner, caller, 2)
    bed.heal(0)

    def back() -> bool:
        _write(owner, caller, 3)
        return "rail0-rail0" in _up(caller)

    until(back, "the link is up again")


def test_an_interface_that_comes_later_becomes_a_rail(make_bed: MakeBed, make_node: MakeNode) -> None:
    bed = make_bed(400, 400)
    for host in range(2):
        ip("-n", bed.namespace(host), "addr", "flush", "dev", "rail1")
    owner, caller = make_node(bed, 1), make_node(bed, 0)
    caller.ask("connect", owner.descriptor)
    _write(owner, caller, 1)
    assert _up(caller) == {"rail0-rail0"}
    bed.heal(1)
    until(lambda: owner.ask("descriptor") != owner.descriptor, "the owner's new rail is in its descriptor")

    def joined() -> bool:
        caller.ask("connect", owner.ask("descriptor"))  # as the directory would tell it
        _write(owner, caller, 2)
        return "rail1-rail1" in _up(caller)

    until(joined, "the new rail is in use")


def _join_rails(bed: Testbed) -> None:
    """Both rails of a bed with switches become one network, and every interface leads to all of it."""
    hub = f"tent-{bed.name}-hub"
    ip("-n", hub, "link", "add", "joint0", "type", "veth", "peer", "name", "joint1")
    for rail in range(2):
        ip("-n", hub, "link", "set", f"joint{rail}", "master", f"switch{rail}", "up")
        for host in range(2):
            route = (f"10.77.{1 - rail}.0/24", "dev", f"rail{rail}", "metric", "500")
            ip("-n", bed.namespace(host), "route", "add", *route)
    for host in range(2):  # an interface answers for its own address only
        quiet = ["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.rp_filter=0"]
        assert bed.run(host, quiet).wait() == 0


def test_rails_without_their_partners_are_crossed(make_bed: MakeBed, make_node: MakeNode) -> None:
    """Either host loses another rail: what they have left reaches across."""
    bed = make_bed(400, 400, hosts=3)
    _join_rails(bed)
    owner, caller = make_node(bed, 1), make_node(bed, 0)
    caller.ask("connect", owner.descriptor)
    _write(owner, caller, 1)
    straight = {"rail0-rail0", "rail1-rail1"}
    until(lambda: _up(caller) == straight, "both rails in use")
    bed.cut(0, "down", host=1)
    bed.cut(1, "down", host=0)
    _write(owner, caller, 2)
    assert "rail0-rail1" in _up(caller)

    def straight_again() -> bool:
        _write(owner, caller, 3)
        return _up(caller) == straight

    for rail in range(2):
        bed.heal(rail)
    until(straight_again, "the crossed link is not needed any more")


def test_links_without_work_are_closed_and_made_again(make_bed: MakeBed, make_node: MakeNode) -> None:
    bed = make_bed(400, 400)
    owner, caller = make_node(bed, 1), make_node(bed, 0, **{"tcp.idle_close_ms": 200})
    caller.ask("connect", owner.descriptor)
    _write(owner, caller, 1)

    until(lambda: len(_ports(bed, 0)) == 1, "only the control connection is left")
    _write(owner, caller, 2)
    assert len(_ports(bed, 0)) >= 2


def test_notifications_keep_their_order_while_connections_are_reset(
    make_bed: MakeBed, make_node: MakeNode
) -> None:
    bed = make_bed(0, 0)
    owner, caller = make_node(bed, 1), make_node(bed, 0)
    caller.ask("connect", owner.descriptor)
    sent, got = [], []
    for number in range(20):
        for port in _ports(bed, 0)[number % 3 :: 2]:
            _reset(bed, 0, port)
            for _ in range(10):
                sent.append(str(len(sent)))
                caller.ask("notify", sent[-1])
    until(lambda: got.extend(owner.ask("notified")) or len(got) >= len(sent), "every notification")
    assert got == sent


def test_one_of_several_connections_is_reset(make_bed: MakeBed, make_node: MakeNode) -> None:
    """A connection is condemned alone: its neighbours on the same rails go on."""
    bed = make_bed(400)
    owner, caller = make_node(bed, 1), make_node(bed, 0, **{"tcp.connections": 3})
    caller.ask("connect", owner.descriptor)
    _write(owner, caller, 1)
    names = {"rail0-rail0", "rail0-rail0#2", "rail0-rail0#3"}
    until(lambda: _up(caller) == names, "all connections in use")
    ports = _ports(bed, 0)
    assert len(ports) == 4, "three for data, and the control connection before them"
    for port in ports:
        _reset(bed, 0, port)
        _write(owner, caller, 2)

    def well_again() -> bool:
        _write(owner, caller, 3)
        return _up(caller) == names

    until(well_again, "they are dialled again")
