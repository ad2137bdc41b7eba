"""Every way to reach memory, from the engine's own table of capabilities, and a pair of nodes over one of them."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from support.faults import can_inject, injected
from support.peers import PATIENCE, PeerProcess, pattern
from tent_core import Engine, Intent, Peer, RemoteSegment, Segment, Transfer

LEASE_MS = 20_000  # tests stop owners for a moment; on a loaded machine a moment can be long
COMMON: dict[str, Any] = {"engine.session_lease_ms": LEASE_MS, "engine.connect_timeout_ms": 10_000}
__all__ = ["COMMON", "NO_SHM", "TWO_RAILS", "Reach", "World", "networks", "rdma_rails", "reaches"]

NO_SHM = {"shm.enabled": False}
TWO_RAILS = ["127.0.0.1", "127.0.0.2"]


@dataclass(frozen=True)
class Reach:
    """A way from our memory to an owner's: the transport, the kind of segment, and both sides' settings."""

    name: str
    transport: str
    kind: str
    config: dict[str, Any] = field(default_factory=dict, hash=False)
    owner: dict[str, Any] = field(default_factory=dict, hash=False)  # what differs in the owner's
    decorated: bool = False  # with the fault injecting transport before it, whose plan is empty


def networks(transport: str) -> dict[str, dict[str, Any]]:
    """What a transport is tried over; a transport that is not named here is tried as it is."""
    if transport == "shm":
        return {"shm": {}}
    if transport == "tcp":
        return {
            "tcp4": {**NO_SHM},
            "tcp6": {**NO_SHM, "node.bind": ["::1"]},
            "tcp-two-rails": {**NO_SHM, "node.bind": TWO_RAILS},
        }
    return {transport: {}}


def rdma_rails() -> list[tuple[str, str]]:
    """Pairs of addresses of this host with RDMA ports that reach each other: ``TENT_TEST_RDMA``, which names them as
    ``10.77.0.1-10.77.0.2,...``. Empty: there are none, and RDMA is not tried."""
    pairs = [pair.split("-") for pair in os.environ.get("TENT_TEST_RDMA", "").split(",") if pair]
    return [(ours, theirs) for ours, theirs in pairs]


def rdma_reaches() -> list[Reach]:
    rails = rdma_rails()
    if not rails:
        return []
    common = {**NO_SHM, "cluster.secret": "of the tests"}

    def both(count: int) -> tuple[dict[str, Any], dict[str, Any]]:
        ours = {**common, "node.bind": [ours for ours, _ in rails[:count]]}
        return ours, {"node.bind": [theirs for _, theirs in rails[:count]]}

    ours, theirs = both(1)
    with Engine(ours) as engine:
        kinds = engine.capabilities()["rdma"]["kinds"]
    found = [Reach(f"rdma-{kind}", "rdma", kind, ours, theirs) for kind in kinds]
    if len(rails) > 1:
        found.append(Reach(f"rdma-two-rails-{kinds[0]}", "rdma", kinds[0], *both(2)))
    return found


def reaches() -> list[Reach]:
    with Engine({"node.bind": ["127.0.0.1"]}) as engine:
        table = engine.capabilities()
    found = []
    for transport, stated in table.items():
        for number, (network, config) in enumerate(networks(transport).items()):
            # Every kind over a transport's first network; over the others one of them, in turn.
            kinds = stated["kinds"] if number == 0 else [stated["kinds"][number % len(stated["kinds"])]]
            found += [Reach(f"{network}-{kind}", transport, kind, config) for kind in kinds]
        if can_inject():
            network, config = next(iter(networks(transport).items()))
            kind = stated["kinds"][0]
            found.append(Reach(f"{network}-{kind}-decorated", transport, kind, config, decorated=True))
    return found + rdma_reaches()


class World:
    """An owner in another process, an engine here, and a session from here to there."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.config = {**COMMON, **reach.config}
        self.owner = PeerProcess({**self.config, **reach.owner}, name=f"owner-{reach.name}")
        with injected({} if reach.decorated else None):
            self.engine = Engine(self.config, name=f"initiator-{reach.name}")
        self.peer: Peer = self.engine.connect(self.owner.descriptor, PATIENCE)
        self.stated = self.engine.capabilities()[reach.transport]
        self._numbers = itertools.count()
        self._remote: list[str] = []
        self._local: list[Segment] = []
        self.transfers: list[Transfer] = []

    def remote(self, nbytes: int, *, seed: int | None = None, access: str = "rw") -> RemoteSegment:
        """A segment of the owner, of this reach's kind; the test's end frees it."""
        name = f"s{next(self._numbers)}"
        make = self.owner.allocate if self.reach.kind == "memfd" else self.owner.register
        make(name, nbytes, access)
        self._remote.append(name)
        if seed is not None:
            self.owner.fill(name, seed)
        return self.peer.segment(name)

    def local(
        self, nbytes: int, *, seed: int | None = None, access: str = "private"
    ) -> npt.NDArray[np.uint8]:
        """Registered memory of ours, with a pattern or zeros; the test's end frees it."""
        memory = np.zeros(nbytes, dtype=np.uint8) if seed is None else pattern(seed, nbytes).copy()
        self._local.append(self.engine.register(memory, access=access))
        return memory

    def submit(self, op: str, memory: Any, remote: Any, **options: Any) -> Transfer:
        """By default all of ``memory``, from the start of ``remote``. ``local_offset``, ``remote_offset`` and
        ``length`` cut it into ranges."""
        at = np.atleast_1d(np.asarray(options.pop("local_offset", 0), dtype=np.uint64))
        offset = options.pop("remote_offset", 0)
        length = options.pop("length", memory.nbytes)
        intent = Intent(op, self.peer, at + np.uint64(memory.ctypes.data), remote, offset, length, **options)
        transfer = self.engine.submit(intent)
        self.transfers.append(transfer)
        return transfer

    def move(self, op: str, memory: Any, remote: Any, **options: Any) -> Transfer:
        transfer = self.submit(op, memory, remote, **options)
        transfer.result(PATIENCE)
        return transfer

    def at_owner(self, remote: RemoteSegment, offset: int = 0, nbytes: int | None = None) -> str:
        return str(self.owner.digest(remote.name, offset, nbytes))

    def tidy(self) -> None:
        """Frees what the test made, and holds the engine to its accounts."""
        for transfer in self.transfers:
            assert transfer.wait_released(PATIENCE), f"{transfer!r} was never released"
        self.transfers.clear()
        for name in self._remote:
            if not name.startswith("-"):
                self.owner.unregister(name)
        self._remote.clear()
        for segment in self._local:
            segment.close(PATIENCE)
        self._local.clear()
        self.check_accounts()

    def gone(self, remote: RemoteSegment) -> None:
        """The owner frees a segment before the test's end."""
        self.owner.unregister(remote.name)
        self._remote.remove(remote.name)

    def check_accounts(self) -> None:
        counts = self.engine.metrics()
        ended = sum(counts[f"transfers_{how}"] for how in ("completed", "failed", "cancelled"))
        assert counts["transfers_submitted"] == ended == counts["transfers_released"], counts
        for row in self.engine.links():
            ends = ("used", "superseded", "revoked", "failed", "outstanding")
            assert row["posted"] == sum(row[end] for end in ends), row
            assert row["outstanding"] == 0 and row["in_flight"] == 0, row

    def close(self) -> None:
        self.engine.close()
        self.owner.end()
