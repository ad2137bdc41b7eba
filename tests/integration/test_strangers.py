"""Who may not come in, and what happens to bytes that no peer of ours sends."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from support.peers import PATIENCE, PeerProcess, pattern, until
from support.raw import CODES, CONTROL, DATA, FRAMES, RawPeer, hello, message, piece
from support.relay import Rewritten
from tent_core import Engine
from tent_core.errors import (
    AuthFailed,
    ClusterMismatch,
    ConfigError,
    PeerUnreachable,
    PortInUse,
    ProtocolError,
    SegmentGone,
    TentError,
    VersionMismatch,
)

SECRET = "the secret of these tests"
CONFIG = {
    "shm.enabled": False,
    "node.bind": ["127.0.0.1"],
    "cluster.secret": SECRET,
    "engine.connect_timeout_ms": 1000,
}
SIZE = 64 << 10
AROUND = 4096


@pytest.fixture
def owner() -> Iterator[PeerProcess]:
    with PeerProcess(CONFIG, name="owner") as node:
        node.register("kv", SIZE, around=AROUND)
        node.fill("kv", 1)
        yield node


def address(node: PeerProcess) -> tuple[str, int]:
    host, port, _ = Rewritten.parse(node.descriptor).rails[0]
    return host, port


def still_serves(node: PeerProcess) -> None:
    with Engine(CONFIG) as engine:
        peer = engine.connect(node.descriptor, PATIENCE)
        memory = np.zeros(SIZE, dtype=np.uint8)
        segment = engine.register(memory, access="private")
        engine.read(peer, memory.ctypes.data, peer.segment("kv"), 0, SIZE)
        assert np.array_equal(memory, pattern(1, SIZE))
        segment.close(PATIENCE)


# ---- by mistake -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shm", [False, True], ids=["tcp", "shm"])
def test_a_wrong_secret(shm: bool) -> None:
    config = {**CONFIG, "shm.enabled": shm}
    with PeerProcess(config, name="owner") as node:
        with Engine({**config, "cluster.secret": "another"}) as engine:
            with pytest.raises(AuthFailed, match=r"cluster\.secret") as caught:
                engine.connect(node.descriptor, PATIENCE)
            assert "owner" in str(caught.value)
            assert SECRET not in str(caught.value)
        with Engine(config) as engine:
            assert engine.connect(node.descriptor, PATIENCE).alive


def test_another_cluster(owner: PeerProcess) -> None:
    with Engine({**CONFIG, "cluster.id": "elsewhere"}) as engine:
        with pytest.raises(ClusterMismatch, match=r"cluster\.id"):
            engine.connect(owner.descriptor, PATIENCE)
        # A descriptor that was tampered with changes nothing: the handshake says it again.
        forged = Rewritten.parse(owner.descriptor)
        forged.cluster = "elsewhere"
        with pytest.raises((ClusterMismatch, AuthFailed)):
            engine.connect(forged.encode(), PATIENCE)
    still_serves(owner)


def test_no_secret_and_an_outside_address() -> None:
    with pytest.raises((AuthFailed, ConfigError)) as caught:
        Engine({"shm.enabled": False, "node.bind": ["0.0.0.0"]})
    assert "cluster.secret" in str(caught.value)


def test_a_port_in_use(owner: PeerProcess) -> None:
    port = address(owner)[1]
    with pytest.raises(PortInUse, match=str(port)):
        Engine({**CONFIG, "node.port": port})


def test_nobody_listens() -> None:
    with PeerProcess(CONFIG, name="owner") as node:
        descriptor = node.descriptor
    with Engine(CONFIG) as engine:
        with pytest.raises(PeerUnreachable, match="owner"):
            engine.connect(descriptor, PATIENCE)
        silent = socket.create_server(("127.0.0.1", 0))
        forged = Rewritten.parse(descriptor)
        forged.rails = [("127.0.0.1", silent.getsockname()[1], "lo")]
        with pytest.raises(PeerUnreachable, match="owner"):
            engine.connect(forged.encode())  # accepted by the kernel, answered by nobody
        silent.close()


def test_an_address_that_leads_to_another_node(owner: PeerProcess) -> None:
    with PeerProcess(CONFIG, name="neighbour") as neighbour, Engine(CONFIG) as engine:
        forged = Rewritten.parse(owner.descriptor)
        forged.rails = Rewritten.parse(neighbour.descriptor).rails
        with pytest.raises(TentError) as caught:
            engine.connect(forged.encode(), PATIENCE)
        assert "neighbour" in str(caught.value)


def test_descriptors_that_are_none(owner: PeerProcess) -> None:
    whole = owner.descriptor
    rng = np.random.default_rng(1)
    with Engine(CONFIG) as engine:
        for blob in [b"", b"TENT", os.urandom(200), whole[:-1], whole + b"x", whole[:30]]:
            with pytest.raises(ProtocolError):
                engine.connect(blob)
        newer = Rewritten.parse(whole)
        newer.version = 2
        with pytest.raises(VersionMismatch, match="2"):
            engine.connect(newer.encode())
        for _ in range(300):  # whatever one byte says, it is refused or read: nothing worse
            broken = bytearray(whole)
            broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
            try:
                Engine.describe(bytes(broken))
            except (ProtocolError, VersionMismatch):
                pass


# ---- on purpose -----------------------------------------------------------------------------------------------------


def test_a_peer_of_the_next_version(owner: PeerProcess) -> None:
    with RawPeer(address(owner)) as raw:
        raw.send(hello(versions=(2, 2)))
        code, why = raw.rejection()
        assert code == CODES["version_mismatch"] and "version" in why
        assert raw.closed()
    with RawPeer(address(owner)) as raw:  # one that speaks both is welcome
        raw.shake(hello(versions=(1, 2), incarnation=b"r" * 16), SECRET)
        raw.frame("segments", attempt=1)
        assert raw.take_frame("segment_table").attempt == 1
    still_serves(owner)


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: tent\r\n\r\n",
        bytes(64),
        b"TENT\xff\xff" + bytes(70_000),
        b"TENT\x00\x00",
        message(b"\x03" + bytes(32)),  # a PROOF out of turn
        message(b"\x01" + bytes(3)),
        struct.pack("<IBBHQQQ", 0, FRAMES["read"], 0, 0, 1, 0, 0),
    ],
    ids=["http", "zeros", "oversize", "empty", "out-of-turn", "short-hello", "frame-first"],
)
def test_bytes_that_are_no_handshake(owner: PeerProcess, first: bytes) -> None:
    with RawPeer(address(owner)) as raw:
        try:
            raw.send(first)
        except ConnectionError:
            pass
        assert raw.closed()
    still_serves(owner)


def test_a_peer_that_cannot_prove_the_secret(owner: PeerProcess) -> None:
    with RawPeer(address(owner)) as raw:
        with pytest.raises((AssertionError, ConnectionError)):
            raw.shake(hello(), "guessed")
        assert raw.closed()
    # An owner's own proof, sent back to it, is not one of ours.
    with RawPeer(address(owner)) as raw:
        first = hello()
        raw.send(first)
        reply = raw.take_message()
        raw.send(message(b"\x03" + reply[-32:]))
        assert raw.rejection()[0] == CODES["auth_failed"]
        assert raw.closed()
    # A recorded conversation, played again: the owner's nonce is a fresh one.
    with RawPeer(address(owner)) as raw:
        first = hello(incarnation=b"r" * 16)
        raw.shake(first, SECRET)
        proof = message(b"\x03" + raw._proof(SECRET))
    with RawPeer(address(owner)) as raw:
        raw.send(first)
        raw.take_message()
        raw.send(proof)
        assert raw.rejection()[0] == CODES["auth_failed"]
    still_serves(owner)


def test_strangers_are_bounded_in_number_and_time(owner: PeerProcess) -> None:
    """Half a handshake, hundreds of times: they are shown the door, and those with a key come in."""
    before = owner.metrics()["handshakes_refused"]
    crowd = []
    for number in range(200):
        raw = RawPeer(address(owner))
        raw.send(b"TEN" if number % 2 else b"")
        crowd.append(raw)
    assert len(os.listdir(f"/proc/{owner.pid}/fd")) < 200, "every stranger was taken in"
    assert all(raw.closed() for raw in crowd), "strangers may stay for ever"
    for raw in crowd:
        raw.close()
    until(lambda: owner.metrics()["handshakes_refused"] >= before + 200, "count of the refused")
    still_serves(owner)


def test_frames_that_no_peer_sends(owner: PeerProcess) -> None:
    """From an authenticated peer, too: the connection ends, the owner goes on."""
    broken = [
        struct.pack("<IBBHQQQ", 0, 99, 0, 0, 0, 0, 0),  # unknown type
        struct.pack("<IBBHQQQ", 1 << 30, FRAMES["read"], 0, 0, 1, 0, 0),  # a body of 1 GiB
        struct.pack("<IBBHQQQ", 24, FRAMES["write"], 0, 0, 1, 1 << 40, 0) + piece(1, 0, 1 << 40),
        struct.pack("<IBBHQQQ", 0, FRAMES["write"], 0, 0, 1, 64, 0) + bytes(64),  # no pieces
        struct.pack("<IBBHQQQ", 24, FRAMES["write"], 0, 0, 1, 64, 0) + piece(1, 0, 65) + bytes(64),
        struct.pack("<IBBHQQQ", 23, FRAMES["read"], 0, 0, 1, 0, 0) + bytes(23),
        struct.pack("<IBBHQQQ", 0, FRAMES["token"], 0, 0, 1, 0, 0),  # an owner's frame
        struct.pack("<IBBHQQQ", 7, FRAMES["revoke"], 0, 0, 1, 0, 0) + bytes(7),
    ]
    for number, data in enumerate(broken):
        with RawPeer(address(owner)) as raw:
            raw.shake(hello(incarnation=bytes([number + 1]) * 16), SECRET)
            raw.send(data)
            assert raw.closed(), f"broken frame {number} was taken"
    with RawPeer(
        address(owner)
    ) as raw:  # a data connection of a session that does not exist, with more behind it
        raw.shake(hello(purpose=DATA, session=b"?" * 16, incarnation=b"q" * 16), SECRET)
        raw.send(broken[0])
        assert raw.closed()
    still_serves(owner)


def test_a_copy_under_the_number_of_one_under_way() -> None:
    """Whoever waits for the end of the first copy would be told of the second one's: the connection ends instead."""
    size = 64 << 20
    source = np.ones(size, dtype=np.uint8)
    with PeerProcess({"node.bind": ["127.0.0.1"], "cluster.secret": SECRET}, name="owner") as node:
        node.register("kv", size)
        with RawPeer(Rewritten.parse(node.descriptor).unix_name) as raw:
            raw.shake(hello(purpose=CONTROL, incarnation=b"p" * 16), SECRET)
            body = piece(1, 0, size) + struct.pack("<Q", source.ctypes.data)
            raw.frame("pull", body, attempt=1)
            assert raw.take_frame("write_ack").code == CODES["ok"]
            pull = struct.pack("<IBBHQQQ", len(body), FRAMES["pull"], 0, 0, 2, 0, 0) + body
            raw.send(2 * pull)  # both are taken at once
            with pytest.raises(ConnectionError):
                for _ in range(2):
                    raw.take_frame("write_ack")


