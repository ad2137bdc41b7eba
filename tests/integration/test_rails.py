"""One of two rails misbehaves: no transfer fails, and every byte is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from support.peers import PATIENCE, PeerProcess, digest_of, pattern, until
from support.relay import Relay, Rewritten, rewrite
from tent_core import Engine, Intent

RAILS = ["127.0.0.1", "127.0.0.2"]
CONFIG = {
    "shm.enabled": False,
    "node.bind": RAILS,
    "engine.connect_timeout_ms": 2000,
    "engine.session_lease_ms": 10_000,  # moving the control connection takes its time under a sanitizer
    "engine.deadline_ms": 60_000,
}
SIZE = 16 << 20
DATA = 1  # a relay's second connection, where the first is the control connection


@contextmanager
def two_rails(
    more: dict[str, Any] | None = None,
) -> Iterator[tuple[PeerProcess, list[Relay], Engine, Any]]:
    with ExitStack() as stack:
        owner = stack.enter_context(PeerProcess({**CONFIG, **(more or {})}, name="owner"))
        owner.register("kv", SIZE)
        owner.fill("kv", 1)
        rails = Rewritten.parse(owner.descriptor).rails
        relays = [stack.enter_context(Relay(rail[:2], rail[0])) for rail in rails]
        engine = stack.enter_context(Engine({**CONFIG, **(more or {})}, name="initiator"))
        peer = engine.connect(rewrite(owner.descriptor, relays), PATIENCE)
        yield owner, relays, engine, peer


def awake(peer: Any) -> list[dict[str, Any]]:
    """Its links, without those that were made across while a rail had lost its partner and sleep now."""
    return [row for row in peer.links() if row["state"] != "asleep"]


def cut(relay: Relay) -> None:
    relay.cut()


def blackhole(relay: Relay) -> None:
    relay.hold("to_server")
    relay.hold("to_client")


def one_way(relay: Relay) -> None:
    """Bytes still go out; nothing comes back, not even an acknowledgement of the engine's."""
    relay.hold("to_client")


