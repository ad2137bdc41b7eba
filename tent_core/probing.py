"""A node's part in ``tent net check``: it tries each of its rails towards another node, one at a time.

Each pair of rails gets an engine of its own that knows no other rail, so that what is measured went over that pair and
over nothing else. All of it happens on a thread beside the serving process, and moves little.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import statistics
import threading
import time
from typing import Any

import numpy as np

from tent_core import _native
from tent_core.config import Config
from tent_core.errors import TentError

__all__ = ["PROBE_SEGMENT", "Prober", "probe"]

log = logging.getLogger("tent")
PROBE_SEGMENT = "tent-probe"
_SMALL = 4096
_SMALL_COUNT = 20
_PATIENCE_S = 0.5  # a small read that takes longer counts as lost
_IN_FLIGHT = 3


class Prober:
    """Does the probes that observers ask of this node. ``tick`` is called by the engine's notifier and never waits."""

    def __init__(self, native: Any, config: Config) -> None:
        self._native = native
        self._config = config
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def tick(self) -> None:
        if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()):
            return
        job = _native.take_probe(self._native)
        if job is None:
            return
        self._thread = threading.Thread(target=self._do, args=job, name="tent-probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits for the rail that is being tried."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _do(self, ticket: int, descriptor: bytes, milliseconds: int) -> None:
        try:
            own = self._native.descriptor()
            rows = probe(self._config, own, descriptor, milliseconds / 1e3, self._stop)
            report: dict[str, Any] = {"links": rows}
        except Exception as error:  # whoever asked is told
            log.warning("a probe of another node's rails failed: %s", error)
            report = {"links": [], "error": str(error)}
        _native.probe_done(self._native, ticket, json.dumps(report))


def probe(
    config: Config, own: bytes, descriptor: bytes, seconds: float, stop: threading.Event | None = None
) -> list[dict[str, Any]]:
    """Tries the pairs of rails that links would use. A rail that one end has and the other lacks is an error of its
    own: its interface is down, or has no address."""
    local, remote = (_native.describe(blob)["rails"] for blob in (own, descriptor))
    rows = []
    for i, j in _pairs([rail[2] for rail in local], [rail[2] for rail in remote]):
        if stop is not None and stop.is_set():
            break
        here = local[i] if i is not None else None
        there = remote[j] if j is not None else None
        name = here[2] if here else there[2] if there else ""
        row: dict[str, Any] = {
            "local": here[2] if here else name,
            "remote": there[2] if there else name,
        }
        if here is None or there is None or j is None:
            row["error"] = f"{'the reader' if here is None else 'the owner'} has no rail '{name}' (now)"
        else:
            try:
                row.update(_try_pair(config, here[0], _native.only_rail(descriptor, j), seconds))
            except TentError as error:
                row["error"] = str(error)
        rows.append(row)
    return rows


def _pairs(local: list[str], remote: list[str]) -> list[tuple[int | None, int | None]]:
    """By name where both ends have a name, else by position, as the engine does it. None: a rail without partner."""
    if not local or not remote:
        return []
    if not set(local) & set(remote):
        return [(i % len(local), i % len(remote)) for i in range(max(len(local), len(remote)))]
    pairs: list[tuple[int | None, int | None]] = [
        (i, remote.index(name) if name in remote else None) for i, name in enumerate(local)
    ]
    return pairs + [(None, j) for j, name in enumerate(remote) if name not in local]


def _try_pair(config: Config, address: str, descriptor: bytes, seconds: float) -> dict[str, Any]:
    from tent_core.engine import Engine

    alone = dataclasses.replace(
        config,
        node=dataclasses.replace(config.node, name="", bind=(address,), advertise=(), port=0),
        shm=dataclasses.replace(config.shm, enabled=False),
        tcp=dataclasses.replace(config.tcp, enabled=True),
        recorder=dataclasses.replace(config.recorder, memory=0, dir="", signal=False),
    )
    with Engine(alone, name=f"probe-{secrets.token_hex(4)}") as engine:
        begun = time.monotonic()
        peer = engine.connect(descriptor)
        connected = time.monotonic() - begun
        remote = peer.segment(PROBE_SEGMENT)
        memory = np.empty(_IN_FLIGHT * remote.length, dtype=np.uint8)
        engine.register(memory, access="private")
        times, lost = _small_reads(engine, peer, memory, remote)
        rate = _bulk(engine, peer, memory, remote, seconds) if times else 0.0
    return {
        "connect_ms": connected * 1e3,
        "probes": _SMALL_COUNT,
        "lost": lost,
        "latency_us": statistics.median(times) * 1e6 if times else None,
        "worst_us": max(times) * 1e6 if times else None,
        "rate_Bps": round(rate),
    }


def _small_reads(engine: Any, peer: Any, memory: Any, remote: Any) -> tuple[list[float], int]:
    """Times of the small reads that came back in time, and how many did not."""
    from tent_core.engine import Intent

    address = memory.ctypes.data
    # The first one makes the connection.
    first = engine.submit(Intent("read", peer, [address], remote, [0], _SMALL, deadline=2 * _PATIENCE_S))
    if not _good(first):
        return [], _SMALL_COUNT
    times, lost = [], 0
    for _ in range(_SMALL_COUNT):
        begun = time.perf_counter()
        intent = Intent(
            "read", peer, [address], remote, [0], _SMALL, deadline=_PATIENCE_S, priority="interactive"
        )
        if _good(engine.submit(intent)):
            times.append(time.perf_counter() - begun)
        else:
            lost += 1
            if lost >= 3:  # it is dead: the rest would only take time
                return times, lost + _SMALL_COUNT - len(times) - lost
    return times, lost


def _good(transfer: Any) -> bool:
    try:
        transfer.result()
    except TentError:
        return False
    return True


def _bulk(engine: Any, peer: Any, memory: Any, remote: Any, seconds: float) -> float:
    """Bytes a second over ``seconds`` of full load."""
    from tent_core.engine import Intent

    size = remote.length

    def submit(slot: int) -> Any:
        address = memory.ctypes.data + slot * size
        return engine.submit(
            Intent("read", peer, [address], remote, [0], size, priority="bulk", deadline=2 + seconds)
        )

    begun = time.monotonic()
    waiting = [submit(slot) for slot in range(_IN_FLIGHT)]
    moved, slot = 0, 0
    while time.monotonic() - begun < seconds:
        if not _good(waiting[slot]):
            break
        moved += size
        waiting[slot] = submit(slot)
        slot = (slot + 1) % _IN_FLIGHT
    for transfer in waiting:
        moved += size if _good(transfer) else 0
    return moved / (time.monotonic() - begun)
