"""``tent bench store``: pages of 1 MiB put into and got from another process, verified, beside memcpy.

The batch figures are beside a plain memcpy of as many bytes. A single put is beside what it cannot do without: one
memcpy, one page check and one SET of a record, each measured in this run.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tent_core import _native
from tent_core.store import PageStatus, PageStore

from .bench_directory import client, record_bytes
from .common import Report, Say, interleave, quiet
from .floors import Floors
from .rivals import Absent, Rival

__all__ = ["measure"]

_PAGE = 1 << 20
_BATCH = 16
_CAPACITY_MIB = 256
_OWNER = """
import json, sys
from tent_core.store import PageStore
with PageStore.open(json.loads(sys.argv[1])) as store:
    print(store.node_name, flush=True)
    sys.stdin.read()
"""


@contextmanager
def _owner() -> Iterator[str]:
    """The process whose memory holds the pages; gives its node name."""
    settings = json.dumps({"store.capacity": f"{_CAPACITY_MIB}MiB", "store.extent": "32MiB"})
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER, settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the benchmark, which then closes its input
    )
    try:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        if not name:
            raise RuntimeError("the owner's process ended before it was ready; its error is above")
        yield name
    finally:
        process.communicate()


class _Pages:
    """Timed puts and gets of pages of 1 MiB, with keys that were never used before."""

    def __init__(self, store: PageStore, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._namespace = store.namespace({"model": f"bench-{time.time_ns()}"})
        self._numbers = itertools.count()
        self.source = np.random.default_rng(1).integers(0, 256, _BATCH * _PAGE, dtype=np.uint8)
        self.into = np.zeros(_BATCH * _PAGE, dtype=np.uint8)
        self._segments = [store.register(self.source), store.register(self.into)]
        self._last: list[bytes] = []

    def close(self) -> None:
        for segment in self._segments:
            segment.close()

    def _addresses(self, array: Any, count: int) -> Any:
        return np.arange(count, dtype=np.uint64) * np.uint64(_PAGE) + np.uint64(array.ctypes.data)

    def put(self, count: int) -> float:
        """Seconds of one put of ``count`` pages. What the one before it put is removed first, untimed."""
        if self._last:
            self._store.remove(self._namespace, self._last)
        keys = [b"page-%09d" % next(self._numbers) for _ in range(count)]
        addresses = self._addresses(self.source, count)
        started = time.perf_counter()
        status = self._store.put(self._namespace, keys, addresses, _PAGE, node=self._owner)
        seconds = time.perf_counter() - started
        _demand(status, PageStatus.STORED)
        self._last = keys
        return seconds

    def get(self, count: int) -> float:
        """Seconds of one get of the ``count`` pages put last, which must then be what was put."""
        addresses = self._addresses(self.into, count)
        started = time.perf_counter()
        status = self._store.get(self._namespace, self._last[:count], addresses, _PAGE)
        seconds = time.perf_counter() - started
        _demand(status, PageStatus.HIT)
        if not np.array_equal(self.into[: count * _PAGE], self.source[: count * _PAGE]):
            raise RuntimeError("a get returned other bytes than were put")
        self.into[: count * _PAGE] = 0
        return seconds

    def published(self) -> None:
        """Wait until the pages put last can be found in the directory."""
        deadline = time.monotonic() + 10
        while not all(status == PageStatus.HIT for status in self._store.exists(self._namespace, self._last)):
            if time.monotonic() > deadline:
                raise RuntimeError("pages that were put did not become visible within 10 s")


def _demand(status: Any, wanted: PageStatus) -> None:
    if not all(status == wanted):
        raise RuntimeError(
            f"expected {wanted.name} for each page, got {[PageStatus(s).name for s in set(status)]}"
        )


def _parts(pages: _Pages, floors: Floors, server: Any, size: int) -> float:
    """One memcpy, one page check and one SET: what a single put is made of."""
    copied = floors.memcpy(_PAGE, 1)
    started = time.perf_counter()
    _native.page_check(bytes(16), pages.source.ctypes.data, _PAGE)
    server.set("bench:one", b"x" * size)
    return copied + time.perf_counter() - started


def _beside(report: Report, pages: _Pages, python: str | None, pairs: int) -> None:
    """Ours and Mooncake's store in turn, where ``python`` has it."""
    report.say("starting mooncake_store")
    try:
        with Rival("mooncake_store", "tcp", python) as rival:
            report.notes.append(f"mooncake is version {rival.version}")
            for _ in range(2 * _CAPACITY_MIB // _BATCH):  # its memory is warm as well
                rival.timed("write", _PAGE, 1, _BATCH)
            for title, count in ((f"{_BATCH}x1MiB", _BATCH), ("1MiB_single", 1)):
                for name, op, ours in (("put", "write", pages.put), ("get", "read", pages.get)):
                    report.say(f"{name} {title} beside mooncake")
                    if name == "get":
                        pages.published()
                    both = interleave(partial(ours, count), partial(rival.timed, op, _PAGE, 1, count), pairs)
                    report.ratios[f"{name}_{title}_vs_mooncake"] = both.speed
                    report.speeds(f"{name} {title}", "mooncake", both, count * _PAGE)
    except Absent as reason:
        report.notes.append(f"not measured: {reason}")


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; takes seconds."""
    report = Report("store", say)
    say("put and get")
    pairs = 9 if quick else 40
    with _owner() as owner, PageStore.open({"store.capacity": 0}) as store, Floors() as floors:
        pages = _Pages(store, owner)
        server = client(store.directory.url)
        try:
            plain = partial(floors.memcpy, _PAGE, _BATCH)
            cold = interleave(partial(pages.put, _BATCH), plain, 3)
            report.speeds("put 16 x 1MiB into memory not yet touched", "memcpy", cold, _BATCH * _PAGE)
            # Floors and puts are of warm memory from here on.
            for _ in range(2 * _CAPACITY_MIB // _BATCH):
                pages.put(_BATCH)
            puts = interleave(partial(pages.put, _BATCH), plain, pairs)
            report.ratios["put_16x1MiB"] = puts.speed
            report.speeds("put 16 x 1MiB", "memcpy", puts, _BATCH * _PAGE)
            pages.published()
            gets = interleave(partial(pages.get, _BATCH), plain, pairs)
            report.ratios["get_16x1MiB"] = gets.speed
            report.speeds("get 16 x 1MiB", "memcpy", gets, _BATCH * _PAGE)
            size = record_bytes(server)
            single = interleave(partial(pages.put, 1), partial(_parts, pages, floors, server, size), pairs)
            report.ratios["put_1MiB_single"] = single.time
            report.figures["single put, and memcpy + check + SET, us"] = [
                round(sorted(times)[len(times) // 2] * 1e6) for times in (single.ours, single.floor)
            ]
            server.delete("bench:one")
            _beside(report, pages, rivals, pairs)
        finally:
            server.close()
            pages.close()
    return report
