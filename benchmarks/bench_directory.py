"""``tent bench directory``: a look-up of 1,000 keys beside one redis-py MGET of 1,000 records of the same size."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import redis

from tent_core.config import load_config
from tent_core.store import PageStore
from tent_metadata import open_directory, plain_url

from . import directory_scale
from .common import Report, Say, interleave, quiet

__all__ = ["client", "lookup", "measure", "record_bytes", "write_page"]

_KEYS = 1_000
_PAGE = 4096


def client(url: str) -> Any:
    """redis-py on the store's own server."""
    return redis.Redis.from_url(plain_url(url))


def record_bytes(server: Any) -> int:
    """The size of a page's record in the directory, as published."""
    for key in server.scan_iter(match="tent:*:p:*", count=1000):
        value = server.get(key)
        if value:
            return len(value)
    raise RuntimeError("no page record was published")


def _fill(store: PageStore, names: list[bytes]) -> Any:
    """Put one small page under each name, and wait until all of them can be seen."""
    namespace = store.namespace({"model": f"bench-{time.time_ns()}"})
    source = np.arange(_KEYS * _PAGE, dtype=np.uint64).astype(np.uint8)
    segment = store.register(source)
    try:
        addresses = np.arange(_KEYS, dtype=np.uint64) * np.uint64(_PAGE) + np.uint64(source.ctypes.data)
        store.put(namespace, names, addresses, _PAGE)
        deadline = time.monotonic() + 10
        while not all(status == 0 for status in store.exists(namespace, names)):
            if time.monotonic() > deadline:
                raise RuntimeError("the pages that were put did not become visible within 10 s")
    finally:
        segment.close()
    return namespace


def _timed(call: Any, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - started


def lookup(quick: bool, size: int = 105) -> float:
    """The directory's own part of it, without a store: time of one look-up beside one MGET of the same records."""
    count, pairs = (5, 5) if quick else (20, 15)
    config = load_config({"directory.timeout_ms": 5000}).directory
    with open_directory(config, cluster_id="bench") as directory:
        namespace, digests = bytes(16), [index.to_bytes(2, "big") * 8 for index in range(_KEYS)]
        directory.publish(namespace, [(digest, b"x" * size) for digest in digests], 0)
        server = client(directory.url)
        # The very same keys, so that neither side is helped by shorter ones.
        keys = list(server.scan_iter(match="tent:bench:*:p:*", count=1000))
        result = interleave(
            partial(_timed, partial(directory.lookup, namespace, digests), count),
            partial(_timed, partial(server.mget, keys), count),
            pairs,
        )
        server.delete(*keys)
        server.close()
    return result.time


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; takes seconds. There is no rival to it."""
    report = Report("directory", say)
    say("exists")
    names = [b"page-%06d" % index for index in range(_KEYS)]
    count, pairs = (5, 5) if quick else (20, 15)
    with PageStore.open({"store.capacity": "64MiB", "store.extent": "16MiB"}) as store:
        namespace = _fill(store, names)
        server = client(store.directory.url)
        size = record_bytes(server)
        plain = [b"bench:%06d" % index for index in range(_KEYS)]
        server.mset({key: b"x" * size for key in plain})
        result = interleave(
            partial(_timed, partial(store.exists, namespace, names), count),
            partial(_timed, partial(server.mget, plain), count),
            pairs,
        )
        server.delete(*plain)
        server.close()
    report.ratios["exists_1000"] = result.time
    say("look-ups")
    report.ratios["lookup_1000"] = lookup(quick, size)
    report.figures["bytes of a record"] = size
    report.figures["exists of 1,000 keys and MGET of 1,000 records, ms"] = [
        round(min(times) / count * 1e3, 2) for times in (result.ours, result.floor)
    ]
    say("what pages cost the server")
    report.figures.update(directory_scale.figures(directory_scale.measure_costs(quick, size)))
    return report


def write_page(report: Report, command: str, folder: Path) -> None:
    """directory-scale.md."""
    directory_scale.write_page(directory_scale.costs_of(report.figures), command, folder)
