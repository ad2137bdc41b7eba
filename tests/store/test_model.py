"""The store against a dictionary: real processes that put, get, evict, die and lose their directory in any order.

Some have a disk, and come back on it after they were killed. Whatever happens, a page that is a hit has the bytes that
somebody put under its key since it was last cleared (a node that cannot reach the directory cannot have heard of that,
and finds its own pages alone). Where nothing happened that may lose pages, what was stored is a hit. The long form:

TENT_TEST_MODEL_EXAMPLES=500 PYTEST_ARGS='-k dictionary' bash tests/run.sh store
"""

from __future__ import annotations

import hashlib
import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.disks import rot
from support.store_process import StoreProcess, contents
from support.stores import Server
from tent_core.store import PageStatus
from tent_core.store.ssd import FILE

_EXAMPLES = int(os.environ.get("TENT_TEST_MODEL_EXAMPLES", "6"))
_KEYS = [b"key-%d" % i for i in range(40)]
_MOST_NODES = 4
_DISKS = 2

_some_keys = st.lists(st.sampled_from(_KEYS), min_size=1, max_size=12, unique=True)
_flavours = st.integers(0, 3)
_which = st.integers(0, _MOST_NODES - 1)


def _digest(key: bytes, flavour: int) -> bytes:
    return hashlib.blake2b(contents(key, flavour), digest_size=16).digest()


class StoreModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.nodes: list[StoreProcess] = []
        self.allowed: dict[bytes, set[int]] = {key: set() for key in _KEYS}  # flavours that a hit may have
        self.sure: set[bytes] = set()  # keys that must be hits
        self.cleared: dict[bytes, set[int]] = {
            key: set() for key in _KEYS
        }  # what was there before the last `clear`
        self.unheard = False  # a node was cut off from the directory when it was cleared
        self.calm = True  # the directory has been there all the time: what is stored can be found at once
        self.fillers = 0
        self.disks: dict[int, StoreProcess | None] = dict.fromkeys(range(_DISKS))  # which node has them
        self.old_disks: set[int] = (
            set()
        )  # they hold pages from before a `clear` that no node on them has heard of

    def _start(self, host: int) -> None:
        settings = {
            "directory.url": self.server.url,
            "directory.timeout_ms": 300,
            "store.capacity": "24MiB",
            "store.extent": "1MiB",
            "store.replicas": 2,
            "node.host_identity": f"host-{host}",
        }
        disk = next((number for number, node in self.disks.items() if node is None), None)
        if disk is not None:
            settings |= {
                "store.ssd_path": str(self.server.folder / f"disk-{disk}"),
                "store.ssd_capacity": "64MiB",
                "store.ssd_timeout_ms": 5000,
            }
        self.nodes.append(StoreProcess(settings))
        if disk is not None:
            self.disks[disk] = self.nodes[-1]
            # A directory that has lost its memory since cannot tell this node of a clear.
            self.unheard |= disk in self.old_disks and not self.calm

    def _node(self, which: int) -> StoreProcess:
        return self.nodes[which % len(self.nodes)]

    # ---- what serving does

    @initialize()
    def two_nodes(self) -> None:
        self._start(0)
        self._start(1)

    @rule(which=_which, keys=_some_keys, flavour=_flavours)
    def put(self, which: int, keys: list[bytes], flavour: int) -> None:
        for key in keys:
            self.allowed[key].add(flavour)
        for key, status in zip(keys, self._node(which).ask("put", keys, flavour), strict=True):
            # PRESENT promises nothing: the node that has it may have died a moment ago.
            if status == PageStatus.STORED and self.calm:
                self.sure.add(key)

    @rule(which=_which, keys=_some_keys)
    def get(self, which: int, keys: list[bytes]) -> None:
        self._get(self._node(which), keys)

    def _get(self, node: StoreProcess, keys: list[bytes]) -> bool:
        """Was the directory away?"""
        rows, away = node.ask("get", keys)
        for key, (status, digest) in zip(keys, rows, strict=True):
            if status == PageStatus.HIT:
                flavours = self.allowed[key] | (self.cleared[key] if away or self.unheard else set())
                assert digest in {_digest(key, flavour) for flavour in flavours}, f"{key!r}: wrong bytes"
            elif not away:
                assert key not in self.sure, (
                    f"{key!r} was stored, nothing was lost: {PageStatus(status).name}"
                )
        return bool(away)

    @rule(which=_which, keys=_some_keys)
    def remove(self, which: int, keys: list[bytes]) -> None:
        self._node(which).ask("remove", keys)
        self.sure -= set(keys)

    @rule(which=_which)
    def clear(self, which: int) -> None:
        """Nothing put before is a hit afterwards; every node that is asked hears of it, before Redis may forget."""
        if self._node(which).ask("clear"):
            self.cleared, self.allowed = self.allowed, {key: set() for key in _KEYS}
            self.sure = set()
            self.unheard = any([self._get(node, _KEYS) for node in self.nodes])
            self.old_disks |= {number for number, node in self.disks.items() if node is None}

    @rule(which=_which, keys=_some_keys)
    def evict(self, which: int, keys: list[bytes]) -> None:
        """Fills the node with other pages until extents were reused."""
        for _ in range(14):
            self.fillers += 1
            names = [b"filler-%d-%d" % (self.fillers, i) for i in range(60)]
            self._node(which).ask("put", names, 0)
        self.sure = set()

    # ---- what the world does

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(which=_which)
    def kill(self, which: int) -> None:
        node = self._node(which)
        node.kill()
        self.nodes.remove(node)
        for number, on_it in self.disks.items():
            if on_it is node:
                self.disks[number] = None
        self.sure = set()

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(which=_which, keys=_some_keys, flavour=_flavours)
    def kill_in_a_put(self, which: int, keys: list[bytes], flavour: int) -> None:
        for key in keys:
            self.allowed[key].add(flavour)
        self._node(which).send("put", keys, flavour)
        self.kill(which)

    @precondition(lambda self: len(self.nodes) < _MOST_NODES)
    @rule(host=_which)
    def join(self, host: int) -> None:
        self._start(host)

    def _no_longer_calm(self) -> None:
        self.calm, self.sure = False, set()

    @rule()
    def redis_restarts_empty(self) -> None:
        self.server.kill()
        self.server.start()
        self._no_longer_calm()

    @rule()
    def redis_is_emptied(self) -> None:
        self.server.client().flushall()
        self._no_longer_calm()

    @rule(which=_which, keys=_some_keys, flavour=_flavours)
    def redis_hangs(self, which: int, keys: list[bytes], flavour: int) -> None:
        self._no_longer_calm()
        with self.server.silent():
            self.put(which, keys, flavour)
            self.get(which, keys)

    @rule(which=_which, seed=st.integers(0, 1 << 30))
    def memory_rots(self, which: int, seed: int) -> None:
        self._node(which).ask("spoil", seed, 200)
        self.sure = set()

    @rule(disk=st.integers(0, _DISKS - 1), seed=st.integers(0, 1 << 30))
    def disks_rot(self, disk: int, seed: int) -> None:
        """Bytes of pages and of tables; the file's head is not touched: a file without one is refused."""
        path = self.server.folder / f"disk-{disk}" / FILE
        if path.exists():
            rot(path, random.Random(seed), 200)
            self.sure = set()

    @rule(seed=st.integers(0, 1 << 30))
    def records_rot(self, seed: int) -> None:
        client = self.server.client()
        for i, key in enumerate(sorted(self.server.record_keys())[:20]):
            raw = bytearray(client.get(key) or b"")
            if raw:
                raw[(seed + 7 * i) % len(raw)] ^= 1 << (seed % 8)
                client.set(key, bytes(raw))
        self.sure = set()

    def teardown(self) -> None:
        try:
            for node in self.nodes:
                node.close()
        finally:
            for node in self.nodes:
                if node.process.poll() is None:
                    node.kill()
            self.server.close()


@pytest.mark.timeout(60 + 30 * _EXAMPLES)
def test_invariant_1_the_store_is_a_dictionary_that_may_forget() -> None:
    machine: Any = StoreModel
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=_EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
