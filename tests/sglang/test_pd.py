"""Prefill/decode hand-offs at the level of SGLang's calls: what arrives, what is refused, and what fences what."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from support.pd_process import SIZE, Side
from support.peers import pattern, until
from support.relay import Relay, Rewritten, rewrite
from tent_sglang.pd_channel import Fetch
from tent_sglang.pd_engine import GrantedSession, TentTransferEngine

CONFIG = {
    "engine.session_lease_ms": 60_000,
    "engine.connect_timeout_ms": 10_000,
    "shm.enabled": False,
    "node.bind": ["127.0.0.1"],
}
BLOCK = 64 << 10
EVERYTHING = list(range(0, SIZE, BLOCK))


class Decode:
    """This process: its engine and its memory."""

    def __init__(self, **config: object) -> None:
        self.engine = TentTransferEngine("127.0.0.1", config={**CONFIG, **config})
        self.memory = np.zeros(SIZE, dtype=np.uint8)
        self.at = self.memory.ctypes.data
        assert self.engine.batch_register([self.at], [SIZE]) == 0

    def grant(self, room: int, offsets: list[int], length: int = BLOCK) -> bytes:
        starts = np.array([self.at + at for at in offsets], dtype=np.uint64)
        return self.engine.grant(room, starts, np.full(len(starts), length, dtype=np.uint64))

    def addresses(self, offsets: list[int]) -> list[int]:
        return [self.at + at for at in offsets]


@pytest.fixture
def decode() -> Iterator[Decode]:
    made = Decode()
    yield made
    made.engine.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Side]]:
    made: list[Side] = []

    def one(**config: object) -> Side:
        made.append(Side(**{**CONFIG, **config}))
        return made[-1]

    yield one
    for side in made:
        side.close()


@pytest.fixture
def prefill(start: Callable[..., Side]) -> Side:
    side = start()
    side.ask("pattern", 1)
    return side


def block(number: int) -> bytes:
    return pattern(1, SIZE)[number * BLOCK : (number + 1) * BLOCK].tobytes()


def test_blocks_arrive_where_sglang_says_and_nowhere_else(decode: Decode, prefill: Side) -> None:
    wanted = [2 * BLOCK, 5 * BLOCK]
    grant = decode.grant(7, wanted)
    session = decode.engine.get_session_id()
    assert prefill.ask("probe", session) == 0
    for number, at in ((9, 0), (4, 1)):  # chunk by chunk, as a request's layers come
        assert (
            prefill.ask(
                "write", session, grant, [number * BLOCK], decode.addresses(wanted[at : at + 1]), BLOCK
            )
            == 0
        )
    assert decode.memory[wanted[0] :][:BLOCK].tobytes() == block(9)
    assert decode.memory[wanted[1] :][:BLOCK].tobytes() == block(4)
    rest = np.delete(decode.memory, np.r_[2 * BLOCK : 3 * BLOCK, 5 * BLOCK : 6 * BLOCK])
    assert not rest.any()


def test_neighbouring_pages_may_come_as_one_range(decode: Decode, prefill: Side) -> None:
    grant = decode.grant(7, [BLOCK, 2 * BLOCK, 0])
    assert prefill.ask("write", decode.engine.session_id, grant, [0], decode.addresses([0]), 3 * BLOCK) == 0
    assert decode.memory[: 3 * BLOCK].tobytes() == pattern(1, SIZE)[: 3 * BLOCK].tobytes()


def test_invariant_6_only_what_was_granted_is_filled(decode: Decode, prefill: Side) -> None:
    grant = decode.grant(7, [2 * BLOCK, 5 * BLOCK])
    session = decode.engine.session_id
    for named in (None, bytes(16)):
        assert prefill.ask("write", session, named, [0], decode.addresses([2 * BLOCK]), BLOCK) == -1
    for at in (2 * BLOCK - 1, 2 * BLOCK + 1, 3 * BLOCK, SIZE):
        assert prefill.ask("write", session, grant, [0], decode.addresses([at]), BLOCK) == -1, at
    assert not decode.memory.any()


def test_what_comes_for_a_request_that_has_ended_is_not_the_next_ones(decode: Decode, prefill: Side) -> None:
    """The blocks have the same addresses; SGLang's call says nothing of the request."""
    old = decode.grant(1, [0])
    decode.engine.end(1)
    decode.memory[:] = 0x55
    decode.grant(2, [0])
    late = prefill.ask("write", decode.engine.session_id, old, [0], decode.addresses([0]), BLOCK)
    assert late == 0, "nobody wants it: no reason to take the decode server for dead"
    assert (decode.memory == 0x55).all()


def in_the_middle(decode: Decode, prefill: Side, relay: Relay, grant: bytes) -> None:
    """A transfer of everything, some of whose bytes are held on their way."""
    prefill.ask("reached_by", rewrite(prefill.descriptor, [relay]))
    session = decode.engine.session_id
    assert prefill.ask("write", session, grant, [0], decode.addresses([0]), BLOCK) == 0  # connected
    relay.hold("to_client", after=200_000)
    relay.release(connection=0)  # the control connection
    prefill.send("write", session, grant, EVERYTHING, decode.addresses(EVERYTHING), BLOCK)
    until(lambda: relay.waiting("to_client") > 0, "bytes under way")


def relay_to(side: Side, rail: int = 0) -> Relay:
    return Relay(Rewritten.parse(side.descriptor).rails[rail][:2])


