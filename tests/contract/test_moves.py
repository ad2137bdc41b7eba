"""Bytes arrive where they were asked for, whatever the sizes and shapes, and nowhere else."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from support.peers import digest_of, pattern
from support.reach import World, networks
from tent_core import Engine

MiB = 1 << 20
SIZES = [1, 7, 4096, 64 * 1024 + 1, MiB, 9 * MiB + 3, 64 * MiB]
if os.environ.get("TENT_TEST_LONG"):
    SIZES.append(256 * MiB)


def test_every_transport_that_is_stated_is_tried() -> None:
    with Engine({"node.bind": ["127.0.0.1"]}) as engine:
        table = engine.capabilities()
    assert set(table) == {"shm", "tcp"}
    for transport, stated in table.items():
        assert networks(transport) and stated["kinds"], transport
        assert {stated["read_fence"], stated["write_fence"]} <= {"local", "owner"}
        assert stated["max_pieces"] > 0 and stated["max_bytes"] > 0


def test_a_transport_that_is_switched_off_is_not_stated() -> None:
    with Engine({"node.bind": ["127.0.0.1"], "shm.enabled": False}) as engine:
        assert set(engine.capabilities()) == {"tcp"}


@pytest.mark.parametrize("nbytes", SIZES)
def test_read(w: World, nbytes: int) -> None:
    remote = w.remote(nbytes, seed=nbytes)
    memory = w.local(nbytes)
    transfer = w.move("read", memory, remote)
    assert np.array_equal(memory, pattern(nbytes, nbytes))
    assert transfer.bytes == nbytes and transfer.prefix == 1 and transfer.status.tolist() == [1]
    assert transfer.seconds > 0


@pytest.mark.parametrize("nbytes", SIZES)
def test_write(w: World, nbytes: int) -> None:
    remote = w.remote(nbytes)
    memory = w.local(nbytes, seed=nbytes)
    before = digest_of(memory)
    w.move("write", memory, remote)
    assert w.at_owner(remote) == before
    assert digest_of(memory) == before, "a write changed its source"


def test_the_link_that_carried_it_is_the_one_expected(w: World) -> None:
    remote = w.remote(8 * MiB, seed=3)
    memory = w.local(8 * MiB)
    before = {row["name"]: row["bytes"] for row in w.peer.links()}
    w.move("read", memory, remote)
    moved = {row["name"]: row["bytes"] - before.get(row["name"], 0) for row in w.peer.links() if row["bytes"]}
    used = {row["transport"] for row in w.peer.links() if moved.get(row["name"])}
    assert used == {w.reach.transport}, w.peer.links()
    assert sum(moved.values()) == 8 * MiB


def test_unaligned_pieces_leave_their_neighbours_alone(w: World) -> None:
    """Odd addresses and odd lengths, in both directions, between bytes that must stay as they are."""
    rng = np.random.default_rng(5)
    nbytes = 3 * MiB
    remote = w.remote(nbytes, seed=1)
    memory = w.local(nbytes)
    memory[:] = 0xEE
    lengths = rng.integers(1, 9000, size=200)
    gaps = rng.integers(1, 300, size=(2, 200))
    ours = np.cumsum(gaps[0] + lengths) - lengths
    theirs = np.cumsum(gaps[1] + lengths) - lengths
    w.move("read", memory, remote, local_offset=ours, remote_offset=theirs, length=lengths)
    expected = np.full(nbytes, 0xEE, dtype=np.uint8)
    source = pattern(1, nbytes)
    for to, offset, length in zip(ours, theirs, lengths, strict=True):
        expected[to : to + length] = source[offset : offset + length]
    assert np.array_equal(memory, expected)

    memory[:] = pattern(2, nbytes)
    w.move("write", memory, remote, local_offset=ours, remote_offset=theirs, length=lengths)
    for to, offset, length in zip(ours, theirs, lengths, strict=True):
        source[offset : offset + length] = memory[to : to + length]
    assert w.at_owner(remote) == digest_of(source)


def test_scatter_and_gather_over_several_segments(w: World) -> None:
    """Ranges in any order, of several remote and local segments, in one intent."""
    nbytes, pieces = 512 * 1024, 64
    remotes = [w.remote(nbytes, seed=10 + i) for i in range(3)]
    memories = [w.local(nbytes), w.local(nbytes)]
    rng = np.random.default_rng(6)
    slots = rng.permutation(2 * pieces)  # of `nbytes // pieces` each, over both local memories
    size = nbytes // pieces
    local = [memories[slot // pieces].ctypes.data + int(slot % pieces) * size for slot in slots]
    chosen = rng.integers(0, 3, size=slots.size)
    offsets = rng.integers(0, nbytes - size, size=slots.size)
    ids = np.array([remotes[i].id for i in chosen], dtype=np.uint32)
    w.engine.read(w.peer, np.array(local, dtype=np.uint64), ids, offsets, size)
    for slot, which, offset in zip(slots, chosen, offsets, strict=True):
        begin = int(slot % pieces) * size
        got = memories[slot // pieces][begin : begin + size]
        assert np.array_equal(got, pattern(10 + int(which), nbytes)[offset : offset + size])


@pytest.mark.parametrize("op", ["read", "write"])
def test_thousands_of_ranges_in_one_intent(w: World, op: str) -> None:
    """More than any attempt may have: they are cut, and order and status are kept."""
    size = 512
    count = 5 * w.stated["max_pieces"] + 1
    remote = w.remote(count * size, seed=4 if op == "read" else None)
    memory = w.local(count * size, seed=None if op == "read" else 4)
    order = np.random.default_rng(7).permutation(count)
    at = order.astype(np.uint64) * np.uint64(size)
    transfer = w.move(op, memory, remote, local_offset=at, remote_offset=at, length=size)
    assert transfer.prefix == count and (transfer.status == 1).all() and not transfer.errors
    expected = digest_of(pattern(4, count * size))
    assert (digest_of(memory) if op == "read" else w.at_owner(remote)) == expected


def test_extents_are_crossed(w: World) -> None:
    """A segment of several extents is one range of bytes to its peers."""
    name = "extents"
    w.owner.allocate(name, 4 * MiB + 4096, extent=MiB)
    remote = w.peer.segment(name)
    w.owner.fill(name, 8)
    memory = w.local(remote.length)
    w.move("read", memory, remote)
    assert digest_of(memory) == w.at_owner(remote)
    w.move("write", memory[: 2 * MiB], remote, remote_offset=MiB - 5)
    assert w.at_owner(remote, MiB - 5, 2 * MiB) == digest_of(memory[: 2 * MiB])
    w.owner.unregister(name)


def test_zeros_need_no_luck(w: World) -> None:
    """A read of zeros over other bytes: what is not sent cannot pass for what is there."""
    remote = w.remote(2 * MiB)
    memory = w.local(2 * MiB, seed=9)
    w.move("read", memory, remote)
    assert not memory.any()


def test_concurrent_submitters(w: World) -> None:
    """Eight threads read and write their own parts of the same segments, each verifying what it reads."""
    threads, rounds, size = 8, 12, 300_001
    remote = w.remote(threads * size)
    memory = w.local(2 * threads * size)

    def work(thread: int) -> None:
        begin = thread * size
        mine = memory[2 * begin : 2 * begin + size]
        back = memory[2 * begin + size : 2 * begin + 2 * size]
        for round in range(rounds):
            mine[:] = pattern(1000 * thread + round, size)
            w.engine.write(w.peer, mine.ctypes.data, remote, begin, size)
            back[:] = 0
            w.engine.read(w.peer, back.ctypes.data, remote, begin, size)
            assert np.array_equal(back, mine), f"thread {thread}, round {round}"

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, thread) for thread in range(threads)]:
            done.result()


def test_many_transfers_at_once(w: World) -> None:
    count, size = 64, 128 * 1024 + 11
    remote = w.remote(count * size, seed=12)
    memory = w.local(count * size)
    transfers = [
        w.submit("read", memory[i * size : (i + 1) * size], remote, remote_offset=i * size)
        for i in range(count)
    ]
    for transfer in transfers:
        transfer.result(60)
    assert np.array_equal(memory, pattern(12, count * size))
