"""Chaos: nodes, the `tent node` and Redis are killed, stopped and spoilt at random while pages are put and got.

Memory is small, so that pages go to disk and come back; disks rot and get full, and killed processes start on theirs
again. Whatever happens: no wrong byte, no hang, nobody dies who was not killed, and no room is lost. CI has half a
minute of it; the long form, with its seed if a run is to be repeated:

TENT_TEST_CHAOS_SECONDS=3600 TENT_TEST_CHAOS_SEED=7 PYTEST_ARGS='-k chaos -s' bash tests/run.sh soak
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from support.clock import JumpingClock
from support.disks import rot
from support.small_disk import SmallDisk
from support.store_process import TENT, NodeProcess, StoreProcess, contents
from support.stores import Server, wait_for
from tent_core.store import PageStatus
from tent_core.store.ssd import FILE

_SECONDS = float(os.environ.get("TENT_TEST_CHAOS_SECONDS", "25"))
_SEED = int(os.environ.get("TENT_TEST_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
_KEYS = [b"key-%d" % i for i in range(160)]
_PROCESSES = 3
_FILE_BYTES = 6 << 20
_DISK_BYTES = (_PROCESSES + 1) * _FILE_BYTES + (4 << 20)


def _digests(key: bytes) -> set[bytes]:
    """Of what anybody may have put under this key."""
    return {hashlib.blake2b(contents(key, flavour), digest_size=16).digest() for flavour in range(3)}


class Chaos:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.server = Server(start=False)
        self.clock = JumpingClock(self.server.folder, "stores")
        self.redis_clock = JumpingClock(self.server.folder, "redis")
        self.server.environment = self.redis_clock.environment
        self.server.start()
        self.disk = SmallDisk(_DISK_BYTES)
        self.stores = [self._store(i) for i in range(_PROCESSES)]
        self.node = self._node()
        self.good = {key: _digests(key) for key in _KEYS}
        self.later: list[tuple[float, Callable[[], None]]] = []  # what was stopped goes on then
        self.stopped: set[int] = set()
        self.redis_stopped = False
        self.count: Counter[str] = Counter()
        self.recovered_s: list[float] = []

    def _settings(self, host: str, disk: str) -> dict[str, object]:
        return {
            "directory.url": self.server.url,
            "directory.timeout_ms": 300,
            "directory.node_ttl_ms": 2000,
            "engine.session_lease_ms": 1000,
            "engine.idle_heartbeat_ms": 300,
            "store.capacity": "2MiB",
            "store.extent": "1MiB",
            "store.replicas": 2,
            "store.ssd_path": str(self.disk.path / disk),
            "store.ssd_capacity": _FILE_BYTES,
            "node.host_identity": host,
        }

    def _store(self, index: int) -> StoreProcess:
        return StoreProcess(self._settings(f"host-{index % 2}", f"store-{index}"), self.clock.environment)

    def _node(self) -> NodeProcess:
        return NodeProcess(self.server.folder, "keeper", **self._settings("host-0", "keeper"))

    # ---- what serving does

    def _awake(self) -> int:
        return self.random.choice([i for i in range(_PROCESSES) if i not in self.stopped])

    def put(self) -> None:
        keys = self.random.sample(_KEYS, 8)
        for status in self.stores[self._awake()].ask("put", keys, self.random.randrange(3)):
            self.count[f"put {PageStatus(status).name}"] += 1

    def get(self) -> None:
        keys = self.random.sample(_KEYS, 12)
        rows, _away = self.stores[self._awake()].ask("get", keys)
        for key, (status, digest) in zip(keys, rows, strict=True):
            self.count[f"get {PageStatus(status).name}"] += 1
            assert status != PageStatus.HIT or digest in self.good[key], f"wrong bytes under {key!r}"

    def remove(self) -> None:
        self.stores[self._awake()].ask("remove", self.random.sample(_KEYS, 4))

    # ---- what the world does

    def kill_a_store(self) -> None:
        which = self.random.randrange(_PROCESSES)
        self.stores[which].kill()
        self.stopped.discard(which)
        self.stores[which] = self._store(which)

    def kill_a_store_in_a_put(self) -> None:
        which = self._awake()
        self.stores[which].send("put", self.random.sample(_KEYS, 12), 1)
        self.stores[which].kill()
        self.stores[which] = self._store(which)

    def stop_a_store(self) -> None:
        if len(self.stopped) + 1 >= _PROCESSES:
            return
        which = self._awake()
        store = self.stores[which]
        store.stop()
        self.stopped.add(which)

        def go_on() -> None:
            if self.stores[which] is store:
                store.go_on()
                self.stopped.discard(which)

        self.later.append((time.monotonic() + self.random.uniform(0.1, 2.0), go_on))

    def kill_the_node(self) -> None:
        if self.redis_stopped:
            return  # its name is free only once Redis has forgotten it
        self.node.close()
        wait_for(lambda: self._name_is_free(), "the record of the killed node expires")
        self.node = self._node()

    def _name_is_free(self) -> bool:
        return not self.server.client().exists("tent:default:{nodes}:n:keeper")

    def redis_dies(self) -> None:
        self.server.kill()
        self.server.start()
        self.redis_stopped = False

    def redis_stops(self) -> None:
        if self.redis_stopped:
            return
        self.server.stop()
        self.redis_stopped = True

        def go_on() -> None:
            if self.redis_stopped:
                self.server.resume()
                self.redis_stopped = False

        self.later.append((time.monotonic() + self.random.uniform(0.1, 1.0), go_on))

    def memory_rots(self) -> None:
        self.stores[self._awake()].ask("spoil", self.random.randrange(1 << 30), 300)

    def _files(self) -> list[Path]:
        return [path for path in self.disk.path.glob(f"*/{FILE}") if path.stat().st_size]

    def disks_rot(self) -> None:
        for path in self._files():
            rot(path, self.random, 20)

    def the_disk_gets_full(self) -> None:
        """Whoever writes to one half of a file finds no room; who starts meanwhile on a new one, neither."""
        if not self.disk.free:
            return
        for path in self._files():
            half = path.stat().st_size // 2
            self.disk.take_blocks(path, self.random.choice((4096, half)), half - 4096)
        self.disk.fill()
        self.later.append((time.monotonic() + self.random.uniform(0.5, 3.0), self.disk.empty))

    def records_rot(self) -> None:
        if self.redis_stopped:
            return
        client = self.server.client()
        for key in self.random.sample(keys := sorted(self.server.record_keys()), min(5, len(keys))):
            raw = bytearray(client.get(key) or b"-")
            raw[self.random.randrange(len(raw))] ^= 1 << self.random.randrange(8)
            client.set(key, bytes(raw))

    def clock_jumps(self) -> None:
        """Redis's only forward: what it is to forget by a clock set back it keeps, dead nodes' names among it."""
        self.clock.jump(self.random.uniform(-1000, 1000))
        self.redis_clock.jump(self.redis_clock.days + self.random.uniform(0.01, 2))

    # ---- all of it

    _WEIGHTS = (
        ("put", 40), ("get", 60), ("remove", 3), ("kill_a_store", 1), ("kill_a_store_in_a_put", 1),
        ("stop_a_store", 4), ("kill_the_node", 1), ("redis_dies", 1), ("redis_stops", 3), ("memory_rots", 3),
        ("records_rot", 3), ("clock_jumps", 2), ("disks_rot", 2), ("the_disk_gets_full", 1),
    )  # fmt: skip

    def run(self, seconds: float) -> None:
        names, weights = zip(*self._WEIGHTS, strict=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for due, go_on in [item for item in self.later if item[0] <= time.monotonic()]:
                self.later.remove((due, go_on))
                go_on()
            (name,) = self.random.choices(names, weights)
            self.count[name] += 1
            getattr(self, name)()

    def settle(self) -> None:
        """Everything goes on again: each process stores pages and finds those of all others."""
        for _, go_on in self.later:
            go_on()
        started = time.monotonic()
        for number, store in enumerate(self.stores):
            keys = [b"after-%d-%d" % (number, i) for i in range(8)]
            for other in self.stores:
                wait_for(
                    lambda s=store, o=other, k=keys: self._passes(s, o, k),
                    "pages of all are stored again, and found by all",
                )
        self.recovered_s.append(time.monotonic() - started)

    def _passes(self, store: StoreProcess, other: StoreProcess, keys: list[bytes]) -> bool:
        stored = set(store.ask("put", keys, 0)) <= {PageStatus.STORED, PageStatus.PRESENT}
        return stored and {row[0] for row in other.ask("get", keys)[0]} == {PageStatus.HIT}

    def _count_disks(self) -> None:
        for store in self.stores:
            for name in ("written", "read", "rebuilt", "check_failed", "no_space", "bad_extents"):
                self.count[f"disk {name}"] += store.ask("stats").get("ssd", {}).get(name, 0)

    def end(self) -> None:
        """In order, without an error; then nothing is lent to anybody any more."""
        self._count_disks()
        for store in self.stores:
            store.close()
        wait_for(lambda: self._lent() == 0, "the node has back what it lent")
        self.node.process.terminate()
        assert self.node.left()["event"] == "left"

    def _lent(self) -> int:
        config = str(self.server.folder / "keeper.json")
        done = subprocess.run(
            [*TENT, "ls", "--json", "--config", config], capture_output=True, text=True, check=True
        )
        return sum(row["lent"] or 0 for row in json.loads(done.stdout)["nodes"] if row["node"] == "keeper")

    def kill_all(self) -> None:
        for store in self.stores:
            if store.process.poll() is None:
                store.kill()
        self.node.close()
        self.server.close()
        self.disk.close()


@pytest.mark.timeout(_SECONDS + 240)
def test_invariants_1_and_10_chaos() -> None:
    print(f"\nseed {_SEED}")
    chaos = Chaos(_SEED)
    try:
        chaos.run(_SECONDS)
        chaos.settle()
        chaos.end()
    finally:
        chaos.kill_all()
        for name, number in sorted(chaos.count.items()):
            print(f"  {name:30} {number}")
        print(f"  recovered within {max(chaos.recovered_s, default=0):.2f} s")
