"""Many writers of one owner: their bytes, and what it tells them of how much each may have under way."""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np

from support.peers import PATIENCE, PeerProcess, pattern, until
from support.raw import RawPeer, hello, piece
from support.relay import Rewritten
from tent_core import Engine, Intent, _native

SECRET = "the secret of these tests"
CONFIG = {"shm.enabled": False, "node.bind": ["127.0.0.1"], "cluster.secret": SECRET}
MIB = 1 << 20
CREDITS = 1  # a capability


def test_every_byte_of_many_writers_is_in_its_place() -> None:
    writers, rounds = 7, 6
    with PeerProcess(CONFIG, name="owner") as owner, ExitStack() as stack:
        owner.register("kv", writers * MIB)
        nodes = []
        for number in range(writers):
            engine = stack.enter_context(Engine(CONFIG, name=f"writer{number}"))
            peer = engine.connect(owner.descriptor, PATIENCE)
            memory = pattern(number, MIB)
            engine.register(memory, access="private")
            nodes.append((engine, peer, peer.segment("kv"), memory))
        for _ in range(rounds):
            written = [
                engine.submit(Intent("write", peer, [memory.ctypes.data], segment, [number * MIB], MIB))
                for number, (engine, peer, segment, memory) in enumerate(nodes)
            ]
            for transfer in written:
                transfer.result(PATIENCE)
        data = np.frombuffer(owner.bytes_of("kv"), dtype=np.uint8)
        for number in range(writers):
            assert np.array_equal(data[number * MIB : (number + 1) * MIB], pattern(number, MIB)), number


def told(engine: Engine) -> list[int]:
    """The limits that its sprayer was given, in bytes, as its flight recorder has them."""
    return [
        event[3]
        for segment in _native.read_recording(engine.recording())["segments"]
        for event in segment["events"]
        if event[0] == "window"
    ]


def test_writers_hear_of_their_credits() -> None:
    """What an owner tells many writers reaches the sprayer of each, and no frame of it is lost on the way."""
    writers = 7
    with PeerProcess(CONFIG, name="owner") as owner, ExitStack() as stack:
        owner.register("kv", writers * MIB)
        nodes = []
        for number in range(writers):
            engine = stack.enter_context(Engine(CONFIG, name=f"writer{number}"))
            peer = engine.connect(owner.descriptor, PATIENCE)
            memory = pattern(number, MIB)
            engine.register(memory, access="private")
            nodes.append((engine, peer, peer.segment("kv"), memory))

        def all_told() -> bool:
            for number, (engine, peer, segment, memory) in enumerate(nodes):
                engine.write(peer, memory.ctypes.data, segment, number * MIB, MIB)
            return all(told(engine) for engine, *_ in nodes)

        until(all_told, "word of their credits at all writers")
        for engine, *_ in nodes:
            assert 0 < told(engine)[0] <= 4 * MIB


def test_only_who_understands_them_is_told_of_credits() -> None:
    with PeerProcess(CONFIG, name="owner") as owner, ExitStack() as stack:
        owner.register("kv", MIB)
        host, port, _ = Rewritten.parse(owner.descriptor).rails[0]
        raws = []
        for number in range(7):
            raw = stack.enter_context(RawPeer((host, port)))
            can = CREDITS if number < 5 else 0
            raw.shake(
                hello(
                    incarnation=bytes([number + 1]) * 16, session=bytes([65 + number]) * 16, capabilities=can
                ),
                SECRET,
            )
            raws.append(raw)
        told: dict[int, int] = {}
        attempt, end = 0, time.monotonic() + PATIENCE
        while len(told) < 5 and time.monotonic() < end:
            attempt += 1
            for number, raw in enumerate(raws):
                raw.frame("write", piece(1, number * 65536, 65536), bytes(65536), attempt=attempt)
                # The one kind of frame besides the answer that an owner sends unasked and a peer of version 1 does not
                # know.
                while (answer := raw.take_frame("write_ack", "credit")).kind == "credit":
                    told[number] = answer.aux
                assert answer.code == 0
        assert sorted(told) == [0, 1, 2, 3, 4]
        assert all(0 < window <= 4 * MIB for window in told.values()), told
