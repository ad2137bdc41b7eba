"""The page store between two hosts whose rails come and go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.beds import MakeBed
from support.peers import until
from support.stores import Server
from tent_core.testbed import Testbed
from tent_core.testbed.tools import ip

_TESTS = str(Path(__file__).parents[2] / "tests")
# Reads commands, a JSON list a line, and answers each by a line.
_NODE = """
import json, sys
sys.path.insert(0, sys.argv[2])
from support.stores import Client, names
from tent_core.store import PageStatus, PageStore
with PageStore.open(json.loads(sys.argv[1])) as store:
    client = Client(store, size=256 << 10, count=8)
    print(json.dumps(store.node_name), flush=True)
    for line in sys.stdin:
        what, *rest = json.loads(line)
        keys = names(8, rest[0]) if rest else []
        if what == "put":
            answer = [PageStatus(one).name for one in client.put(keys, node=rest[1])]
        elif what == "get":
            answer = [PageStatus(one).name for one in client.get(keys)]
            assert client.verify(keys), "wrong bytes"
        elif what == "links":
            answer = {row["name"].split("/")[1]: row["state"] for row in store.engine.links()}
        print(json.dumps(answer), flush=True)
"""


class Node:
    def __init__(self, bed: Testbed, host: int, directory: Server, **settings: Any) -> None:
        config = {"cluster.secret": "only for this test", "directory.url": directory.url, **settings}
        environment = {**bed.environment(host), "TENT_NODE_BIND": ""}
        command = [sys.executable, "-c", _NODE, json.dumps(config), _TESTS]
        inside = ["env", *(f"{key}={value}" for key, value in environment.items()), *command]
        self.process = bed.run(host, inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the node died; its error is above"
        return json.loads(line)

    def ask(self, what: str, *rest: Any) -> Any:
        assert self.process.stdin is not None
        print(json.dumps([what, *rest]), file=self.process.stdin, flush=True)
        return self._answer()


MakeNode = Callable[..., Node]


@pytest.fixture
def directory() -> Any:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def make_node(directory: Server) -> Any:
    nodes: list[Node] = []

    def make(bed: Testbed, host: int, **settings: Any) -> Node:
        more = {"directory.timeout_ms": 5000, "store.extent": "4MiB", **settings}
        nodes.append(Node(bed, host, directory, **more))
        return nodes[-1]

    yield make
    for node in nodes:
        node.process.communicate(timeout=60)


def test_puts_to_another_host_go_on_when_the_control_connections_rail_is_lost(
    make_bed: MakeBed, make_node: MakeNode
) -> None:
    """Lending and committing are calls: over the lost rail they would wait for half a lease, half a minute here."""
    bed = make_bed(400, 400)
    lasting = {"engine.session_lease_ms": 60_000, "engine.deadline_ms": 15_000}
    owner = make_node(bed, 1, **{"store.capacity": "64MiB"}, **lasting)
    writer = make_node(bed, 0, **{"store.capacity": "0"}, **lasting)
    assert set(writer.ask("put", "before", owner.name)) == {"STORED"}
    bed.cut(0, "blackhole")
    for number in range(3):
        assert set(writer.ask("put", f"cut{number}", owner.name)) == {"STORED"}
        assert set(writer.ask("get", f"cut{number}")) == {"HIT"}
    bed.heal(0)
    assert set(writer.ask("get", "before")) == {"HIT"}


def test_a_rail_that_comes_later_is_learned_from_the_directory(
    make_bed: MakeBed, make_node: MakeNode
) -> None:
    bed = make_bed(400, 400)
    for host in range(2):
        ip("-n", bed.namespace(host), "addr", "flush", "dev", "rail1")
    often = {"directory.node_ttl_ms": 1500}
    owner = make_node(bed, 1, **{"store.capacity": "64MiB"}, **often)
    reader = make_node(bed, 0, **{"store.capacity": "0"}, **often)
    assert set(reader.ask("put", "first", owner.name)) == {"STORED"}
    assert set(reader.ask("links")) == {"rail0-rail0"}
    bed.heal(1)

    def learned() -> bool:
        assert set(reader.ask("get", "first")) == {"HIT"}
        return bool(reader.ask("links").get("rail1-rail1") == "up")

    until(learned, "a link over the new rail")
