"""Producers and consumers in processes of their own, and what stands between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from support.peers import PeerProcess
from support.relay import Relay, Rewritten, rewrite
from tent_core.config import load_config, resolve_secret
from tent_core.handoff import Ticket

TCP = {"shm.enabled": False, "node.bind": ["127.0.0.1"], "engine.connect_timeout_ms": 10_000}
PATIENT = {**TCP, "engine.session_lease_ms": 60_000}  # nothing here ends by a session's lease
SIZE = 4 << 20
BLOCK = 64 << 10
BLOCKS = SIZE // BLOCK


def the_secret() -> str:
    """That of everybody here who configures none."""
    return resolve_secret(load_config({}))


def through(ticket: str, relays: list[Relay]) -> str:
    """The ticket as if its producer were where the relays are."""
    opened = Ticket.unseal(ticket, the_secret())
    return replace(opened, descriptor=rewrite(opened.descriptor, relays)).seal(the_secret())


def relay_to(node: PeerProcess, rail: int = 0) -> Relay:
    return Relay(Rewritten.parse(node.descriptor).rails[rail][:2])


def stall(relay: Relay, direction: str, after: int, *, control: int | None = 0) -> None:
    """Of every connection so many more bytes pass in that direction, of new ones none; the control connection is left
    alone."""
    relay.hold(direction, after=after)
    if control is not None:
        relay.release(connection=control)


@pytest.fixture
def producer() -> Iterator[PeerProcess]:
    """A node with `SIZE` bytes that it shows to nobody."""
    with PeerProcess(PATIENT, name="producer") as node:
        node.register("kv", SIZE, "private")
        node.fill("kv", 1)
        yield node


@pytest.fixture
def consumer() -> Iterator[PeerProcess]:
    with PeerProcess(PATIENT, name="consumer") as node:
        node.register("mine", SIZE, "private")
        yield node