def test_invariant_2_no_block_is_filled_after_its_request_was_aborted(decode: Decode, prefill: Side) -> None:
    """Stopped in the middle, aborted, reused, woken."""
    grant = decode.grant(7, EVERYTHING)
    with relay_to(prefill) as relay:
        in_the_middle(decode, prefill, relay, grant)
        prefill.stop()
        decode.engine.end(7)  # waits for no other process
        decode.memory[:] = 0x55
        relay.release()
        prefill.go_on()
        assert prefill.answer() == 0, "it is not wanted any more"
        assert (decode.memory == 0x55).all()
        again = decode.grant(8, [0])
        assert prefill.ask("write", decode.engine.session_id, again, [0], decode.addresses([0]), BLOCK) == 0


def test_a_prefill_server_that_dies_in_the_middle_leaves_the_blocks_free(
    decode: Decode, prefill: Side
) -> None:
    grant = decode.grant(7, EVERYTHING)
    with relay_to(prefill) as relay:
        in_the_middle(decode, prefill, relay, grant)
        prefill.kill()
        decode.engine.end(7)
        decode.memory[:] = 0x55
        relay.release()
    assert (decode.memory == 0x55).all()
    assert len(decode.engine.grants) == 0


def test_a_decode_server_that_dies_fails_the_call(start: Callable[..., Side]) -> None:
    prefill, decode = start(), start()
    grant = decode.ask("grant", 7, [decode.address], SIZE)
    with relay_to(prefill) as relay:
        prefill.ask("reached_by", rewrite(prefill.descriptor, [relay]))
        assert prefill.ask("write", decode.session, grant, [0], [decode.address], BLOCK) == 0
        relay.hold("to_client", after=200_000)
        relay.release(connection=0)
        prefill.send("write", decode.session, grant, [0], [decode.address], SIZE)
        until(lambda: relay.waiting("to_client") > 0, "bytes under way")
        decode.kill()
        assert prefill.answer() == -1
    assert prefill.ask("probe", decode.session) == -1


def test_a_decode_server_that_stands_still_holds_nobody_for_ever(start: Callable[..., Side]) -> None:
    prefill, decode = start(**{"engine.deadline_ms": 300}), start()
    grant = decode.ask("grant", 7, [decode.address], SIZE)
    decode.stop()
    assert prefill.ask("write", decode.session, grant, [0], [decode.address], BLOCK) == -1
    decode.go_on()
    until(lambda: prefill.ask("probe", decode.session) == 0, "answer of the decode server")


def test_a_rail_that_is_cut_in_the_middle_costs_nothing_but_time(start: Callable[..., Side]) -> None:
    rails = {"node.bind": ["127.0.0.1", "127.0.0.2"]}
    decode, prefill = Decode(**rails), start(**rails)
    try:
        prefill.ask("pattern", 3)
        grant = decode.grant(7, EVERYTHING)
        with relay_to(prefill, 0) as first, relay_to(prefill, 1) as second:
            prefill.ask("reached_by", rewrite(prefill.descriptor, [first, second]))
            session = decode.engine.session_id
            assert prefill.ask("write", session, grant, [0], decode.addresses([0]), BLOCK) == 0
            first.hold("to_client", after=20_000)
            first.release(connection=0)
            second.hold("to_client", after=20_000)
            prefill.send("write", session, grant, EVERYTHING, decode.addresses(EVERYTHING), BLOCK)
            until(lambda: second.waiting("to_client") > 0, "bytes on the second rail")
            second.cut()
            first.release()
            assert prefill.answer() == 0
        assert decode.memory.tobytes() == pattern(3, SIZE).tobytes()
    finally:
        decode.engine.close()


def test_what_strangers_say_to_a_decode_server_is_refused(decode: Decode, prefill: Side) -> None:
    grant = decode.grant(7, [0])
    host, _, port = decode.engine.session_id.rpartition(":")
    one = np.array([decode.at], dtype=np.uint64), np.array([BLOCK], dtype=np.uint64)
    forged = Fetch(grant, *one, "tent-ticket-1." + "A" * 200).encode()
    for words in (b"GET / HTTP/1.1\r\n\r\n" + bytes(64), forged[:5] + b"\xff" * 60, forged[:-3], forged):
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(words)
            try:
                stranger.shutdown(socket.SHUT_WR)
                answer = stranger.recv(100)
            except ConnectionError:
                continue
            assert answer[:1] in (b"", b"\x02")
    assert not decode.memory.any()
    assert prefill.ask("write", decode.engine.session_id, grant, [0], decode.addresses([0]), BLOCK) == 0


def test_a_ticket_is_good_for_the_addresses_that_it_was_made_for(decode: Decode, prefill: Side) -> None:
    grant = decode.grant(7, [0, BLOCK])
    source = np.zeros(BLOCK, dtype=np.uint8)
    decode.engine.batch_register([source.ctypes.data], [BLOCK])
    one = np.array([decode.at], dtype=np.uint64), np.array([BLOCK], dtype=np.uint64)
    other = np.array([decode.at + BLOCK], dtype=np.uint64), one[1]
    offer = decode.engine._handoff.offer([source.ctypes.data], BLOCK, form=Fetch.form(grant, *one))
    code, why = decode.engine._fetch(Fetch(grant, *other, offer.ticket))
    assert code == 2 and "Unsupported" in why
    offer.abort()


def test_a_session_with_a_grant_is_the_text_that_sglang_knows() -> None:
    session = GrantedSession("10.0.0.1:4711", b"x" * 16)
    assert {"10.0.0.1:4711": 1}[session] == 1
    assert int(session.rsplit(":", 1)[1]) == 4711
