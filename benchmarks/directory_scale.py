"""What pages and nodes cost a directory server, measured on a real one, and what follows for a thousand nodes."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import redis

from tent_core.config import load_config
from tent_metadata import Directory, open_directory, plain_url

from .refill import EveryFewMs, Refill, refill

__all__ = ["Costs", "costs_of", "figures", "measure_costs", "write_page"]

_BATCH = 256
_FIGURE = "directory server, "
_SHARD_CORE = 0.5  # of a core: what a shard should be busy with, at most
_SHARD_GIB = 16


@dataclass(frozen=True)
class Costs:
    """Of one server. Seconds are of its processor."""

    page_bytes: float
    publish_s: float
    lookup_s: float
    unpublish_s: float
    sign_of_life_s: float
    """A node's `get_node` and `put_node`."""
    listing_s: float
    """All records of a thousand nodes."""


def _spent(server: Any, work: Callable[[], None]) -> float:
    def now() -> float:
        info = server.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])

    before = now()
    work()
    return now() - before


def _digest(number: int) -> bytes:
    return (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big") * 2


def measure_costs(quick: bool, record_bytes: int) -> Costs:
    """On a server of this user's embedded directory, in a cluster of its own, that is emptied again."""
    pages = 20_000 if quick else 200_000
    config = load_config({"directory.timeout_ms": 10_000}).directory
    with open_directory(config, cluster_id=f"bench-scale-{os.getpid()}") as directory:
        server = redis.Redis.from_url(plain_url(directory.url))
        try:
            return _costs(directory, server, pages, record_bytes)
        finally:
            for key in server.scan_iter(match=f"tent:bench-scale-{os.getpid()}:*", count=1000):
                server.delete(key)
            server.close()


def _costs(directory: Directory, server: Any, pages: int, record_bytes: int) -> Costs:
    space, record = bytes(16), b"x" * record_bytes
    items = [(_digest(number), record) for number in range(pages)]
    batches = [items[start : start + _BATCH] for start in range(0, pages, _BATCH)]
    empty = int(server.info("memory")["used_memory"])
    publish = _spent(server, lambda: _each(batches, lambda batch: directory.publish(space, batch, 0)))
    filled = int(server.info("memory")["used_memory"])
    lookup = _spent(
        server, lambda: _each(batches, lambda batch: directory.lookup(space, [digest for digest, _ in batch]))
    )
    nodes, blob = 1_000, b"d" * 300
    names = [f"node-{number:04d}" for number in range(nodes)]

    def live() -> None:
        for name in names:
            directory.get_node(name)
            directory.put_node(name, name.encode().ljust(16), blob, 60_000)

    sign_of_life = _spent(server, live) / nodes
    listing = _spent(server, lambda: _each(range(20), lambda _: directory.nodes())) / 20
    unpublish = _spent(server, lambda: _each(batches, directory.unpublish))
    return Costs(
        (filled - empty) / pages, publish / pages, lookup / pages, unpublish / pages, sign_of_life, listing
    )


def _each(batches: Any, do: Callable[[Any], Any]) -> None:
    for batch in batches:
        do(batch)


def write_page(costs: Costs, command: str, folder: Path) -> None:
    """directory-scale.md: the costs, what follows from them, and what breaks first."""
    text = _PAGE.format(
        command=command,
        machine=f"{os.cpu_count()} cores of {platform.machine()}",
        date=time.strftime("%Y-%m-%d"),
        costs=_cost_rows(costs),
        memory=_memory_rows(costs),
        load=_load_rows(costs),
        refill=_refill_rows(costs),
    )
    (folder / "directory-scale.md").write_text(text, encoding="utf-8")


def _cost_rows(costs: Costs) -> str:
    rows = [
        ("memory of a page: key and record of one replica", f"{costs.page_bytes:.0f} bytes"),
        ("publishing a page", f"{costs.publish_s * 1e6:.1f} µs"),
        ("looking a page up", f"{costs.lookup_s * 1e6:.2f} µs"),
        ("taking a page out", f"{costs.unpublish_s * 1e6:.1f} µs"),
        ("a node's sign of life", f"{costs.sign_of_life_s * 1e6:.0f} µs"),
        ("listing 1,000 nodes", f"{costs.listing_s * 1e3:.1f} ms"),
    ]
    return "\n".join(f"| {what} | {cost} |" for what, cost in rows)


def _memory_rows(costs: Costs) -> str:
    rows = []
    for millions in (1, 10, 100, 1000):
        gib = millions * 1e6 * costs.page_bytes / 2**30
        shards = max(1, math.ceil(gib / _SHARD_GIB))
        rows.append(f"| {millions:,} M | {millions * 1e6 / 2**20:,.1f} TiB | {gib:,.1f} GiB | {shards} |")
    return "\n".join(rows)


def _load_rows(costs: Costs) -> str:
    """Each node: 1,000 pages stored and as many evicted a second, 4,000 looked up."""
    rows = []
    for nodes in (10, 100, 1_000):
        stored = nodes * 1_000 * (costs.publish_s + costs.unpublish_s)
        found = nodes * 4_000 * costs.lookup_s
        # Sign of life each third of 10 s, generations of two namespaces each 2 s, a listing each 3.3 s + 20 ms a node.
        kept = nodes * (0.3 * costs.sign_of_life_s + costs.lookup_s)
        kept += nodes / (3.3 + 0.02 * nodes) * costs.listing_s * nodes / 1_000
        shards = max(1, math.ceil((stored + found) / _SHARD_CORE))
        rows.append(
            f"| {nodes:,} | {stored:.2f} | {found:.2f} | {kept:.3f} | {shards} | {kept / _SHARD_CORE:.0%} |"
        )
    return "\n".join(rows)


def _refill_rows(costs: Costs) -> str:
    rows = []
    server = partial(refill, publish_s=costs.publish_s, lookup_s=costs.lookup_s)
    for nodes, pages in ((1, 100_000), (10, 100_000), (100, 100_000), (1_000, 20_000)):
        floor = nodes * pages * costs.publish_s
        ours = server(nodes, pages)
        plain = server(nodes, pages, pacing=EveryFewMs, limit_s=300.0)
        rows.append(f"| {nodes:,} × {pages:,} | {floor:.0f} s | {_told(ours)} | {_told(plain)} |")
    return "\n".join(rows)


def _told(result: Refill) -> str:
    took = "never" if result.seconds is None else f"{result.seconds:.0f} s"
    return f"{took} | {result.answered:.1%}"


def figures(costs: Costs) -> dict[str, float]:
    """For reading, and for ``--json``."""
    return {_FIGURE + name: value for name, value in asdict(costs).items()}


def costs_of(found: dict[str, Any]) -> Costs:
    """What `figures` made."""
    return Costs(
        **{name.removeprefix(_FIGURE): value for name, value in found.items() if name.startswith(_FIGURE)}
    )


_PAGE = """# How far one directory goes

Made by `{command}` ({date}, {machine}). The costs are measured on a real
server: its processor time and its memory, not the client's. The rest is arithmetic and a simulation on top of them
([benchmarks/refill.py](../benchmarks/refill.py)).
What the directory is: [directory.md](directory.md).

| what | costs the server |
|---|---|
{costs}

Batches of 256, as nodes send them.

## Memory

| pages | of 1 MiB each | directory | shards of 16 GiB |
|---|---|---|---|
{memory}

## Work

A node that stores 1,000 pages of 1 MiB a second (1 GiB/s), evicts as many, and whose engine asks for 4,000:

| nodes | cores: storing, evicting | look-ups | nodes' own | shards at half a core | nodes' own share of one shard |
|---|---|---|---|---|---|
{load}

Pages are spread evenly over 256 buckets, so they take any number of shards up to that. The nodes' own records lie in
one bucket: the last column is what they take of the shard that has it.

## A directory that has lost its memory

Every node tells it again what it holds, at once, while 500 look-ups of 64 pages a second go on. *Floor* is the server's
time for the pages alone; *paced* is what nodes do (`tent_core/store/pace.py`), *plain* the same as fast as the server
answers. The share is that of look-ups answered within 100 ms; the others are misses. One server; `never` is more than
300 s (plain) or 1,500 s.

| nodes × pages | floor | paced | look-ups | plain | look-ups |
|---|---|---|---|---|---|
{refill}

## What gives first

- **Publishing**, long before memory or look-ups: it costs the most per page, and every page that is evicted costs a
  second change. When a shard is slower than the nodes, batches wait in the nodes; pages stay readable where they are,
  and are found by others later. Nothing waits for it in a serving engine. More shards help in proportion.
- **Look-ups** then take longer than `directory.timeout_ms`: they are misses, counted as `directory_down`, and the
  breaker keeps the engines from asking for up to a second. Answers stay right, hits are lost.
- **The nodes' bucket** cannot be spread. Listing all nodes is what costs; each node does that less often the more there
  are (`3.3 s + 20 ms × nodes`).
"""
