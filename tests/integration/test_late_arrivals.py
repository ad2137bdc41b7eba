"""Late arrivals on real TCP, again and again: what was given up is let go by the network, or by an owner that wakes,
after its transfer was released and its memory has become somebody else's.

``TENT_TEST_LATE_ARRIVALS=500`` makes it so many rounds (the long form); ``TENT_TEST_SEED`` chooses others.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest

from support.peers import PATIENCE, PeerProcess, until
from support.raw import connections
from support.relay import Relay, Rewritten, rewrite
from tent_core import Engine, Intent

ROUNDS = int(os.environ.get("TENT_TEST_LATE_ARRIVALS", "24"))
SEED = int(os.environ.get("TENT_TEST_SEED", "1"))
SIZE = 4 << 20
TCP: dict[str, Any] = {"shm.enabled": False, "node.bind": ["127.0.0.1"], "engine.connect_timeout_ms": 10_000}
NEVER_BY_LEASE = {**TCP, "engine.session_lease_ms": 60_000}


@pytest.mark.protects("fence")
def test_invariant_2_what_the_network_lets_go_after_the_release_never_lands() -> None:
    """Held at another byte of the frame each time, so in its header, its body and its payload; writes and reads."""
    chance = random.Random(SEED)
    with PeerProcess(NEVER_BY_LEASE, name="owner") as owner:
        owner.register("kv", SIZE)
        owner.register("other", 4096)
        rail = Rewritten.parse(owner.descriptor).rails[0]
        with Relay(rail[:2]) as relay, Engine(NEVER_BY_LEASE, name="initiator") as engine:
            peer = engine.connect(rewrite(owner.descriptor, [relay]), PATIENCE)
            remote, other = peer.segment("kv"), peer.segment("other")
            memory, small = np.zeros(SIZE, dtype=np.uint8), np.zeros(4096, dtype=np.uint8)
            engine.register(memory, access="private")
            engine.register(small, access="private")
            for number in range(ROUNDS):
                op = ("write", "read")[number % 2]
                # A data connection ends with each round: this waits for the next one.
                engine.run(Intent("write", peer, [small.ctypes.data], other, [0], 4096))
                data = len(relay.pairs) - 1
                memory[:] = 0xAA if op == "write" else 0
                owner.set("kv", 0xAA if op == "read" else 0)
                direction = "to_server" if op == "write" else "to_client"
                after = chance.choice([chance.randrange(100), chance.randrange(SIZE // 2)])
                relay.hold(direction, after=after, connection=data)
                intent = Intent(op, peer, [memory.ctypes.data], remote, [0], SIZE)
                transfer = engine.submit(intent)
                until(lambda way=direction: relay.waiting(way) > 0, "bytes that the network holds")
                assert transfer.cancel()
                assert transfer.wait_released(PATIENCE)
                if op == "write":
                    owner.set("kv", 0x55)
                else:
                    memory[:] = 0x55
                relay.drain(direction, data)
                left = owner.count("kv", 0x55) if op == "write" else int((memory == 0x55).sum())
                assert left == SIZE, (
                    f"round {number} of seed {SEED}: {SIZE - left} bytes of a released {op} landed"
                )


@pytest.mark.protects("fence")
def test_invariant_2_an_owner_that_wakes_lands_nothing_that_was_given_up() -> None:
    """Stopped at another moment of the write each time; the lease alone ends it."""
    chance = random.Random(SEED)
    config = {**TCP, "engine.session_lease_ms": 1000}
    with PeerProcess(config, name="owner") as owner:
        address = owner.register("kv", SIZE)
        port = Rewritten.parse(owner.descriptor).rails[0][1]
        source = np.full(SIZE, 0xAA, dtype=np.uint8)
        for number in range(max(4, ROUNDS // 6)):
            with Engine(config, name=f"initiator-{number}") as engine:
                peer = engine.connect(owner.descriptor, PATIENCE)
                segment = engine.register(source, access="private")
                intent = Intent("write", peer, [source.ctypes.data], peer.segment("kv"), [0], SIZE)
                engine.run(intent)
                owner.set("kv", 0)
                early = chance.random() < 0.5
                transfer = None if early else engine.submit(intent)
                with owner.stopped():
                    transfer = transfer or engine.submit(intent)
                    transfer.cancel()  # a completion may have won
                    assert transfer.wait_released(PATIENCE), "the lease bounds it"
                    owner.poke(address, np.full(SIZE, 0x55, dtype=np.uint8))
                engine.close()
                segment.close(PATIENCE)
            until(lambda: not connections(port), "end of the owner's connections")
            left = owner.count("kv", 0x55)
            assert left == SIZE, (
                f"round {number} of seed {SEED}: {SIZE - left} bytes landed when the owner woke"
            )
