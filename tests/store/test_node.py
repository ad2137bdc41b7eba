"""`tent node`: what outlives serving processes, how it leaves, and what operators see of the pool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.store_process import TENT, NodeProcess
from support.stores import Client, Open, Server, all_are, names, wait_for
from support.tent import tent
from tent_core import _native
from tent_core.store import PageStatus, PageStore

_KEYS = names(20)
_PATIENCE_S = 60
_WRITER = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[2])
from support.store_process import TENT, NodeProcess
from support.stores import Client, names
from tent_core.store import PageStore
store = PageStore.open(json.loads(sys.argv[1]))
print(json.dumps(Client(store).put(names(20)).tolist()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def _settings(server: Server) -> dict[str, Any]:
    return {
        "directory.url": server.url,
        "directory.timeout_ms": 2000,
        "store.capacity": "16MiB",
        "store.extent": "1MiB",
    }


@pytest.fixture
def nodes(server: Server) -> Iterator[Any]:
    """Starts daemons that end with the test."""
    made: list[NodeProcess] = []

    def start(name: str, *options: str, **config: Any) -> NodeProcess:
        made.append(NodeProcess(server.folder, name, *options, **{**_settings(server), **config}))
        return made[-1]

    yield start
    for node in made:
        node.close()


def _owners(client: Client) -> set[str]:
    """Names of the nodes that the records name; "" for a page without."""
    digests = _native.page_digests(client.space.digest, _KEYS)
    records, _ = client.store.directory.lookup(client.space.digest, digests)
    infos = [None if record is None else _native.record_info(record) for record in records]
    return {name for info in infos for name in ([r[0] for r in info["replicas"]] if info else [""])}


def test_a_killed_serving_process_leaves_its_pages_in_the_node(
    server: Server, nodes: Any, open_store: Open
) -> None:
    nodes("keeper")
    command = [sys.executable, "-c", _WRITER, json.dumps(_settings(server)), str(Path(__file__).parents[1])]
    writer = subprocess.run(command, stdout=subprocess.PIPE, timeout=_PATIENCE_S)
    assert writer.returncode == -signal.SIGKILL
    assert json.loads(writer.stdout) == [PageStatus.STORED] * 20
    reader = Client(open_store(capacity="0"))
    wait_for(lambda: all_are(reader.exists(_KEYS), PageStatus.HIT), "the node published them")
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)
    assert _owners(reader) == {"keeper"}


def test_without_a_node_pages_stay_here_and_policy_can_demand_one(nodes: Any, open_store: Open) -> None:
    own = Client(open_store())
    assert all_are(own.put(_KEYS), PageStatus.STORED)
    assert own.store.stats()["pages"] == 20
    strict = Client(open_store(store__place="node"))
    assert all_are(strict.put(names(20, "s")), PageStatus.NO_SPACE)
    nodes("keeper")
    own.store._context.pools.refresh()
    assert all_are(own.put(names(20, "later")), PageStatus.STORED)
    assert own.store.stats()["pages"] == 20
    kept = Client(open_store(store__place="own"))
    assert all_are(kept.put(names(20, "mine")), PageStatus.STORED)
    assert kept.store.stats()["pages"] == 20


def test_a_dead_node_costs_puts_nothing_but_their_place(nodes: Any, open_store: Open) -> None:
    node = nodes("keeper")
    client = Client(open_store())
    assert all_are(client.put(_KEYS), PageStatus.STORED)
    assert client.store.stats()["pages"] == 0
    node.close()
    assert all_are(client.put(names(20, "after")), PageStatus.STORED)
    assert client.store.stats()["pages"] == 20


def test_drain_hands_pages_on(server: Server, nodes: Any, open_store: Open) -> None:
    leaver = nodes("leaver")
    reader = Client(open_store(capacity="0"))
    assert all_are(reader.put(_KEYS), PageStatus.STORED)
    wait_for(lambda: _owners(reader) == {"leaver"}, "the node published them")
    nodes("heir")
    assert tent(server, "node", "check", "leaver") == (0, {"node": "leaver", "state": "serving", "why": ""})
    assert subprocess.run(
        [*TENT, "node", "drain", "leaver", "--config", str(server.folder / "operator.json")],
        timeout=_PATIENCE_S,
    ).returncode == 0  # fmt: skip
    assert leaver.left() == {"event": "left", "pages": 20, "moved": 20, "lost": 0, "kept": 0}
    assert _owners(reader) == {"heir"}
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)
    assert tent(server, "node", "check", "leaver")[0] == 1


def test_a_node_that_is_alone_leaves_no_records_behind(nodes: Any, open_store: Open) -> None:
    node = nodes("alone")
    reader = Client(open_store(capacity="0"))
    reader.put(_KEYS)
    wait_for(lambda: _owners(reader) == {"alone"}, "the node published them")
    node.process.send_signal(signal.SIGTERM)
    assert node.left() == {"event": "left", "pages": 20, "moved": 0, "lost": 20, "kept": 0}
    assert _owners(reader) == {""}
    assert all_are(reader.get(_KEYS), PageStatus.ABSENT)


def test_a_second_signal_ends_it_at_once(nodes: Any, open_store: Open) -> None:
    node = nodes("leaver", "--drain-for", "1000s")
    reader = Client(open_store(capacity="0"))
    reader.put(_KEYS)
    wait_for(lambda: _owners(reader) == {"leaver"}, "the node published them")
    heir = nodes("heir")
    os.kill(heir.process.pid, signal.SIGSTOP)  # it answers nobody, so the drain waits
    node.process.send_signal(signal.SIGTERM)
    assert node.event() == "leaving"
    node.process.send_signal(signal.SIGTERM)
    assert node.left()["moved"] == 0


def test_a_restarted_node_takes_over_nothing(nodes: Any, open_store: Open) -> None:
    node = nodes("again", **{"directory.node_ttl_ms": 1500})
    reader = Client(open_store(capacity="0"))
    reader.put(_KEYS)
    wait_for(lambda: _owners(reader) == {"again"}, "the node published them")
    node.close()
    wait_for(lambda: reader.store.directory.get_node("again") is None, "its record expired")
    nodes("again")
    status = reader.get(_KEYS)
    assert (status >= PageStatus.ABSENT).all(), status


def test_a_node_without_memory_says_so(server: Server) -> None:
    path = server.folder / "none.json"
    path.write_text(json.dumps({**_settings(server), "store.capacity": 0}))
    done = subprocess.run(
        [*TENT, "node", "--config", str(path)], capture_output=True, text=True, timeout=_PATIENCE_S
    )
    assert done.returncode == 2 and "store.capacity" in done.stderr


# ---- what operators see


@pytest.fixture
def owner(open_store: Open) -> Client:
    client = Client(open_store(node__name="owner"))
    assert all_are(client.put(_KEYS), PageStatus.STORED)
    return client


def test_ls_and_stat_show_what_there_is(server: Server, owner: Client, open_store: Open) -> None:
    open_store(capacity="0", node__name="reader")
    status, shown = tent(server, "ls")
    rows = {row["node"]: row for row in shown["nodes"]}
    assert status == 0 and rows["owner"]["kind"] == "engine" and rows["owner"]["pages"] == 20
    assert rows["owner"]["used"] <= rows["owner"]["capacity"]
    assert rows["reader"]["kind"] == "reader" and rows["reader"]["capacity"] == 0
    status, shown = tent(server, "stat", "--model", "test")
    (row,) = shown["spaces"]
    assert (row["pages"], row["bytes"], row["node"]) == (20, 20 * owner.size, "owner")
    assert row["facts"] == {"model": "test", "page": owner.size}
    status, shown = tent(server, "stat", "k3")
    assert status == 0 and shown["pages"][0]["replicas"] == ["owner"]
    assert shown["pages"][0]["length"] == owner.size
    assert tent(server, "stat", "no-such-key")[0] == 1
    status, error = tent(server, "stat", "--model", "other")
    assert status == 2 and "test" in error


def test_pins_by_operators_count(server: Server, owner: Client) -> None:
    assert tent(server, "pin", "k3", "k4") == (0, {"pinned": 2})
    assert owner.store.stats()["pinned_pages"] == 2
    assert tent(server, "unpin", "k3") == (0, {"unpinned": 1})
    assert tent(server, "pin", "--model", "test")[1] == {"pinned": 20}
    assert owner.store.stats()["pinned_pages"] == 20
    assert tent(server, "pin")[0] == 2


def test_evict_forgets_a_model_for_everybody(server: Server, owner: Client) -> None:
    status, shown = tent(server, "evict", "--model", "test")
    assert status == 0 and shown["evicted"] == [owner.space.digest.hex()]
    # ABSENT where the owner has heard of it already, and taken its records away.
    assert np.isin(owner.get(_KEYS), (PageStatus.CLEARED, PageStatus.ABSENT)).all()
    owner.store.namespace({"model": "test", "page": owner.size})
    wait_for(lambda: owner.store.stats()["pages"] == 0, "the owner heard of it")
    assert all_are(owner.put(_KEYS), PageStatus.STORED)
    assert all_are(owner.get(_KEYS), PageStatus.HIT)


def test_verify_finds_rotten_pages_and_removes_them(server: Server, owner: Client) -> None:
    store: PageStore = owner.store
    assert tent(server, "verify")[0] == 0
    piece = store._context.native.list(0, 1024)
    offsets, segment = piece[5], store._segment
    assert segment is not None
    memory = np.frombuffer(segment.view, dtype=np.uint8)
    for row in (2, 11):
        memory[int(offsets[row]) + 100] ^= 1
    status, shown = tent(server, "verify", "--keep")
    assert status == 1 and shown["nodes"][0]["bad"] == 2 and shown["nodes"][0]["removed"] == 0
    status, shown = tent(server, "verify", "owner")
    assert (shown["nodes"][0]["pages"], shown["nodes"][0]["bad"], shown["nodes"][0]["removed"]) == (20, 2, 2)
    status, shown = tent(server, "verify")
    assert status == 0 and shown["nodes"][0]["pages"] == 18
    assert (owner.get(_KEYS) == PageStatus.HIT).sum() == 18
    assert tent(server, "verify", "nobody")[0] == 2
