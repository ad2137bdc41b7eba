"""Connections are few and come and go: closed for want of room, reset by the network. Transfers do not notice."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack

import numpy as np
import pytest

from support.peers import PATIENCE, PeerProcess, pattern
from support.relay import Relay, Rewritten, rewrite
from tent_core import Engine, Intent

CONFIG = {
    "shm.enabled": False,
    "node.bind": ["127.0.0.1"],
    "engine.deadline_ms": 60_000,
    "recorder.memory": 0,
}
SIZE = 64 << 10


def test_a_node_that_may_open_few_files_serves_many_peers() -> None:
    """Each of its peers uses it and is used by it: more connections than it may have at a time."""
    peers = int(os.environ.get("TENT_TEST_PEERS", "40"))
    with ExitStack() as stack:
        hub = stack.enter_context(
            PeerProcess(CONFIG, name="hub", within=["prlimit", "--nofile=80:80"]),
        )
        hub.register("kv", SIZE)
        hub.register("mine", SIZE)
        hub.fill("kv", 1)
        expected = pattern(1, SIZE)
        spokes = []
        for number in range(peers):
            engine = stack.enter_context(Engine(CONFIG, name=f"spoke-{number}"))
            memory, shown = np.zeros(SIZE, dtype=np.uint8), pattern(100 + number, SIZE).copy()
            engine.register(memory, access="private")
            engine.register(shown, name="kv", access="r")
            hub.connect(engine.descriptor())
            spokes.append((engine, engine.connect(hub.descriptor, PATIENCE), memory, shown))
        for _ in range(2):
            for number, (engine, peer, memory, shown) in enumerate(spokes):
                assert peer.alive
                memory[:] = 0
                engine.read(peer, memory.ctypes.data, peer.segment("kv"), 0, SIZE)
                assert np.array_equal(memory, expected)
                hub.result(hub.submit("read", f"spoke-{number}", "kv", "mine", 0, SIZE))
                assert hub.bytes_of("mine") == shown.tobytes()
        assert hub.metrics()["sessions_parked"] > peers


@pytest.mark.parametrize("op", ["read", "write"])
def test_connections_are_reset_under_transfers(op: str) -> None:
    transfers = int(os.environ.get("TENT_TEST_RESETS", "150"))
    chance = random.Random(transfers)
    rails = ["127.0.0.1", "127.0.0.2"]
    with ExitStack() as stack:
        owner = stack.enter_context(PeerProcess({**CONFIG, "node.bind": rails}, name="owner"))
        owner.register("kv", 16 * SIZE)
        owner.fill("kv", 1)
        relays = [
            stack.enter_context(Relay(rail[:2], rail[0])) for rail in Rewritten.parse(owner.descriptor).rails
        ]
        engine = stack.enter_context(Engine({**CONFIG, "node.bind": rails}, name="initiator"))
        peer = engine.connect(rewrite(owner.descriptor, relays), PATIENCE)
        memory = pattern(1, 16 * SIZE).copy()
        engine.register(memory, access="private")
        expected = memory.copy()
        if op == "read":
            memory[:] = 0
        else:
            owner.set("kv", 0)
        under_way = []
        for number in range(transfers):
            at = number % 16 * SIZE
            if number >= 16:  # the one before on the same bytes
                under_way.pop(0).result(PATIENCE)
            under_way.append(
                engine.submit(Intent(op, peer, [memory.ctypes.data + at], peer.segment("kv"), [at], SIZE))
            )
            if chance.random() < 0.2:
                relay = chance.choice(relays)
                relay.cut()
                relay.mend()
        for transfer in under_way:
            transfer.result(PATIENCE)
        assert np.array_equal(memory, expected)
        assert owner.bytes_of("kv") == expected.tobytes()
        assert sum(len(relay.pairs) for relay in relays) > 10  # each reset made fresh ones
