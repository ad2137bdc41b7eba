"""SIGKILL in the middle of transfers, restarted owners, and interpreters that end without a goodbye."""

from __future__ import annotations

import os

import numpy as np
import pytest

from support.peers import PATIENCE, PeerGone, PeerProcess, pattern, until
from support.relay import Rewritten
from tent_core import Engine, Intent
from tent_core.errors import PeerDead, PeerUnreachable, StaleIncarnation, TentError

EXITS = int(os.environ.get("TENT_TEST_EXITS", "50"))
SIZE = 4 << 20
LOOPBACK = {"node.bind": ["127.0.0.1"], "engine.session_lease_ms": 4000}
CONFIGS = {"shm": LOOPBACK, "tcp": {**LOOPBACK, "shm.enabled": False}}
REACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
KIND = pytest.mark.parametrize("kind", ["allocate", "register"])
OPS = pytest.mark.parametrize("op", ["read", "write"])


@REACH
@KIND
@OPS
def test_the_owner_is_killed_in_mid_transfer(op: str, kind: str, config: dict[str, object]) -> None:
    with Engine(config, name="initiator") as engine:
        owner = PeerProcess(config, name="owner")
        owner.ask(kind, "kv", SIZE)
        owner.fill("kv", 1)
        peer = engine.connect(owner.descriptor, PATIENCE)
        remote = peer.segment("kv")
        memory = np.zeros(SIZE, dtype=np.uint8)
        segment = engine.register(memory, access="private")
        intent = Intent(op, peer, [memory.ctypes.data], remote, [0], SIZE, deadline=PATIENCE)
        for _ in range(3):
            engine.run(intent)
        transfer = engine.submit(intent)
        owner.kill()
        owner.end()
        last = None
        while last is None:  # what was done before the kill is done; what comes after it fails
            try:
                transfer.result(PATIENCE)
                transfer = engine.submit(intent)
            except TentError as error:
                last = error
        assert isinstance(last, PeerDead | PeerUnreachable), repr(last)
        assert transfer.wait_released(PATIENCE)
        segment.close(PATIENCE)
        memory[:] = 0


@REACH
@KIND
@OPS
def test_the_initiator_is_killed_in_mid_transfer(op: str, kind: str, config: dict[str, object]) -> None:
    """The owner's memory is its own again, and others are served."""
    with PeerProcess(config, name="owner") as owner, Engine(config, name="bystander") as engine:
        owner.ask(kind, "kv", SIZE)
        owner.fill("kv", 2)
        victim = PeerProcess(config, name="victim")
        victim.register("mine", SIZE)
        name = victim.connect(owner.descriptor)
        victim.result(victim.submit(op, name, "kv", "mine"))
        victim.send("run", op, name, "kv", "mine")
        victim.kill()
        with pytest.raises(PeerGone):
            victim.answer()
        victim.end()
        owner.unregister("kv")
        owner.ask(kind, "kv", SIZE)
        owner.fill("kv", 3)
        peer = engine.connect(owner.descriptor, PATIENCE)
        memory = np.zeros(SIZE, dtype=np.uint8)
        segment = engine.register(memory, access="private")
        engine.run(Intent("read", peer, [memory.ctypes.data], peer.segment("kv"), [0], SIZE))
        assert np.array_equal(memory, pattern(3, SIZE))
        segment.close(PATIENCE)


@REACH
def test_invariant_5_a_restarted_owner_is_not_read_as_if_it_were_the_old_one(
    config: dict[str, object],
) -> None:
    """Same name, same port, same segment name: another incarnation, so a typed error and never its memory."""
    with Engine(config, name="initiator") as engine:
        first = PeerProcess(config, name="owner")
        first.allocate("kv", SIZE)
        first.fill("kv", 4)
        descriptor = first.descriptor
        port = Rewritten.parse(descriptor).rails[0][1]
        peer = engine.connect(descriptor, PATIENCE)
        remote = peer.segment("kv")
        memory = np.zeros(SIZE, dtype=np.uint8)
        engine.register(memory, access="private")
        first.kill()
        first.end()
        with PeerProcess({**config, "node.port": port}, name="owner") as second:
            second.allocate("kv", SIZE)
            second.set("kv", 0xEE)
            with pytest.raises((StaleIncarnation, PeerDead, PeerUnreachable)):
                engine.run(Intent("read", peer, [memory.ctypes.data], remote, [0], SIZE))
            if config.get("shm.enabled") is False:  # the port answers, and says who it is
                with pytest.raises(StaleIncarnation, match="restarted"):
                    engine.connect(descriptor, PATIENCE)
            else:
                with pytest.raises((StaleIncarnation, PeerDead, PeerUnreachable)):
                    engine.connect(descriptor, PATIENCE)
            assert not (memory == 0xEE).any()
            fresh = engine.connect(second.descriptor, PATIENCE)
            assert fresh.incarnation != peer.incarnation
            engine.run(Intent("read", fresh, [memory.ctypes.data], fresh.segment("kv"), [0], SIZE))
            assert (memory == 0xEE).all()


@pytest.mark.timeout(60 + 3 * EXITS)
def test_invariant_10_interpreter_exits_with_transfers_in_flight() -> None:
    """No crash, no hang, no trace at the owner: by shared memory and sockets, reading and writing in turn."""
    with PeerProcess(LOOPBACK, name="owner") as owner:
        owner.allocate("kv", SIZE)
        owner.register("own", SIZE)
        batch = 5
        for first in range(0, EXITS, batch):
            nodes = []
            for number in range(first, min(first + batch, EXITS)):
                node = PeerProcess(list(CONFIGS.values())[number % 2])
                node.register("mine", SIZE)
                # Two segments of the owner's are enough only if no two writes meet: each exits with one transfer.
                name = node.connect(owner.descriptor)
                node.send("exit_in_flight", "read" if number % 4 < 2 else "write", name, "kv", "mine")
                nodes.append(node)
            for node in nodes:
                with pytest.raises(PeerGone):
                    node.answer()
                assert node.end() == 0
        owner.unregister("kv")
        until(lambda: not owner.links(), "an owner without links")