@pytest.fixture
def inside(owner: PeerProcess) -> Iterator[RawPeer]:
    """An authenticated peer that asks for whatever it likes."""
    with RawPeer(address(owner)) as raw:
        raw.shake(hello(purpose=CONTROL, incarnation=b"i" * 16), SECRET)
        yield raw


@pytest.mark.protects("bounds")
@pytest.mark.parametrize(("offset", "length"), [(SIZE, 64), (SIZE - 8, 16), (2**63, 64)])
def test_invariant_6_no_byte_outside_a_segment(
    owner: PeerProcess, inside: RawPeer, offset: int, length: int
) -> None:
    """Beside the segment lies memory of the owner's own; a peer that skips every check of ours asks for it."""
    inside.frame("segments", attempt=1)
    inside.take_frame("segment_table")
    before = owner.bytes_of("kv/whole")
    inside.frame("read", piece(1, offset, length), attempt=10)
    answer = inside.take_frame("data", "read_fail")
    assert answer.kind == "read_fail" and answer.code == CODES["out_of_range"], answer
    inside.frame("write", piece(1, offset, length), b"\xee" * length, attempt=11)
    answer = inside.take_frame("write_ack")
    assert answer.code == CODES["out_of_range"], answer
    assert owner.bytes_of("kv/whole") == before
    still_serves(owner)


