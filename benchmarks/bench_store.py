"""``tent bench store``: pages put into and got from another process, verified and not, beside memcpy and raw sockets.

The batch figures are beside a plain memcpy of as many bytes, over TCP beside raw sockets. A single put is beside what
it cannot do without: one memcpy, one page check and one SET of a record, each measured in this run.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

_MIB = 1 << 20
_PAGE = _MIB
_BATCH = 16
_CAPACITY_MIB = 512
_OWNER = """
import json, sys
from tent_core.store import PageStore
with PageStore.open(json.loads(sys.argv[1])) as store:
    print(store.node_name, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class _Shape:
    """A batch: what it is called, a page's bytes, and how many."""

    title: str
    nbytes: int
    count: int

    @property
    def total(self) -> int:
        return self.nbytes * self.count


_SHAPES = (
    _Shape("16x1MiB", _MIB, 16),
    _Shape("128x1MiB", _MIB, 128),
    _Shape("256x64KiB", _MIB // 16, 256),
)


@contextmanager
def _owner(**more: object) -> Iterator[str]:
    """The process whose memory holds the pages; gives its node name."""
    settings = json.dumps({"store.capacity": f"{_CAPACITY_MIB}MiB", "store.extent": "32MiB", **more})
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
    """Timed puts and gets of pages of one size, with keys that were never used before."""

    def __init__(self, store: PageStore, owner: str, shape: _Shape) -> None:
        self._store = store
        self._owner = owner
        self._nbytes = shape.nbytes
        self._namespace = store.namespace({"model": f"bench-{time.time_ns()}"})
        self._numbers = itertools.count()
        self.source = np.random.default_rng(1).integers(0, 256, shape.total, dtype=np.uint8)
        self.into = np.zeros(shape.total, dtype=np.uint8)
        self._segments = [store.register(self.source), store.register(self.into)]
        self._last: list[bytes] = []

    def close(self) -> None:
        if self._last:
            self._store.remove(self._namespace, self._last)
        for segment in self._segments:
            segment.close()

    def _addresses(self, array: Any, count: int) -> Any:
        return np.arange(count, dtype=np.uint64) * np.uint64(self._nbytes) + np.uint64(array.ctypes.data)

    def put(self, count: int) -> float:
        """Seconds of one put of ``count`` pages. What the one before it put is removed first, untimed."""
        if self._last:
            self._store.remove(self._namespace, self._last)
        keys = [b"page-%09d" % next(self._numbers) for _ in range(count)]
        addresses = self._addresses(self.source, count)
        started = time.perf_counter()
        status = self._store.put(self._namespace, keys, addresses, self._nbytes, node=self._owner)
        seconds = time.perf_counter() - started
        _demand(status, PageStatus.STORED)
        self._last = keys
        return seconds

    def get(self, count: int) -> float:
        """Seconds of one get of the ``count`` pages put last, which must then be what was put."""
        addresses = self._addresses(self.into, count)
        started = time.perf_counter()
        status = self._store.get(self._namespace, self._last[:count], addresses, self._nbytes)
        seconds = time.perf_counter() - started
        _demand(status, PageStatus.HIT)
        nbytes = count * self._nbytes
        if not np.array_equal(self.into[:nbytes], self.source[:nbytes]):
            raise RuntimeError("a get returned other bytes than were put")
        self.into[:nbytes] = 0
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


def _batches(report: Report, store: PageStore, owner: str, floors: Floors, shape: _Shape, pairs: int) -> None:
    """Puts and gets of one shape, verified, beside memcpy."""
    pages = _Pages(store, owner, shape)
    plain = partial(floors.memcpy, shape.nbytes, shape.count)
    try:
        for _ in range(2 * _CAPACITY_MIB * _MIB // shape.total):  # floors and puts are of warm memory
            pages.put(shape.count)
        for op in ("put", "get"):
            report.say(f"{op} {shape.title}")
            if op == "get":
                pages.published()
            both = interleave(partial(getattr(pages, op), shape.count), plain, pairs)
            report.ratios[f"{op}_{shape.title}"] = both.speed
            report.speeds(f"{op} {shape.title}", "memcpy", both, shape.total)
    finally:
        pages.close()


def _unverified(report: Report, owner: str, floors: Floors, pairs: int) -> None:
    """Gets that check nothing: what the rest of them costs."""
    shape = _SHAPES[0]
    report.say(f"get {shape.title}, unverified")
    with PageStore.open({"store.capacity": 0, "store.check": False}) as store:
        pages = _Pages(store, owner, shape)
        try:
            pages.put(shape.count)
            pages.published()
            plain = partial(floors.memcpy, shape.nbytes, shape.count)
            both = interleave(partial(pages.get, shape.count), plain, pairs)
            report.ratios[f"get_{shape.title}_unverified"] = both.speed
            report.speeds(f"get {shape.title}, unverified", "memcpy", both, shape.total)
        finally:
            pages.close()


def _over_tcp(report: Report, floors: Floors, pairs: int) -> None:
    """The same between nodes that share no memory, beside raw sockets."""
    shape = _SHAPES[0]
    settings: dict[str, object] = {"shm.enabled": False}
    with _owner(**settings) as owner, PageStore.open({"store.capacity": 0, **settings}) as store:
        pages = _Pages(store, owner, shape)
        try:
            for _ in range(2 * _CAPACITY_MIB * _MIB // shape.total):
                pages.put(shape.count)
            for op, raw in (("put", "write"), ("get", "read")):
                report.say(f"{op} {shape.title} over TCP")
                if op == "get":
                    pages.published()
                # The better of one stream and two, chosen before the pairs and then kept.
                tried = {n: min(floors.stream(raw, _MIB, shape.count, n) for _ in range(3)) for n in (1, 2)}
                best = min(tried, key=lambda n: tried[n])
                floor = partial(floors.stream, raw, _MIB, shape.count, best)
                both = interleave(partial(getattr(pages, op), shape.count), floor, pairs)
                report.ratios[f"{op}_{shape.title}_tcp"] = both.speed
                report.speeds(f"{op} {shape.title} over TCP", f"raw, {best} streams", both, shape.total)
        finally:
            pages.close()


def _single(report: Report, pages: _Pages, floors: Floors, pairs: int, store: PageStore) -> None:
    server = client(store.directory.url)
    try:
        size = record_bytes(server)
        single = interleave(partial(pages.put, 1), partial(_parts, pages, floors, server, size), pairs)
        server.delete("bench:one")
    finally:
        server.close()
    report.ratios["put_1MiB_single"] = single.time
    report.figures["single put, and memcpy + check + SET, us"] = [
        round(sorted(times)[len(times) // 2] * 1e6) for times in (single.ours, single.floor)
    ]


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; takes seconds."""
    report = Report("store", say)
    say("put into cold memory")
    pairs = 9 if quick else 40
    with _owner() as owner, PageStore.open({"store.capacity": 0}) as store, Floors() as floors:
        pages = _Pages(store, owner, _SHAPES[0])
        try:
            plain = partial(floors.memcpy, _PAGE, _BATCH)
            cold = interleave(partial(pages.put, _BATCH), plain, 3)
            report.speeds("put 16 x 1MiB into memory not yet touched", "memcpy", cold, _BATCH * _PAGE)
            for shape in _SHAPES[:1] if quick else _SHAPES:
                _batches(report, store, owner, floors, shape, pairs)
            _unverified(report, owner, floors, pairs)
            _single(report, pages, floors, pairs, store)
            _over_tcp(report, floors, pairs)
            _beside(report, pages, rivals, pairs)
        finally:
            pages.close()
    return report
