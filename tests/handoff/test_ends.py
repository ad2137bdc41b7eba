"""How hand-offs end when something goes wrong: by abort, by lease, by death; and what no ticket gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from handoff.conftest import BLOCK, BLOCKS, PATIENT, SIZE, relay_to, stall, the_secret, through

from support.peers import PATIENCE, PeerProcess, until
from support.relay import Relay
from tent_core import Engine, _native
from tent_core.errors import (
    AuthFailed,
    ClusterMismatch,
    PeerDead,
    PeerUnreachable,
    PermissionDenied,
    ProtocolError,
    SegmentGone,
    StaleIncarnation,
    TentError,
    VersionMismatch,
)
from tent_core.handoff import Handoff, Ticket

EVERYTHING = [at * BLOCK for at in range(BLOCKS)]


@contextmanager
def in_the_middle(
    owner: PeerProcess, peer: PeerProcess, how: str, **options: Any
) -> Iterator[tuple[str, Relay]]:
    """`peer` has taken up an offer of everything, and some of its bytes are held on their way."""
    direction = {"pull": "to_client", "push": "to_server"}[how]
    access = {"pull": "r", "push": "w"}[how]
    with relay_to(owner) as relay:
        warm = through(owner.offer("kv", [0], BLOCK, access=access), [relay])
        peer.take_up(how, warm, "mine", [0], BLOCK)
        stall(relay, direction, after=200_000)
        ticket = owner.offer("kv", EVERYTHING, BLOCK, access=access, **options)
        peer.send("take_up", how, through(ticket, [relay]), "mine", EVERYTHING, BLOCK)
        until(lambda: relay.waiting(direction) > 0, "bytes under way")
        yield ticket, relay


# ---- abort


@pytest.mark.protects("offer")
def test_invariant_2_a_stopped_reader_never_takes_reused_blocks_for_its_own(
    producer: PeerProcess, consumer: PeerProcess
) -> None:
    """Without checks: the fence alone keeps the new bytes away."""
    with in_the_middle(producer, consumer, "pull", checks=False) as (ticket, relay):
        consumer.stop()
        assert producer.abort(ticket)
        producer.set("kv", 0x55)  # somebody else's now
        relay.release()
        consumer.go_on()
        with pytest.raises(SegmentGone, match="ended"):
            consumer.answer()
    assert producer.offer_end(ticket) == "aborted"


@pytest.mark.protects("offer")
def test_invariant_2_a_stopped_writer_never_lands_in_reused_blocks(
    producer: PeerProcess, consumer: PeerProcess
) -> None:
    consumer.set("mine", 0xAA)
    with in_the_middle(producer, consumer, "push") as (ticket, relay):
        consumer.stop()
        assert producer.abort(ticket)
        producer.set("kv", 0x55)
        relay.release()
        consumer.go_on()
        with pytest.raises(SegmentGone, match="ended"):
            consumer.answer()
        assert producer.count("kv", 0x55) == SIZE, "bytes of an aborted push landed"


def test_memory_that_is_unregistered_ends_its_offers(producer: PeerProcess, consumer: PeerProcess) -> None:
    with in_the_middle(producer, consumer, "pull") as (ticket, relay):
        producer.unregister("kv")
        producer.set("kv", 0x55)
        relay.release()
        with pytest.raises(SegmentGone):
            consumer.answer()
    assert producer.offer_end(ticket) == "gone"


# ---- death


def test_a_producer_that_dies_in_mid_pull_is_a_typed_error(
    producer: PeerProcess, consumer: PeerProcess
) -> None:
    with PeerProcess(PATIENT, name="mortal") as owner:
        owner.register("kv", SIZE, "private")
        with in_the_middle(owner, consumer, "pull") as (_, relay):
            owner.kill()
            relay.cut()
            with pytest.raises((PeerDead, PeerUnreachable)):
                consumer.answer()
    other = producer.offer("kv", [0], BLOCK)
    assert consumer.take_up("pull", other, "mine", [0], BLOCK) == BLOCK, "it goes on with others"


def test_a_consumer_that_dies_leaves_nothing_behind() -> None:
    """Its session's lease ends the offer, however long the offer's own is."""
    config = {**PATIENT, "engine.session_lease_ms": 1000}
    with PeerProcess(config, name="producer") as owner, PeerProcess(config, name="mortal") as reader:
        owner.register("kv", SIZE, "private")
        reader.register("mine", SIZE, "private")
        with in_the_middle(owner, reader, "pull", lease=3600.0) as (ticket, _):
            reader.kill()
        assert owner.offer_end(ticket) == "expired"
        assert owner.open_offers() == 0


def test_nobody_comes_and_the_lease_frees_it(producer: PeerProcess, consumer: PeerProcess) -> None:
    ticket = producer.offer("kv", [0], BLOCK, lease=0.05)
    assert producer.offer_end(ticket) == "expired"
    with pytest.raises(SegmentGone, match="lease ran out"):
        consumer.take_up("pull", ticket, "mine", [0], BLOCK)


# ---- tickets


def test_what_has_ended_says_how(producer: PeerProcess, consumer: PeerProcess) -> None:
    ticket = producer.offer("kv", [0], BLOCK)
    assert consumer.take_up("pull", ticket, "mine", [0], BLOCK) == BLOCK
    with pytest.raises(SegmentGone, match="released"):
        consumer.take_up("pull", ticket, "mine", [0], BLOCK)
    assert not producer.abort(ticket), "it was over"
    taken_back = producer.offer("kv", [0], BLOCK)
    assert producer.abort(taken_back)
    assert not producer.abort(taken_back)
    with pytest.raises(SegmentGone, match="took it back"):
        consumer.take_up("pull", taken_back, "mine", [0], BLOCK)


def test_a_release_may_come_twice(producer: PeerProcess) -> None:
    ticket = producer.offer("kv", [0], BLOCK)
    with Engine(PATIENT, name="consumer") as engine:
        peer = engine.connect(producer.descriptor, PATIENCE)
        request = _native.release_offer_request(Ticket.unseal(ticket, the_secret()).name, True)
        assert [_native.released_reply(peer.call(129, request)) for _ in range(2)] == ["released"] * 2
    assert producer.offer_end(ticket) == "released"


def test_tickets_that_are_none_are_refused_by_name(producer: PeerProcess, consumer: PeerProcess) -> None:
    ticket = producer.offer("kv", [0], BLOCK)
    opened = Ticket.unseal(ticket, the_secret())
    middle = len(ticket) // 2
    forged = ticket[:middle] + ("A" if ticket[middle] != "A" else "B") + ticket[middle + 1 :]
    wrong: list[tuple[str, type[TentError], str]] = [
        (forged, AuthFailed, "not sealed by this cluster"),
        (opened.seal("another cluster's secret"), AuthFailed, "cluster.secret"),
        (ticket.replace("ticket-1.", "ticket-2."), VersionMismatch, "version"),
        ("", ProtocolError, "no ticket"),
        ("tent-ticket-1.", ProtocolError, "cut short"),
        (ticket + "?", ProtocolError, "base64"),
        (replace(opened, name=bytes(16)).seal(the_secret()), PermissionDenied, "no such offer"),
        (replace(opened, descriptor=b"nowhere").seal(the_secret()), ProtocolError, "descriptor"),
    ]
    for text, kind, words in wrong:
        with pytest.raises(kind, match=words):
            consumer.take_up("pull", text, "mine", [0], BLOCK)
    assert consumer.take_up("pull", ticket, "mine", [0], BLOCK) == BLOCK, "the true one is as good as before"


def test_tickets_of_other_clusters_and_other_lives_are_refused(consumer: PeerProcess) -> None:
    with PeerProcess({**PATIENT, "cluster.id": "other"}, name="foreign") as owner:
        owner.register("kv", BLOCK, "private")
        with pytest.raises(ClusterMismatch):
            consumer.take_up("pull", owner.offer("kv", [0], BLOCK), "mine", [0], BLOCK)
    with PeerProcess(PATIENT, name="phoenix") as owner:
        owner.register("kv", BLOCK, "private")
        ticket = owner.offer("kv", [0], BLOCK)
        consumer.take_up("pull", ticket, "mine", [0], BLOCK)
        old = owner.descriptor
        port = _port(old)
    with PeerProcess({**PATIENT, "node.port": port}, name="phoenix") as again:
        assert _port(again.descriptor) == port
        with pytest.raises((StaleIncarnation, PeerDead)):
            consumer.take_up("pull", ticket, "mine", [0], BLOCK)


def _port(descriptor: bytes) -> int:
    return int(Engine.describe(descriptor)["rails"][0][1])


# ---- nothing leaks


def test_a_thousand_offers_leak_nothing(producer: PeerProcess) -> None:
    with Engine(PATIENT, name="consumer") as engine:
        handoff, memory = Handoff(engine), np.zeros(BLOCK, dtype=np.uint8)
        engine.register(memory, access="private")

        def some(each: int) -> None:
            for _ in range(each):
                handoff.pull(
                    producer.offer("kv", [0, BLOCK], 512), [memory.ctypes.data, memory.ctypes.data + 512], 512
                )
                assert producer.abort(producer.offer("kv", [BLOCK], BLOCK))
                producer.offer("kv", [0], 4096, lease=0.001, checks=False)

        some(3)
        until(lambda: producer.open_offers() == 0, "end of them")
        before = producer.descriptors()
        some(330)
        until(lambda: producer.open_offers() == 0, "end of them")
        assert producer.descriptors() <= before
        assert handoff.metrics.counter("handoff.pulls.done").value == 333
        peer = engine.connect(producer.descriptor, PATIENCE)
        assert peer.segments() == {}
    producer.unregister("kv")