@pytest.mark.parametrize("fault", [cut, blackhole, one_way])
@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize("which", [0, 1])
def test_invariant_3_a_rail_is_lost_under_transfers(which: int, op: str, fault: Any) -> None:
    with two_rails() as (owner, relays, engine, peer):
        remote = peer.segment("kv")
        memory = pattern(2, SIZE).copy()
        engine.register(memory, access="private")
        intent = Intent(op, peer, [memory.ctypes.data], remote, [0], SIZE)
        engine.run(intent)  # both links are there from now on
        until(lambda: len([row for row in peer.links() if row["state"] == "up"]) == 2, "two links")
        expected = digest_of(pattern(1 if op == "read" else 2, SIZE))
        transfers = []
        for part in range(8):
            at, nbytes = part * (SIZE // 8), SIZE // 8
            address = memory.ctypes.data + at
            transfers.append(engine.submit(Intent(op, peer, [address], remote, [at], nbytes)))
            if part == 2:
                fault(relays[which])
        for transfer in transfers:
            transfer.result(PATIENCE)
        if op == "read":
            assert digest_of(memory) == expected
        assert owner.digest("kv") == expected
        again = engine.submit(intent)
        again.result(PATIENCE)
        assert again.wait_released(PATIENCE)
        assert peer.alive
        relays[which].mend()
        relays[which].release()


@pytest.mark.protects("reroute")
@pytest.mark.protects("account")
def test_invariants_3_and_9_a_rail_is_cut_with_slices_on_it() -> None:
    """They move to the other rail, no transfer fails, and each of them is in one sum."""
    with two_rails() as (_, relays, engine, peer):
        memory = np.zeros(SIZE, dtype=np.uint8)
        engine.register(memory, access="private")
        intent = Intent("read", peer, [memory.ctypes.data], peer.segment("kv"), [0], SIZE)
        engine.run(intent)
        until(lambda: len([row for row in peer.links() if row["state"] == "up"]) == 2, "two links")

        def cut_in_its_middle() -> None:
            before = relays[1].total_passed("to_client")
            transfer = engine.submit(intent)
            until(lambda: relays[1].total_passed("to_client") > before or transfer.done, "bytes on the rail")
            relays[1].cut()
            transfer.result(PATIENCE)
            assert transfer.wait_released(PATIENCE)
            relays[1].mend()
            until(lambda: all(row["state"] in ("up", "probation") for row in peer.links()), "its return")

        while not any(row["reissued"] for row in peer.links()):
            cut_in_its_middle()  # once more when it fell between two slices
        for row in peer.links():
            assert row["posted"] == sum(
                row[end] for end in ("used", "superseded", "revoked", "failed", "outstanding")
            ), row
        assert np.array_equal(memory, pattern(1, SIZE))


def test_invariant_3_a_rail_that_comes_up_later_carries_a_running_transfer() -> None:
    """The only rail that was there when the transfer began is lost in its middle."""
    with two_rails() as (_, relays, engine, peer):
        relays[1].cut()
        memory = np.zeros(SIZE, dtype=np.uint8)
        engine.register(memory, access="private")
        remote = peer.segment("kv")
        engine.run(Intent("read", peer, [memory.ctypes.data], remote, [0], 4096))
        assert len(peer.links()) == 1
        relays[0].hold("to_client", after=300_000, connection=DATA)
        transfer = engine.submit(Intent("read", peer, [memory.ctypes.data], remote, [0], SIZE))
        until(lambda: relays[0].waiting("to_client") > 0, "half a slice")
        relays[1].mend()
        until(lambda: len(peer.links()) == 2, "the second rail")
        relays[0].cut()
        transfer.result(PATIENCE)
        assert np.array_equal(memory, pattern(1, SIZE))
        relays[0].mend()


def test_a_rail_comes_back() -> None:
    with two_rails() as (_, relays, engine, peer):
        remote = peer.segment("kv")
        memory = np.zeros(SIZE, dtype=np.uint8)
        engine.register(memory, access="private")
        intent = Intent("read", peer, [memory.ctypes.data], remote, [0], SIZE)
        engine.run(intent)
        until(lambda: len([row for row in peer.links() if row["state"] == "up"]) == 2, "two links")
        relays[1].cut()
        until(lambda: any(row["state"] == "down" for row in peer.links()), "notice of the cut")
        engine.run(intent)
        relays[1].mend()
        until(lambda: all(row["state"] in ("up", "probation") for row in awake(peer)), "the rail's return")

        def uses_both() -> bool:
            before = {row["name"]: row["bytes"] for row in awake(peer)}
            engine.run(intent)
            return all(row["bytes"] > before.get(row["name"], 0) for row in awake(peer))

        until(uses_both, "work on the rail that came back")
        assert np.array_equal(memory, pattern(1, SIZE))


def test_a_rail_that_was_silent_longer_than_a_connection_takes_comes_back() -> None:
    """Probes that nobody answers give way to new ones."""
    # A lease that outlasts the busiest machine: with so little time to connect, moving the control connection may take
    # several attempts.
    with two_rails({"engine.connect_timeout_ms": 300, "engine.session_lease_ms": 60_000}) as (
        _,
        relays,
        engine,
        peer,
    ):
        memory = np.zeros(SIZE, dtype=np.uint8)
        engine.register(memory, access="private")
        intent = Intent("read", peer, [memory.ctypes.data], peer.segment("kv"), [0], SIZE)
        engine.run(intent)
        until(lambda: len([row for row in peer.links() if row["state"] == "up"]) == 2, "two links")
        blackhole(relays[1])
        engine.run(intent)
        until(lambda: any(row["state"] == "down" for row in peer.links()), "notice of the silence")
        known = len(relays[1].pairs)
        until(lambda: len(relays[1].pairs) > known + 2, "one probe after another")
        relays[1].release()
        until(lambda: all(row["state"] in ("up", "probation") for row in awake(peer)), "the rail's return")
        engine.run(intent)
        assert np.array_equal(memory, pattern(1, SIZE))
