"""``tent demo --fast``: the data engine alone. Two processes, a gigabyte, every byte verified.

The owner, a process of its own, fills a segment; this process reads it, first through shared memory and then, with
that switched off, over TCP on loopback. While bytes move, a table shows what each link is doing.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tent_core.cli.table import mega, rate, table
from tent_core.config import format_size
from tent_core.errors import InvalidArgument, NoMemory, TentError
from tent_core.topology.host import cgroup_memory_limit

if TYPE_CHECKING:
    from tent_core import Engine, Intent, Segment

__all__ = ["run"]

_CELL = 1 << 20
_RANGE = 16 << 20
_SEGMENT = "demo"
_STEP_S = 0.1
Bytes = npt.NDArray[np.uint8]


def _base() -> Bytes:
    return np.random.default_rng(20260401).integers(0, 256, _CELL, dtype=np.uint8)


def _fill(view: Bytes) -> None:
    """Bytes that differ from cell to cell, so that a misplaced cell is noticed: a random cell, xored with its index."""
    base = _base().view(np.uint64)
    for index in range(len(view) // _CELL):
        np.bitwise_xor(
            base, np.uint64(index + 1), out=view[index * _CELL : (index + 1) * _CELL].view(np.uint64)
        )


def _wrong_cells(view: Bytes) -> int:
    base = _base().view(np.uint64)
    cells = view.view(np.uint64).reshape(-1, _CELL // 8)
    return sum(not np.array_equal(cell ^ np.uint64(index + 1), base) for index, cell in enumerate(cells))


def serve(nbytes: int, shm: bool) -> None:
    """The owner's process: prints its descriptor and stays until standard input closes."""
    from tent_core import Engine

    with Engine(_settings(shm)) as engine:
        segment = engine.allocate(nbytes, name=_SEGMENT, access="r")
        _fill(segment.view)
        print(base64.b64encode(engine.descriptor()).decode(), flush=True)
        sys.stdin.read()


def _settings(shm: bool) -> dict[str, Any]:
    return {"shm.enabled": shm, "tcp.enabled": not shm}


@contextmanager
def _owner(nbytes: int, shm: bool) -> Iterator[bytes]:
    code = f"from tent_core.cli.demo_fast import serve; serve({nbytes}, {shm})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            _, errors = process.communicate()
            raise TentError(
                f"the owner's process ended: {errors.strip().splitlines()[-1:] or process.returncode}"
            )
        yield base64.b64decode(line)
    finally:
        process.communicate()


class _Live:
    """A table redrawn in place on a terminal; elsewhere only its last state is printed."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._lines = 0

    def draw(self, text: str, *, last: bool = False) -> None:
        live = sys.stdout.isatty()
        if self._quiet or not (live or last):
            return
        if self._lines:
            print(f"\x1b[{self._lines}F\x1b[0J", end="")
        print(text, flush=True)
        self._lines = 0 if last else text.count("\n") + 1


def _links(engine: Engine, done: float) -> str:
    head = ("transport", "link", "state", "rate", "latency", "moved", "slices")
    rows = []
    for link in engine.links():
        latency = f"{link['latency_ns'] / 1e3:.0f} us"
        names = tuple(str(link[name]) for name in ("transport", "name", "state"))
        rows.append((*names, rate(link["rate_Bps"], 1.0), latency, mega(link["bytes"]), str(link["slices"])))
    bar = "#" * round(done * 40)
    return f"{table(head, rows)}\n[{bar:<40}] {done:4.0%}"


def _intent(peer: Any, into: Segment) -> Intent:
    """The owner's whole segment into ours, as ranges in order, so that progress can be seen."""
    from tent_core import Intent

    remote = peer.segment(_SEGMENT)
    offsets = np.arange(0, remote.length, _RANGE, dtype=np.uint64)
    return Intent(
        op="read",
        peer=peer,
        local=offsets + np.uint64(into.address),
        remote_segment=remote.id,
        remote_offset=offsets,
        length=np.minimum(np.uint64(_RANGE), np.uint64(remote.length) - offsets),
    )


def _read(engine: Engine, intent: Intent, live: _Live) -> float:
    """Seconds from submit to the last byte in place."""
    started = time.perf_counter()
    transfer = engine.submit(intent)
    while not transfer.wait(_STEP_S):
        live.draw(_links(engine, float(np.mean(transfer.status == 1))))
    seconds = time.perf_counter() - started
    transfer.result()
    transfer.wait_released(10)
    return seconds


def _phase(title: str, nbytes: int, shm: bool, quiet: bool) -> dict[str, Any]:
    from tent_core import Engine

    if not quiet:
        print(f"\n{title}: filling {format_size(nbytes)} in another process ...", flush=True)
    with _owner(nbytes, shm) as blob, Engine(_settings(shm)) as engine:
        into = engine.allocate(nbytes, name="into")
        peer = engine.connect(blob)
        live = _Live(quiet)
        intent = _intent(peer, into)
        # The first time, both sides still have to touch the memory; the second shows what the link does.
        first = _read(engine, intent, live)
        wrong = _wrong_cells(into.view)
        into.view[:] = 0
        again = _read(engine, intent, live)
        live.draw(_links(engine, 1.0), last=True)
        wrong += _wrong_cells(into.view)
        peer.close()
    if not quiet:
        verdict = "every byte as it should be" if not wrong else f"{wrong} MiB are WRONG"
        print(
            f"{format_size(nbytes)}: {rate(nbytes, first)} at first, {rate(nbytes, again)} again; {verdict}"
        )
    return {"name": title, "bytes": nbytes, "first_s": first, "again_s": again, "wrong_cells": wrong}


def _available() -> int:
    with open("/proc/meminfo", encoding="ascii") as stream:
        facts = dict(line.split(":", 1) for line in stream)
    free = int(facts["MemAvailable"].split()[0]) * 1024
    limit = cgroup_memory_limit()
    return min(free, limit) if limit else free


def run(options: argparse.Namespace) -> int:
    """Exit status 0 when every byte arrived as it was."""
    nbytes = options.bytes // _CELL * _CELL
    if not nbytes:
        raise InvalidArgument("--bytes must be at least 1MiB")
    if 2.2 * nbytes > _available():
        raise NoMemory(
            f"two processes with {format_size(nbytes)} each do not fit in {format_size(_available() >> 20 << 20)} of "
            "free memory: try --bytes 64MiB"
        )
    phases = [("shared memory", True), ("TCP over loopback", False)]
    results = [_phase(title, nbytes, shm, options.json) for title, shm in phases]
    wrong = sum(item["wrong_cells"] for item in results)
    if options.json:
        print(json.dumps({"ok": not wrong, "phases": results}))
    elif not wrong:
        print("\nThis was the data engine alone. 'tent demo' puts it under two real serving processes.")
    return 1 if wrong else 0
