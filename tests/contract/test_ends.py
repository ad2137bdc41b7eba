"""Ends that come while transfers run: of segments, engines, sessions and processes."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from support.peers import PATIENCE, PeerGone, PeerProcess, pattern, until
from support.reach import World
from tent_core import Engine, Intent
from tent_core.errors import Closed, Forked, PeerDead, PeerUnreachable, SegmentGone, TentError

SIZE = 4 << 20
OPS = pytest.mark.parametrize("op", ["read", "write"])


def another(w: World, name: str) -> PeerProcess:
    """One more node of this world's kind, that the test may ruin."""
    return PeerProcess({**w.config, "engine.session_lease_ms": 1000}, name=name)


def exposed(w: World, node: PeerProcess, nbytes: int, seed: int) -> None:
    (node.allocate if w.reach.kind == "memfd" else node.register)("kv", nbytes)
    node.fill("kv", seed)


@OPS
def test_invariant_11_unregister_at_the_owner_while_transfers_run(w: World, op: str) -> None:
    """When the owner's unregister returns, nothing touches that memory: it is the owner's alone again."""
    with another(w, f"leaving-{w.reach.name}-{op}") as owner:
        owner.register("kv", SIZE) if w.reach.kind == "region" else owner.allocate("kv", SIZE)
        peer = w.engine.connect(owner.descriptor, PATIENCE)
        memory = w.local(SIZE)
        remote = peer.segment("kv")
        memory[:] = 0xAA
        owner.set("kv", 0xAA)
        stop = threading.Event()
        outcomes: list[TentError] = []

        def keep_moving() -> None:
            while not stop.is_set():
                try:
                    intent = Intent(op, peer, [memory.ctypes.data], remote, [0], SIZE)
                    w.engine.run(intent)
                except TentError as error:
                    outcomes.append(error)
                    return

        mover = threading.Thread(target=keep_moving)
        mover.start()
        moved = "bytes_read" if op == "read" else "bytes_written"
        before = w.engine.metrics()[moved]
        until(lambda: w.engine.metrics()[moved] > before + 2 * SIZE or outcomes, "running transfers")
        owner.unregister("kv")
        if w.reach.kind == "region":  # the owner still has the memory, and may use it
            owner.set("kv", 0x55)
        mover.join(PATIENCE)
        stop.set()
        assert not mover.is_alive()
        assert [type(error) for error in outcomes] == [SegmentGone], outcomes
        if w.reach.kind == "region":
            assert owner.count("kv", 0x55) == SIZE, "bytes landed after unregister had returned"
        if op == "read":
            assert set(np.unique(memory)) <= {0xAA}, "bytes were read that the owner wrote after unregister"
        peer.close()


@OPS
def test_invariant_11_unregister_here_while_transfers_run(w: World, op: str) -> None:
    remote = w.remote(SIZE, seed=1)
    memory = np.full(SIZE, 0xAA, dtype=np.uint8)
    segment = w.engine.register(memory, access="private")
    with w.owner.stopped():
        transfer = w.submit(op, memory, remote)
        closing = threading.Thread(target=segment.close, args=(PATIENCE,))
        closing.start()
        assert transfer.wait(PATIENCE)
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert transfer.released
    if not transfer.errors:
        return  # it was done before: one-sided and mapped
    assert isinstance(transfer.errors[0], SegmentGone)
    memory[:] = 0x55
    w.move("write", w.local(64), remote)  # whatever was on its way has come by now
    assert (memory == 0x55).all()
    if op == "write":
        # Untouched, written before the end, or padding of a frame that was half sent; never what came afterwards.
        got, before = np.frombuffer(w.owner.bytes_of(remote.name), dtype=np.uint8), pattern(1, SIZE)
        assert ((got == before) | (got == 0xAA) | (got == 0))[64:].all()


@OPS
def test_invariant_10_close_with_transfers_in_flight(w: World, op: str) -> None:
    """The initiator goes first: its transfers end, and the owner serves others as before."""
    owner_segment = w.remote(SIZE, seed=3)
    config = {**w.config, "engine.session_lease_ms": 1000}
    engine = Engine(config)
    peer = engine.connect(w.owner.descriptor, PATIENCE)
    memory = np.zeros(8 * SIZE, dtype=np.uint8)
    engine.register(memory, access="private")
    transfers = [
        engine.submit(Intent(op, peer, [memory.ctypes.data + i * 65536], owner_segment, [i * 65536], 65536))
        for i in range(8)
    ]
    engine.close(PATIENCE)
    for transfer in transfers:
        assert transfer.done and transfer.released
        if transfer.status.tolist() != [1]:
            with pytest.raises(Closed):
                transfer.result()
    memory[:] = 0  # ours again
    again = w.local(SIZE)
    w.move("read", again, owner_segment)


@OPS
def test_invariant_10_the_owner_closes_with_transfers_in_flight(w: World, op: str) -> None:
    with another(w, f"closing-{w.reach.name}-{op}") as owner:
        exposed(w, owner, SIZE, 4)
        peer = w.engine.connect(owner.descriptor, PATIENCE)
        remote = peer.segment("kv")
        memory = w.local(SIZE)
        ends: list[TentError] = []

        def keep_moving() -> None:
            try:
                while True:
                    w.engine.run(Intent(op, peer, [memory.ctypes.data], remote, [0], SIZE))
            except TentError as error:
                ends.append(error)

        mover = threading.Thread(target=keep_moving)
        mover.start()
        moved = "bytes_read" if op == "read" else "bytes_written"
        before = w.engine.metrics()[moved]
        until(lambda: w.engine.metrics()[moved] > before + SIZE or ends, "running transfers")
        owner.close()
        mover.join(PATIENCE)
        assert not mover.is_alive()
        assert isinstance(ends[0], PeerDead | PeerUnreachable | SegmentGone), repr(ends[0])
        until(lambda: not peer.alive, "notice of the owner's end")


