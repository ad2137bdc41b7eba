"""What was given up never lands, however late its bytes arrive: stalled paths and stopped owners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.peers import PATIENCE, PeerProcess, pattern, until
from support.raw import connections
from support.relay import Relay, Rewritten, rewrite
from tent_core import Engine, Intent
from tent_core.errors import Cancelled, SegmentGone

TCP = {"shm.enabled": False, "node.bind": ["127.0.0.1"], "engine.connect_timeout_ms": 10_000}
PATIENT = {**TCP, "engine.session_lease_ms": 60_000}  # nothing here is fenced by the lease
SIZE = 8 << 20
DATA = 1  # the relay's second connection; the first is the control connection


@pytest.fixture
def stalled() -> Iterator[tuple[PeerProcess, Relay, Engine, Any]]:
    """An owner behind a relay, with both connections made."""
    with PeerProcess(PATIENT, name="owner") as owner:
        owner.register("kv", SIZE)
        owner.register("other", 4096)
        rail = Rewritten.parse(owner.descriptor).rails[0]
        with Relay(rail[:2]) as relay, Engine(PATIENT, name="initiator") as engine:
            peer = engine.connect(rewrite(owner.descriptor, [relay]), PATIENCE)
            warm = np.zeros(4096, dtype=np.uint8)
            with_segment = engine.register(warm, access="private")
            engine.run(Intent("write", peer, [warm.ctypes.data], peer.segment("other"), [0], 4096))
            assert len(relay.pairs) == 2
            yield owner, relay, engine, peer
            with_segment.close(PATIENCE)


@pytest.mark.protects("fence")
def test_invariant_2_a_stalled_write_never_lands_after_release(stalled: Any) -> None:
    owner, relay, engine, peer = stalled
    source = np.full(SIZE, 0xAA, dtype=np.uint8)
    engine.register(source, access="private")
    relay.hold("to_server", connection=DATA)
    transfer = engine.submit(Intent("write", peer, [source.ctypes.data], peer.segment("kv"), [0], SIZE))
    until(lambda: relay.waiting("to_server") > 0, "bytes of the write in the relay")
    assert transfer.cancel()
    assert transfer.wait_released(PATIENCE), "the control connection is free to confirm it"
    owner.set("kv", 0x55)  # released: the owner's again
    relay.drain("to_server", DATA)
    assert owner.count("kv", 0x55) == SIZE, "bytes of a released write landed"
    with pytest.raises(Cancelled):
        transfer.result()


@pytest.mark.protects("fence")
def test_invariant_2_a_stalled_read_never_lands_after_release(stalled: Any) -> None:
    owner, relay, engine, peer = stalled
    owner.set("kv", 0xAA)
    memory = np.zeros(SIZE, dtype=np.uint8)
    engine.register(memory, access="private")
    relay.hold("to_client", after=300_000, connection=DATA)  # in the middle of a frame
    transfer = engine.submit(Intent("read", peer, [memory.ctypes.data], peer.segment("kv"), [0], SIZE))
    until(lambda: memory[250_000] == 0xAA, "the first bytes of the read")
    until(lambda: relay.waiting("to_client") > 0, "more of them in the relay")
    assert transfer.cancel()
    assert transfer.wait_released(PATIENCE)
    memory[:] = 0x55
    relay.drain("to_client", DATA)
    assert (memory == 0x55).all(), "bytes of a released read landed"


@pytest.mark.parametrize("op", ["read", "write"])
def test_a_stall_that_ends_completes_the_transfer(stalled: Any, op: str) -> None:
    owner, relay, engine, peer = stalled
    owner.fill("kv", 1)
    memory = pattern(2, SIZE).copy()
    engine.register(memory, access="private")
    direction = "to_client" if op == "read" else "to_server"
    relay.hold(direction, after=123_457, connection=DATA)
    transfer = engine.submit(Intent(op, peer, [memory.ctypes.data], peer.segment("kv"), [0], SIZE))
    until(lambda: relay.waiting(direction) > 0, "held bytes")
    assert not transfer.done
    relay.release()
    transfer.result(PATIENCE)
    assert owner.bytes_of("kv") == memory.tobytes() == pattern(1 if op == "read" else 2, SIZE).tobytes()


@pytest.mark.protects("lease")
def test_invariant_2_a_write_that_nobody_can_confirm_ends_with_the_lease() -> None:
    """Every way to the owner stalls, so no revoke reaches it either. The lease alone bounds the release here, and keeps
    the late bytes out there."""
    # Idle, it is renewed once a second; what is left of it must last until the bytes are out, on a busy machine, too.
    config = {**TCP, "engine.session_lease_ms": 4000}
    with PeerProcess(config, name="owner") as owner:
        owner.register("kv", SIZE)
        rail = Rewritten.parse(owner.descriptor).rails[0]
        with Relay(rail[:2]) as relay, Engine(config, name="initiator") as engine:
            peer = engine.connect(rewrite(owner.descriptor, [relay]), PATIENCE)
            source = np.full(SIZE, 0xAA, dtype=np.uint8)
            engine.register(source, access="private")
            intent = Intent("write", peer, [source.ctypes.data], peer.segment("kv"), [0], SIZE)
            engine.run(intent)
            relay.hold("to_server")
            relay.hold("to_client")
            transfer = engine.submit(intent)
            until(lambda: relay.waiting("to_server") > 1 << 16, "bytes of the write in the relay")
            assert transfer.cancel()
            assert transfer.wait_released(PATIENCE), "the lease bounds it"
            owner.set("kv", 0x55)
            relay.drain("to_server", DATA)
            assert owner.count("kv", 0x55) == SIZE, "bytes landed after the lease had run out"


# ---- a stopped owner ------------------------------------------------------------------------------------------------


@pytest.mark.protects("fence")
def test_invariant_2_a_stopped_owner_wakes_with_the_bytes_in_its_socket() -> None:
    """It cannot confirm anything. The lease bounds the release, and outlives the sleep on the owner's side, too."""
    config = {
        **TCP,
        "engine.session_lease_ms": 5000,
    }  # longer than the owner stands still when nothing waits for it
    with PeerProcess(config, name="owner") as owner, Engine(config, name="initiator") as engine:
        address = owner.register("kv", SIZE)
        port = Rewritten.parse(owner.descriptor).rails[0][1]
        peer = engine.connect(owner.descriptor, PATIENCE)
        remote = peer.segment("kv")
        source = np.full(SIZE, 0xAA, dtype=np.uint8)
        engine.register(source, access="private")
        engine.run(Intent("write", peer, [source.ctypes.data], remote, [0], SIZE))
        owner.set("kv", 0)
        with owner.stopped():
            transfer = engine.submit(Intent("write", peer, [source.ctypes.data], remote, [0], SIZE))
            until(lambda: any(waiting > 1 << 16 for waiting in connections(port)), "bytes in its socket")
            assert transfer.cancel()
            assert transfer.wait_released(PATIENCE), "the lease bounds it"
            owner.poke(address, np.full(SIZE, 0x55, dtype=np.uint8))  # its memory, in use for something else
        engine.close()
        until(lambda: not connections(port), "end of the owner's connections")
        assert owner.count("kv", 0x55) == SIZE, "bytes of a released write landed when the owner woke"