def test_invariant_6_nothing_that_was_not_granted(owner: PeerProcess, inside: RawPeer) -> None:
    """Private, read-only, write-only and freed segments, by their numbers."""
    owner.register("private", 4096, "private")  # number 2
    owner.register("r", 4096, "r")
    owner.register("w", 4096, "w")
    owner.register("freed", 4096)
    owner.unregister("freed")
    inside.frame("segments", attempt=1)
    table = inside.take_frame("segment_table").body
    assert b"private" not in table and b"freed" not in table
    for attempt, (kind, segment, expected) in enumerate(
        [
            ("read", 2, "segment_gone"),
            ("write", 2, "segment_gone"),
            ("write", 3, "permission_denied"),
            ("read", 4, "permission_denied"),
            ("read", 5, "segment_gone"),
            ("write", 5, "segment_gone"),
            ("read", 77, "segment_gone"),
        ],
        start=10,
    ):
        payload = b"\xee" * 64 if kind == "write" else b""
        inside.frame(kind, piece(segment, 0, 64), payload, attempt=attempt)
        answer = inside.take_frame("write_ack", "read_fail", "data")
        assert (answer.kind, answer.attempt) == ("write_ack" if kind == "write" else "read_fail", attempt)
        assert answer.code == CODES[expected], (kind, segment, answer)
    for name in ("private", "r", "w"):
        assert not any(owner.bytes_of(name))
    still_serves(owner)


def test_a_private_segment_is_hidden_from_engines_too(owner: PeerProcess) -> None:
    owner.register("private", 4096, "private")
    with Engine(CONFIG) as engine:
        peer = engine.connect(owner.descriptor, PATIENCE)
        assert set(peer.segments()) == {"kv"}
        with pytest.raises(SegmentGone, match="private"):
            peer.segment("private")
