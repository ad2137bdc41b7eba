"""What is refused, by which error, and that nothing else of the intent suffers for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.peers import PATIENCE, digest_of, pattern
from support.reach import World
from tent_core import Engine, Intent, _native
from tent_core.errors import (
    CheckFailed,
    Closed,
    InvalidArgument,
    OutOfRange,
    OverlappingRanges,
    PermissionDenied,
    ReadOnlyBuffer,
    SegmentGone,
    TentError,
    Unregistered,
    Unsupported,
)

SIZE = 256 * 1024


def refused(w: World, error: type[TentError], op: str, memory: Any, remote: Any, **options: Any) -> str:
    """The intent is refused with ``error``: by submit, or as its result. Answers with the message."""
    with pytest.raises(error) as caught:
        w.submit(op, memory, remote, **options).result(PATIENCE)
    return str(caught.value)


@pytest.mark.parametrize("op", ["read", "write"])
def test_one_bad_range_fails_alone(w: World, op: str) -> None:
    """Past the end in the middle of good ranges: its status and error only; the prefix ends before it."""
    remote = w.remote(10 * SIZE, seed=1 if op == "read" else None)
    memory = w.local(10 * SIZE, seed=None if op == "read" else 1)
    before = memory.copy()
    at = np.arange(10, dtype=np.uint64) * np.uint64(SIZE)
    offsets = at.copy()
    offsets[6] += np.uint64(10 * SIZE)
    transfer = w.submit(op, memory, remote, local_offset=at, remote_offset=offsets, length=SIZE)
    with pytest.raises(OutOfRange):
        transfer.result(PATIENCE)
    assert transfer.status.tolist() == [1] * 6 + [2] + [1] * 3
    assert transfer.prefix == 6
    assert list(transfer.errors) == [6] and isinstance(transfer.errors[6], OutOfRange)
    good = np.ones(10 * SIZE, dtype=bool)
    good[6 * SIZE : 7 * SIZE] = False
    moved = memory if op == "read" else np.frombuffer(w.owner.bytes_of(remote.name), dtype=np.uint8)
    source = pattern(1, 10 * SIZE)
    assert np.array_equal(moved[good], source[good])
    assert np.array_equal(moved[~good], (before if op == "read" else np.zeros_like(before))[~good])


@pytest.mark.parametrize("op", ["read", "write"])
def test_a_segment_that_is_gone_fails_alone(w: World, op: str) -> None:
    kept, freed = w.remote(SIZE, seed=2), w.remote(SIZE, seed=3)
    w.gone(freed)
    memory = w.local(2 * SIZE)
    transfer = w.submit(
        op,
        memory,
        np.array([freed.id, kept.id], dtype=np.uint32),
        local_offset=[0, SIZE],
        remote_offset=[0, 0],
        length=SIZE,
    )
    with pytest.raises(SegmentGone):
        transfer.result(PATIENCE)
    assert transfer.status.tolist() == [2, 1] and transfer.prefix == 0
    assert isinstance(transfer.errors[0], SegmentGone)
    if op == "read":
        assert np.array_equal(memory[SIZE:], pattern(2, SIZE))
    else:
        assert w.at_owner(kept) == digest_of(memory[SIZE:])


@pytest.mark.parametrize("op", ["read", "write"])
@pytest.mark.parametrize(
    ("offset", "length"), [(SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (2**63, SIZE), (2**64 - 4096, 4096)]
)
def test_invariant_6_past_the_end(w: World, op: str, offset: int, length: int) -> None:
    remote = w.remote(SIZE, seed=4)
    memory = w.local(2 * SIZE)
    refused(
        w,
        OutOfRange,
        op,
        memory,
        remote,
        remote_offset=np.array([offset], dtype=np.uint64),
        length=length,
    )
    if (
        offset >= SIZE - 1
    ):  # what begins inside may move in part: then the destination's contents are undefined
        assert not memory[2:].any() and w.at_owner(remote, 0, SIZE - 1) == digest_of(pattern(4, SIZE - 1))


@pytest.mark.parametrize("op", ["read", "write"])
def test_rights_are_what_the_owner_said(w: World, op: str) -> None:
    allowed, denied = ("r", "w") if op == "read" else ("w", "r")
    memory = w.local(SIZE, seed=5)
    remote = w.remote(SIZE, seed=6, access=denied)
    assert remote.rights == denied
    message = refused(w, PermissionDenied, op, memory, remote)
    assert remote.name in message or str(remote.id) in message
    assert w.at_owner(remote) == digest_of(pattern(6, SIZE))
    w.move(op, memory, w.remote(SIZE, seed=6, access=allowed))


def test_private_segments_are_not_seen(w: World) -> None:
    remote = w.remote(SIZE, seed=7)
    name = "hidden"
    make = w.owner.allocate if w.reach.kind == "memfd" else w.owner.register
    make(name, SIZE, "private")
    with pytest.raises(SegmentGone):
        w.peer.segment(name)
    memory = w.local(SIZE)
    refused(w, SegmentGone, "read", memory, remote.id + 1)
    assert not memory.any()
    w.owner.unregister(name)


def test_unknown_segment_id(w: World) -> None:
    refused(w, SegmentGone, "read", w.local(SIZE), 1 << 30)
    refused(w, SegmentGone, "write", w.local(SIZE), 1 << 30)


def test_unregistered_local_memory(w: World) -> None:
    remote = w.remote(SIZE)
    stray = np.zeros(SIZE, dtype=np.uint8)
    message = refused(w, Unregistered, "read", stray, remote)
    assert "register()" in message
    memory = w.local(SIZE)
    refused(w, Unregistered, "write", memory, remote, local_offset=[1], length=SIZE)


@pytest.mark.parametrize("op", ["read", "write"])
def test_lengths_that_make_no_sense(w: World, op: str) -> None:
    remote = w.remote(SIZE)
    memory = w.local(SIZE)
    refused(w, InvalidArgument, op, memory, remote, length=0)
    refused(
        w, InvalidArgument, op, memory, remote, local_offset=[0, 64], remote_offset=[0, 64], length=[8, 0]
    )
    refused(w, InvalidArgument, op, memory, remote, length=-1)
    refused(w, InvalidArgument, op, memory, remote, remote_offset=-1)
    refused(w, InvalidArgument, op, memory, remote, length=np.array([-5]))
    refused(w, InvalidArgument, op, memory, remote, remote_offset=np.array([-5]), length=1)
    refused(w, InvalidArgument, op, memory, remote, local_offset=[0, 8], remote_offset=[0], length=8)
    refused(w, InvalidArgument, op, memory, remote, local_offset=[], remote_offset=[], length=8)
    refused(w, InvalidArgument, op, memory, remote, deadline=0)
    refused(w, InvalidArgument, op, memory, remote, priority="urgent")
    refused(w, InvalidArgument, op, memory, remote, group=[0, 1])
    with pytest.raises(InvalidArgument):
        w.engine.submit(Intent("move", w.peer, [memory.ctypes.data], remote, [0], 8))


@pytest.mark.parametrize("op", ["read", "write"])
def test_overlapping_destinations_within_an_intent(w: World, op: str) -> None:
    remote = w.remote(SIZE)
    memory = w.local(SIZE)
    apart, close = [0, 1024], [0, 1023]
    ours, theirs = (close, apart) if op == "read" else (apart, close)
    refused(w, OverlappingRanges, op, memory, remote, local_offset=ours, remote_offset=theirs, length=1024)
    # The same source twice is nobody's business.
    ours, theirs = (apart, [0, 0]) if op == "read" else ([0, 0], apart)
    w.move(op, memory, remote, local_offset=ours, remote_offset=theirs, length=1024)


@pytest.mark.parametrize("op", ["read", "write"])
def test_overlapping_destinations_of_live_transfers(w: World, op: str) -> None:
    """Refused while the first is live, welcome once it is released."""
    remote = w.remote(2 * SIZE, seed=8)
    memory = w.local(2 * SIZE, seed=9)
    with w.owner.stopped():
        first = w.submit(op, memory[:SIZE], remote)
        if first.released:
            return  # mapped already: nothing of it was ever in flight
        where = (
            {"remote_offset": SIZE - 1}
            if op == "write"
            else {"remote_offset": SIZE, "local_offset": SIZE - 1}
        )
        refused(w, OverlappingRanges, op, memory, remote, length=16, **where)
    first.result(PATIENCE)
    assert first.wait_released(PATIENCE)
    w.move(op, memory, remote, length=16, **where)


def test_read_only_memory_is_no_destination(w: World) -> None:
    remote = w.remote(SIZE, seed=10)
    source = pattern(11, SIZE).tobytes()
    segment = w.engine.register(source, access="private")
    view = np.frombuffer(source, dtype=np.uint8)
    refused(w, ReadOnlyBuffer, "read", view, remote)
    assert digest_of(source) == digest_of(pattern(11, SIZE))
    w.move("write", view, remote)
    assert w.at_owner(remote) == digest_of(source)
    segment.close(PATIENCE)


@pytest.mark.protects("check")
def test_a_wrong_check_fails_that_range_alone(w: World) -> None:
    """Checks are page checks seeded with zeros. The bytes that fail theirs are not called good."""
    count, size = 5, 70_000
    remote = w.remote(count * size, seed=12)
    memory = w.local(count * size)
    source = pattern(12, count * size)
    at = np.arange(count, dtype=np.uint64) * np.uint64(size)
    checks = np.array(
        [_native.page_check(bytes(16), source.ctypes.data + int(i), size) for i in at], dtype=np.uint64
    )
    good = w.move("read", memory, remote, local_offset=at, remote_offset=at, length=size, checks=checks)
    assert good.prefix == count
    checks[3] ^= np.uint64(1)
    bad = w.submit("read", memory, remote, local_offset=at, remote_offset=at, length=size, checks=checks)
    with pytest.raises(CheckFailed):
        bad.result(PATIENCE)
    assert bad.status.tolist() == [1, 1, 1, 2, 1] and bad.prefix == 3
    assert list(bad.errors) == [3]


def test_what_is_not_built_is_refused_by_name(w: World) -> None:
    remote = w.remote(SIZE)
    memory = w.local(SIZE)
    checks = np.zeros(1, dtype=np.uint64)
    assert "alternatives" in refused(
        w, Unsupported, "read", memory, remote, alternatives=[(w.peer, remote.id, 0)]
    )
    assert "check" in refused(w, Unsupported, "write", memory, remote, checks=checks)


def test_registration_is_checked(w: World) -> None:
    memory = np.zeros(8192, dtype=np.uint8)
    with pytest.raises(InvalidArgument):
        w.engine.register(memory[:0])
    with pytest.raises(InvalidArgument):
        w.engine.register(memory[::2])
    with pytest.raises(InvalidArgument):
        w.engine.register(object())
    with pytest.raises(InvalidArgument):
        w.engine.register((0, 4096))
    with pytest.raises(InvalidArgument):
        w.engine.register((memory.ctypes.data, -1))
    with pytest.raises(InvalidArgument):
        w.engine.allocate(0)
    with pytest.raises(InvalidArgument):
        w.engine.allocate(-4096)
    with pytest.raises(InvalidArgument):
        w.engine.allocate(4096, access="all")
    with pytest.raises(ReadOnlyBuffer):
        w.engine.register(bytes(4096), access="w")
    first = w.engine.register(memory, access="private")
    with pytest.raises(OverlappingRanges):
        w.engine.register(memory[100:200], access="private")
    first.close()
    with pytest.raises(SegmentGone):
        _ = first.view
    w.engine.register(memory, access="private").close()


def test_a_closed_engine_says_so(w: World) -> None:
    engine = Engine(w.config)
    peer = engine.connect(w.owner.descriptor, PATIENCE)
    remote = w.remote(SIZE)
    memory = np.zeros(SIZE, dtype=np.uint8)
    engine.register(memory, access="private")
    engine.close()
    engine.close()
    for call in (
        lambda: engine.submit(Intent("read", peer, [memory.ctypes.data], remote, [0], SIZE)),
        lambda: engine.connect(w.owner.descriptor),
        lambda: engine.allocate(4096),
        lambda: engine.register(memory),
    ):
        with pytest.raises(Closed):
            call()
    assert not peer.alive