@OPS
def test_the_owner_is_killed(w: World, op: str) -> None:
    """A typed error in bounded time, everything released, and the memory of use again."""
    owner = another(w, f"killed-{w.reach.name}-{op}")
    exposed(w, owner, SIZE, 5)
    peer = w.engine.connect(owner.descriptor, PATIENCE)
    remote = peer.segment("kv")
    memory = w.local(SIZE)
    owner.stop()
    transfer = w.engine.submit(Intent(op, peer, [memory.ctypes.data], remote, [0], SIZE, deadline=PATIENCE))
    owner.kill()
    owner.end()
    assert transfer.wait(PATIENCE) and transfer.wait_released(PATIENCE)
    if transfer.errors:
        assert isinstance(transfer.errors[0], PeerDead | PeerUnreachable), transfer.errors
    until(lambda: not peer.alive, "notice of the owner's death")
    with pytest.raises((PeerDead, PeerUnreachable)):
        w.engine.run(Intent(op, peer, [memory.ctypes.data], remote, [0], SIZE))
    w.move("read", memory, w.remote(SIZE, seed=6))
    assert np.array_equal(memory, pattern(6, SIZE))


def test_the_initiator_is_killed(w: World) -> None:
    """The owner frees what the dead peer held and serves the others."""
    remote = w.remote(SIZE, seed=7)
    victim = another(w, f"victim-{w.reach.name}")
    victim.register("mine", SIZE)
    name = victim.connect(w.owner.descriptor)
    victim.send("run", "write", name, remote.name, "mine")
    until(lambda: w.owner.count(remote.name, 0) == SIZE, "the victim's first write")
    victim.kill()
    with pytest.raises(PeerGone):
        victim.answer()
    victim.end()
    memory = w.local(SIZE, seed=8)
    w.gone(remote)  # nobody's any more: an owner that still waited for the dead could not return
    w.move("write", memory, w.remote(SIZE))


def test_fork(w: World) -> None:
    """The child's engine is dead and says so; the parent's goes on."""
    remote = w.remote(SIZE, seed=9)
    memory = w.local(SIZE)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for call in (
                lambda: w.engine.read(w.peer, memory.ctypes.data, remote, 0, 4096),
                lambda: w.engine.connect(w.owner.descriptor),
                lambda: w.engine.allocate(4096),
            ):
                with pytest.raises(Forked):
                    call()
            w.engine.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    w.move("read", memory, remote)
    assert np.array_equal(memory, pattern(9, SIZE))


def test_a_child_that_outlives_its_killed_parent_keeps_nobody_waiting(w: World) -> None:
    owner = another(w, f"parent-{w.reach.name}")
    exposed(w, owner, SIZE, 10)
    peer = w.engine.connect(owner.descriptor, PATIENCE)
    remote = peer.segment("kv")
    memory = w.local(SIZE)
    w.engine.run(Intent("read", peer, [memory.ctypes.data], remote, [0], SIZE))
    child = owner.fork()
    try:
        owner.kill()
        until(lambda: not peer.alive, "notice of the parent's death")
        with pytest.raises((PeerDead, PeerUnreachable)):
            w.engine.run(Intent("read", peer, [memory.ctypes.data], remote, [0], SIZE))
        os.kill(child, 0)  # it was there all the time
    finally:
        owner.end()


def test_disconnect_and_connect_again(w: World) -> None:
    remote = w.remote(SIZE, seed=11)
    engine = Engine(w.config)
    memory = np.zeros(SIZE, dtype=np.uint8)
    engine.register(memory, access="private")
    for _ in range(3):
        peer = engine.connect(w.owner.descriptor, PATIENCE)
        assert peer.alive and peer.name == w.owner.name
        memory[:] = 0
        engine.read(peer, memory.ctypes.data, remote, 0, SIZE)
        assert np.array_equal(memory, pattern(11, SIZE))
        peer.close()
        assert not peer.alive
        with pytest.raises(TentError):
            engine.read(peer, memory.ctypes.data, remote, 0, SIZE)
    engine.close()


def test_invariant_9_every_slice_is_accounted(w: World) -> None:
    """Completed, cancelled, failed and refused side by side; the sums agree once all is released."""
    remote = w.remote(8 * SIZE, seed=12)
    memory = w.local(8 * SIZE)
    before = w.engine.metrics()
    for round in range(6):
        transfers = [
            w.submit("read", memory[i * SIZE : (i + 1) * SIZE], remote, remote_offset=i * SIZE)
            for i in range(7)
        ]
        transfers.append(w.submit("read", memory[7 * SIZE :], remote, remote_offset=8 * SIZE))
        for transfer in transfers[round::3]:
            transfer.cancel()
        for transfer in transfers:
            assert transfer.wait_released(PATIENCE)
        w.check_accounts()
    after = w.engine.metrics()
    assert after["transfers_submitted"] - before["transfers_submitted"] == 48
    assert after["transfers_failed"] + after["transfers_cancelled"] > before["transfers_failed"]