@pytest.mark.protects("drain")
def test_invariant_10_close_returns_only_when_nothing_of_it_can_land_any_more() -> None:
    """The owner stands still with the bytes in its socket; close() is asked in mid-transfer and waits for the lease."""
    config = {
        **TCP,
        "engine.session_lease_ms": 5000,
    }  # longer than the owner stands still when nothing waits for it
    with PeerProcess(config, name="owner") as owner, Engine(config, name="initiator") as engine:
        address = owner.register("kv", SIZE)
        port = Rewritten.parse(owner.descriptor).rails[0][1]
        peer = engine.connect(owner.descriptor, PATIENCE)
        source = np.full(SIZE, 0xAA, dtype=np.uint8)
        engine.register(source, access="private")
        intent = Intent("write", peer, [source.ctypes.data], peer.segment("kv"), [0], SIZE)
        engine.run(intent)
        owner.set("kv", 0)
        with owner.stopped():
            transfer = engine.submit(intent)
            until(lambda: any(waiting > 1 << 16 for waiting in connections(port)), "bytes in its socket")
            engine.close(PATIENCE)
            assert transfer.done and transfer.released
            source[:] = 0xBB  # ours again
            owner.poke(address, np.full(SIZE, 0x55, dtype=np.uint8))
        until(lambda: not connections(port), "end of the owner's connections")
        assert owner.count("kv", 0x55) == SIZE, "bytes landed after close had returned"


# ---- revoked grants -------------------------------------------------------------------------------------------------


@pytest.mark.protects("grant")
@pytest.mark.parametrize("op", ["read", "write"])
def test_invariant_11_a_mapping_ends_with_the_grant_not_with_the_news_of_it(op: str) -> None:
    """The initiator maps the segment and does not hear that the owner took it back."""
    config = {"node.bind": ["127.0.0.1"], "engine.session_lease_ms": 60_000}
    nbytes = 64 << 10
    with PeerProcess(config, name="owner") as owner:
        owner.allocate("kv", nbytes)
        unix_name = Rewritten.parse(owner.descriptor).unix_name
        with Relay(unix_name) as relay, Engine(config, name="initiator") as engine:
            peer = engine.connect(rewrite(owner.descriptor, [relay]), PATIENCE)
            remote = peer.segment("kv")
            memory = np.zeros(nbytes, dtype=np.uint8)
            engine.register(memory, access="private")
            intent = Intent(op, peer, [memory.ctypes.data], remote, [0], nbytes)
            engine.run(intent)
            assert {row["transport"] for row in peer.links() if row["posted"]} <= {"shm"}
            relay.hold("to_client")
            owner.unregister("kv")
            with pytest.raises(SegmentGone):
                engine.run(intent)
            relay.release()
