"""Pages put into another node's memory: what is lent to whom, and what becomes of it when the writer goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.raw import CODES, DATA, RawPeer, hello, piece
from support.relay import Rewritten
from support.stores import Client, Open, Server, all_are, names, wait_for
from tent_core import Engine, _native
from tent_core.errors import PermissionDenied
from tent_core.store import PageStatus, PageStore
from tent_core.store.lookup import Messages

_SECRET = "only for this test"
_WRITER = """
import json, sys
sys.path.insert(0, sys.argv[2])
from support.stores import Client, names
from tent_core.store import PageStore
store = PageStore.open(json.loads(sys.argv[1]))
client = Client(store)
print(json.dumps(client.put(names(5), node=sys.argv[3]).tolist()), flush=True)
sys.stdin.read()
store.close()
"""


@pytest.fixture(params=["shm", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Writer:
    """A process that has put five pages into `owner` and holds what is left of its loan."""

    def __init__(self, server: Server, owner: PageStore, transport: str) -> None:
        settings = {
            "directory.url": server.url,
            "directory.timeout_ms": 2000,
            "store.capacity": 0,
            "shm.enabled": transport == "shm",
        }
        command = [
            sys.executable,
            "-c",
            _WRITER,
            json.dumps(settings),
            str(Path(__file__).parents[1]),
            owner.node_name,
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the writer's process ended early; its error is above"
        self.status = json.loads(line)

    def close(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture
def owner(open_store: Open) -> PageStore:
    return open_store(engine__session_lease_ms=1000)


@pytest.fixture
def writer(server: Server, owner: PageStore, transport: str) -> Iterator[Writer]:
    made = Writer(server, owner, transport)
    yield made
    if made.process.poll() is None:
        os.kill(made.process.pid, signal.SIGCONT)
    made.process.kill()
    made.process.communicate()


def _extents(store: PageStore, state: str) -> int:
    return int(store.stats()[f"{state}_extents"])


def test_pages_put_into_another_node_are_whole_there(owner: PageStore, writer: Writer) -> None:
    assert writer.status == [PageStatus.STORED] * 5
    assert _extents(owner, "lent") == 1
    reader = Client(owner)
    assert all_are(reader.get(names(5)), PageStatus.HIT)
    assert reader.verify(names(5))
    writer.close()
    wait_for(lambda: _extents(owner, "lent") == 0, "the loan is given back")
    assert _extents(owner, "quarantined") == 0
    assert all_are(reader.get(names(5)), PageStatus.HIT)


def test_a_killed_writers_loan_comes_back_and_its_pages_stay(owner: PageStore, writer: Writer) -> None:
    writer.process.kill()
    writer.process.communicate()
    wait_for(
        lambda: _extents(owner, "lent") + _extents(owner, "quarantined") == 0,
        "the dead writer's loan is taken back",
    )
    reader = Client(owner)
    assert all_are(reader.get(names(5)), PageStatus.HIT)
    assert reader.verify(names(5))


@pytest.mark.protects("quarantine")
@pytest.mark.parametrize("transport", ["shm"], indirect=True)
def test_invariant_2_a_stopped_writers_loan_is_not_reused_before_it_is_gone(
    owner: PageStore, writer: Writer
) -> None:
    """It may be stopped inside a copy, and wakes with the rest of it to write."""
    writer.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: _extents(owner, "lent") == 0, "the session's lease runs out")
    free = int(owner.stats()["free_extents"])
    filler = Client(owner)
    for round_ in range(40):  # all of the store, several times over: nothing else is left to reuse
        filler.put(names(48, f"r{round_}-"))
    assert _extents(owner, "quarantined") == 1, f"{free} extents were free"
    writer.process.kill()
    writer.process.send_signal(signal.SIGCONT)
    writer.process.communicate()
    wait_for(lambda: _extents(owner, "quarantined") == 0, "the writer is proven gone")


@pytest.mark.protects("grant")
def test_invariant_6_a_peer_writes_only_what_is_lent_to_it(owner: PageStore, transport: str) -> None:
    """A node that speaks the protocol well and aims at pages that are not its own."""
    client = Client(owner)
    keys = names(30)
    assert all_are(client.put(keys), PageStatus.STORED)
    with Engine({"shm.enabled": transport == "shm"}) as stranger:
        peer = stranger.connect(owner.engine.descriptor())
        (pool,) = [s for s in peer.segments().values() if s.length >= 16 << 20]
        junk = stranger.register(np.full(64 << 10, 0xEE, dtype=np.uint8))
        for offset in range(0, pool.length - junk.nbytes, 1 << 20):
            with pytest.raises(PermissionDenied, match="not lent to you"):
                stranger.write(peer, junk.address, pool, offset, junk.nbytes)
        peer.close()
    assert all_are(client.get(keys), PageStatus.HIT)
    assert client.verify(keys)


def _borrow(raw: RawPeer) -> tuple[int, int, int, int, int]:
    """(number, segment, epoch, offset, length) of a loan."""
    raw.frame("call", _native.lend_request(1 << 16, 1 << 16), attempt=1, aux=Messages.LEND)
    code, number, segment, _extent, epoch, offset, length = _native.lent_reply(raw.take_frame("reply").body)
    assert code == PageStatus.STORED
    return number, segment, epoch, offset, length


@pytest.mark.protects("grant")
def test_invariant_6_a_write_under_way_ends_with_its_loan(open_store: Open) -> None:
    """The loan is given back in the middle of a write's payload: the rest of it does not land."""
    store = open_store(node__bind=["127.0.0.1"], cluster__secret=_SECRET)
    rail = Rewritten.parse(store.engine.descriptor()).rails[0]
    expect = (store.engine.name, store.engine.incarnation)
    with RawPeer(rail[:2]) as control, RawPeer(rail[:2]) as data:
        control.shake(hello(expect=expect), _SECRET)
        data.shake(hello(expect=expect, purpose=DATA), _SECRET)
        number, segment, epoch, offset, length = _borrow(control)
        half = (length - 64) // 2
        pool = next(s for s in store.engine._segments.values() if s.id == segment).view
        body = piece(segment, offset + 64, 2 * half, epoch)
        data.frame("write", body, bytes([0xAA]) * half, attempt=2, payload_bytes=2 * half)
        wait_for(lambda: pool[offset + 64 + half - 1] == 0xAA, "the first half lands")
        control.frame("call", _native.give_back_request(number), attempt=3, aux=Messages.GIVE_BACK)
        control.take_frame("reply")
        data.send(bytes([0xBB]) * half)
        data.frame("write", body, bytes([0xCC]) * 2 * half, attempt=4)
        refused = data.take_frame("write_ack")
        assert (refused.attempt, refused.code) == (4, CODES["permission_denied"])
        assert not np.isin(pool[offset : offset + length], [0xBB, 0xCC]).any()
