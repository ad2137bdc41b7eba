"""What is offered arrives, where it was wanted, and nothing else can be reached."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from handoff.conftest import BLOCK, BLOCKS, PATIENT, SIZE, TCP, relay_to, stall, the_secret, through

from support.peers import PATIENCE, PeerProcess, pattern, until
from support.raw import RawPeer, hello, piece
from support.relay import Relay, Rewritten
from tent_core import Engine, Intent
from tent_core.errors import Cancelled, CheckFailed, InvalidArgument, SegmentGone, TentError, Unsupported
from tent_core.handoff import Handoff, Ticket

SCATTERED = [5 * BLOCK, 0, 9 * BLOCK, 3 * BLOCK]
HOSTS = {"same host": {}, "network": TCP}


def blocks_of(seed: int, offsets: list[int]) -> bytes:
    whole = pattern(seed, SIZE)
    return b"".join(whole[at : at + BLOCK].tobytes() for at in offsets)


@pytest.mark.parametrize("config", HOSTS.values(), ids=HOSTS)
def test_scattered_blocks_arrive_and_the_offer_is_released(config: dict[str, Any]) -> None:
    with PeerProcess(config, name="producer") as owner, Engine(config, name="consumer") as engine:
        owner.register("kv", SIZE, "private")
        owner.fill("kv", 1)
        ticket = owner.offer("kv", SCATTERED, BLOCK, form=b"llama")
        memory = np.zeros(8 * BLOCK, dtype=np.uint8)
        engine.register(memory, access="private")
        to = [memory.ctypes.data + at for at in (7 * BLOCK, 2 * BLOCK, 0, 4 * BLOCK)]
        assert Handoff(engine).pull(ticket, to, BLOCK, form=b"llama").bytes == 4 * BLOCK
        at = [slice(place - memory.ctypes.data, place - memory.ctypes.data + BLOCK) for place in to]
        assert b"".join(memory[part].tobytes() for part in at) == blocks_of(1, SCATTERED)
        assert not memory[BLOCK : 2 * BLOCK].any(), "nothing lies beside them"
        assert owner.offer_end(ticket) == "released"


def test_some_of_the_blocks_in_another_order(producer: PeerProcess, consumer: PeerProcess) -> None:
    ticket = producer.offer("kv", SCATTERED, BLOCK)
    assert consumer.take_up("pull", ticket, "mine", [0, BLOCK], BLOCK, parts=[3, 1]) == 2 * BLOCK
    assert consumer.bytes_of("mine", 0, 2 * BLOCK) == blocks_of(1, [SCATTERED[3], SCATTERED[1]])


def test_more_ranges_than_one_answer_lists(producer: PeerProcess, consumer: PeerProcess) -> None:
    small = 128
    offsets = list(range(0, 20_000 * 2 * small, 2 * small))[: SIZE // (2 * small)]
    ticket = producer.offer("kv", offsets, small)
    assert len(offsets) > 8192
    consumer.take_up("pull", ticket, "mine", offsets, small)
    got, sent = consumer.bytes_of("mine"), pattern(1, SIZE)
    for at in (0, offsets[8191], offsets[8192], offsets[-1]):
        assert got[at : at + small] == sent[at : at + small].tobytes()


def test_a_push_lands_where_it_was_offered(producer: PeerProcess, consumer: PeerProcess) -> None:
    consumer.fill("mine", 2)
    ticket = producer.offer("kv", SCATTERED, BLOCK, access="w")
    consumer.take_up("push", ticket, "mine", [0, BLOCK, 2 * BLOCK, 3 * BLOCK], BLOCK)
    expected = pattern(1, SIZE).copy()
    for i, at in enumerate(SCATTERED):
        expected[at : at + BLOCK] = pattern(2, SIZE)[i * BLOCK : (i + 1) * BLOCK]
    assert producer.bytes_of("kv") == expected.tobytes()
    assert producer.offer_end(ticket) == "released"


def test_a_promised_offer_may_come_after_its_ticket(producer: PeerProcess, consumer: PeerProcess) -> None:
    ticket = Ticket(producer.descriptor, promised=True)
    consumer.send("take_up", "pull", ticket.seal(the_secret()), "mine", [0], BLOCK)
    until(lambda: producer.metrics()["connections_accepted"] > 0, "the consumer")
    producer.offer("kv", [BLOCK], BLOCK, name=ticket.name)
    assert consumer.answer() == BLOCK
    assert consumer.bytes_of("mine", 0, BLOCK) == blocks_of(1, [BLOCK])


@pytest.mark.protects("check")
def test_invariant_1_a_block_that_changed_after_its_offer_is_never_taken_for_it(
    producer: PeerProcess, consumer: PeerProcess
) -> None:
    ticket = producer.offer("kv", SCATTERED, BLOCK)
    producer.set("kv", 0, SCATTERED[2] + 100, 1)
    with pytest.raises(CheckFailed, match="range 2"):
        consumer.take_up("pull", ticket, "mine", [0, BLOCK, 2 * BLOCK, 3 * BLOCK], BLOCK)
    assert producer.offer_end(ticket) == "refused", "the producer hears that it was not taken"


def test_shapes_that_do_not_agree_are_refused_by_name(producer: PeerProcess, consumer: PeerProcess) -> None:
    ticket = producer.offer("kv", SCATTERED, BLOCK, form=b"float16")
    with pytest.raises(Unsupported, match=r"float16.*bfloat16"):
        consumer.take_up("pull", ticket, "mine", [0], BLOCK, form=b"bfloat16")
    for offsets, nbytes in (([0], BLOCK), ([0, BLOCK, 2 * BLOCK, 3 * BLOCK], BLOCK // 2)):
        other = producer.offer("kv", SCATTERED, BLOCK)
        with pytest.raises(InvalidArgument, match=r"offered|4 ranges"):
            consumer.take_up("pull", other, "mine", offsets, nbytes)
    with pytest.raises(InvalidArgument, match="overlap"):
        producer.offer("kv", [0, BLOCK // 2], BLOCK)
    with pytest.raises(InvalidArgument, match="reaches past the end"):
        producer.offer("kv", [SIZE - 100], BLOCK)


@pytest.mark.protects("grant")
def test_invariant_6_without_the_ticket_the_offer_is_not_there(producer: PeerProcess) -> None:
    ticket = producer.offer("kv", [0], BLOCK)
    with Engine(PATIENT, name="stranger") as stranger:
        peer = stranger.connect(producer.descriptor, PATIENCE)
        assert peer.segments() == {}, "memory that is offered is shown to nobody"
        memory = np.zeros(BLOCK, dtype=np.uint8)
        stranger.register(memory, access="private")
        with pytest.raises(SegmentGone):
            stranger.run(Intent("read", peer, [memory.ctypes.data], 2, [0], BLOCK))
    # Its number can be guessed, and a hostile peer asks for it all the same.
    address = Rewritten.parse(producer.descriptor).rails[0][:2]
    with RawPeer(address).shake(hello(name="hostile"), the_secret()) as raw:
        for segment in range(1, 8):
            raw.frame("read", piece(segment, 0, 16), attempt=segment)
            assert raw.take_frame("data", "read_fail").kind == "read_fail", segment
    assert producer.abort(ticket)


def test_a_reader_cannot_write_nor_leave_its_ranges(producer: PeerProcess) -> None:
    with Engine(PATIENT, name="reader") as engine:
        ticket = producer.offer("kv", [0, 4 * BLOCK], BLOCK)
        handoff = Handoff(engine)
        memory = np.full(4 * BLOCK, 0xEE, dtype=np.uint8)
        engine.register(memory, access="private")
        pull = handoff.prepare(ticket, [memory.ctypes.data], BLOCK)
        peer = engine.connect(producer.descriptor, PATIENCE)
        segment = pull._open(peer, 1e18).segment
        for op, offset, nbytes in (("read", 2 * BLOCK, 1), ("read", BLOCK, 2 * BLOCK), ("write", 0, 8)):
            with pytest.raises(TentError, match=r"outside|not exposed for that"):
                engine.run(Intent(op, peer, [memory.ctypes.data], segment, [offset], nbytes))
        engine.run(Intent("read", peer, [memory.ctypes.data], segment, [BLOCK - 8], 16))
        assert memory[:16].tobytes() == blocks_of(1, [0])[-8:] + blocks_of(1, [4 * BLOCK])[:8]


def test_a_cut_rail_costs_nothing_but_time() -> None:
    rails = {**PATIENT, "node.bind": ["127.0.0.1", "127.0.0.2"]}
    everything = [at * BLOCK for at in range(BLOCKS)]
    with PeerProcess(rails, name="producer") as owner, PeerProcess(rails, name="consumer") as reader:
        owner.register("kv", SIZE, "private")
        owner.fill("kv", 3)
        reader.register("mine", SIZE, "private")
        with relay_to(owner, 0) as first, relay_to(owner, 1) as second:
            both: list[Relay] = [first, second]
            warm = through(owner.offer("kv", [0], BLOCK), both)
            reader.take_up("pull", warm, "mine", [0], BLOCK)
            stall(first, "to_client", after=20_000)
            stall(second, "to_client", after=20_000, control=None)
            ticket = through(owner.offer("kv", everything, BLOCK), both)
            reader.send("take_up", "pull", ticket, "mine", everything, BLOCK)
            until(lambda: second.waiting("to_client") > 0, "bytes on the second rail")
            second.cut()
            first.release()
            assert reader.answer() == SIZE
        assert reader.bytes_of("mine") == pattern(3, SIZE).tobytes()


def test_a_pull_that_is_cancelled_ends_and_gives_the_offer_up(producer: PeerProcess) -> None:
    with Engine(PATIENT, name="consumer") as engine, relay_to(producer) as relay:
        memory = np.zeros(SIZE, dtype=np.uint8)
        engine.register(memory, access="private")
        handoff, at = Handoff(engine), [memory.ctypes.data]
        handoff.pull(through(producer.offer("kv", [0], BLOCK), [relay]), at, BLOCK)
        stall(relay, "to_client", after=200_000)
        ticket = producer.offer("kv", [0], SIZE)
        pull = handoff.prepare(through(ticket, [relay]), at, SIZE)
        canceller = threading.Thread(
            target=lambda: (until(lambda: relay.waiting("to_client") > 0, "bytes"), pull.cancel())
        )
        canceller.start()
        with pytest.raises(Cancelled):
            pull.run(PATIENCE)
        canceller.join()
        relay.release()
        assert producer.offer_end(ticket) == "refused"
