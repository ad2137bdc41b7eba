"""``tent bench hitratio``: how much of what is asked for the store still has, beside other ways to choose what goes.

The store is the real one, natively, with small pages and no directory. Everybody sees the same requests
(conversations.py) and has room for as many pages; the caches beside it (caches.py) evict page by page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core import _native
from tent_core.sim.chart import Panel, svg
from tent_core.store.reason import PageStatus
from tent_core.store.writer import low_water

from .caches import Cache, Fifo, Lru, Optimum, S3Fifo, uses
from .common import Report, Say, quiet
from .conversations import Request, Workload, conversations

__all__ = ["NativePool", "measure", "write_page"]

_PAGE = 4096
_EXTENT_PAGES = 16  # 64 tokens of a model of 8 billion parameters are 8 MiB, or 4: in extents of 64 MiB
_SHARES = (64, 32, 16, 8, 4, 2)  # the pool has room for one page in so many of the trace's
_POLICIES = ("FIFO", "LRU", "S3-FIFO", "TENT", "optimum")
_WARM = 4  # of the requests, the first one in so many only fill the caches


def _digests(pages: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Numbers made to look like digests (splitmix64)."""
    numbers = np.asarray(pages, dtype=np.uint64).repeat(2).reshape(-1, 2)
    words: Any = (numbers * np.uint64(2) + np.arange(2, dtype=np.uint64) + np.uint64(1)) * np.uint64(
        0x9E3779B97F4A7C15
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    digests: npt.NDArray[np.uint8] = (words ^ (words >> np.uint64(31))).view(np.uint8)
    return digests


class NativePool:
    """A native store with room for so many pages, kept as upkeep and a put into a full pool keep it."""

    def __init__(self, pages: int) -> None:
        extent = -(-_EXTENT_PAGES * (_PAGE + 64) // 4096) * 4096
        count = max(4, pages // _EXTENT_PAGES)
        self._memory = np.zeros(extent * count + 4096, dtype=np.uint8)
        base = -(-self._memory.ctypes.data // 4096) * 4096
        self._epochs = np.ones(count, dtype=np.uint32)
        self._extent, self._low_water = extent, low_water(count)
        self._page = np.zeros(_PAGE, dtype=np.uint8)
        self.native = _native.NativeStore(
            base, extent * count, extent, self._epochs.ctypes.data, 1, "bench", bytes(16), 1 << 20
        )

    def _where(self, count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        address = np.full((count, 1), self._page.ctypes.data, dtype=np.uint64)
        return address, np.full((count, 1), _PAGE, dtype=np.uint64)

    def get(self, pages: Sequence[int]) -> list[bool]:
        if not pages:
            return []
        found = self.native.get(_digests(pages), *self._where(len(pages)), False) == PageStatus.HIT
        hits: list[bool] = found.tolist()
        return hits

    def put(self, pages: Sequence[int]) -> None:
        """A batch at a time, as large as an extent, so that room is made as it is in between two puts."""
        for start in range(0, len(pages), _EXTENT_PAGES):
            left = _digests(pages[start : start + _EXTENT_PAGES])
            while len(left):
                status, _ = self.native.put(bytes(15) + b"\1", 0, left, *self._where(len(left)))
                left = left[status == PageStatus.NO_SPACE]
                if len(left) and not self._reclaim():
                    return
            while self.native.free_extents < self._low_water and self._reclaim():
                pass

    def _reclaim(self) -> bool:
        started = self.native.begin_reclaim(self._extent)
        if started is None:
            return False
        self.native.finish_reclaim(started[0])
        return True


class _ByPage:
    """A cache of single pages, asked as the store is: what a prompt begins with, then what it lacks is added."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def get(self, pages: Sequence[int]) -> list[bool]:
        return [self._cache.get(page) for page in pages]

    def put(self, pages: Sequence[int]) -> None:
        for page in pages:
            self._cache.add(page)


class _Clairvoyant:
    """`Optimum` must see every page's place in the trace once, in order, so it adds while it is asked."""

    def __init__(self, cache: Optimum) -> None:
        self._cache = cache

    def get(self, pages: Sequence[int]) -> list[bool]:
        hits = []
        for page in pages:
            hits.append(self._cache.get(page))
            if not hits[-1]:
                self._cache.add(page)
        return hits

    def put(self, pages: Sequence[int]) -> None:
        """The prompt's pages are in, or were not worth it."""

    def answer(self, pages: Sequence[int]) -> None:
        self.get(pages)


@dataclass(frozen=True)
class _Found:
    """Of the pages asked for: the share that was there, and that which the prompts began with, so of use at once."""

    pages: float
    prefix: float


def _replay(pool: Any, requests: Sequence[Request]) -> _Found:
    asked = found = leading = 0
    for place, request in enumerate(requests):
        hits = pool.get(request.prompt)
        pool.put([page for page, hit in zip(request.prompt, hits, strict=True) if not hit])
        getattr(pool, "answer", pool.put)(request.answer)
        if place * _WARM >= len(requests):
            asked += len(hits)
            found += sum(hits)
            leading += hits.index(False) if False in hits else len(hits)
    return _Found(found / asked, leading / asked)


def _pools(pages: int, following: Sequence[int]) -> Iterable[tuple[str, Any]]:
    yield "FIFO", _ByPage(Fifo(pages))
    yield "LRU", _ByPage(Lru(pages))
    yield "S3-FIFO", _ByPage(S3Fifo(pages))
    yield "TENT", NativePool(pages)
    yield "optimum", _Clairvoyant(Optimum(pages, following))


def measure(quick: bool, rivals: str | None = None, say: Say = quiet) -> Report:
    """Run it; seconds when ``quick``, else minutes."""
    del rivals
    report = Report("hitratio", say)
    requests = list(conversations(Workload(requests=2000 if quick else 12_000)))
    trace = [page for request in requests for page in (*request.prompt, *request.answer)]
    distinct, following = len(set(trace)), uses(trace)
    rows: list[dict[str, Any]] = []
    for share in _SHARES[2::2] if quick else _SHARES:
        pages = distinct // share
        row: dict[str, Any] = {"room": f"1/{share}", "pages": pages}
        for name, pool in _pools(pages, following):
            say(f"room for 1/{share} of the pages: {name}")
            result = _replay(pool, requests)
            row[name], row[f"{name} prefix"] = result.pages, result.prefix
            if isinstance(pool, NativePool):
                stats = pool.native.stats()
                row["moved"] = stats["moved_bytes"] / stats["stored_bytes"]
        rows.append(row)
    report.figures["requests"], report.figures["pages asked for"] = len(requests), len(trace)
    report.figures["distinct pages"] = distinct
    report.figures["pools"] = rows
    for policy in ("FIFO", "LRU", "S3-FIFO", "optimum"):
        name = policy.lower().replace("-", "")
        report.ratios[f"beside_{name}"] = min(row["TENT"] / row[policy] for row in rows)
    report.ratios["prefix_beside_s3fifo"] = min(row["TENT prefix"] / row["S3-FIFO prefix"] for row in rows)
    report.ratios["moved_per_stored"] = max(row["moved"] for row in rows)
    return report


def write_page(report: Report, command: str, folder: Path) -> None:
    """hit-ratio.md and .svg."""
    rows, figures = report.figures["pools"], report.figures
    w = Workload()
    lines = [
        "# Hit ratio",
        "",
        f"Made by `{command}`; the same command gives the same figures. {figures['requests']:,} requests of",
        f"conversations ask for {figures['pages asked for']:,} pages, {figures['distinct pages']:,} of them distinct.",
        f"A page is {w.block} tokens and stands for all before them. Conversations belong to {w.applications}",
        f"applications with a shared system prompt, half of them are about one of {w.documents:,} documents (both by",
        f"Zipf's law), have {w.turns:g} turns on average, and people think for {w.think:g} s (median) in between:",
        "[benchmarks/conversations.py](../benchmarks/conversations.py). The first quarter only fills the caches.",
        "",
        f"TENT is the store itself, with extents of {_EXTENT_PAGES} pages; the others evict single pages",
        "([benchmarks/caches.py](../benchmarks/caches.py)), and the optimum knows the future. *Room* is that of the",
        "pool, as a share of the distinct pages. *Prefix* counts only the pages that a prompt begins with, up to the",
        "first that is missing: what a serving engine can use. *Moved* is bytes that reclaiming copied within the pool",
        "for each byte stored. What the store does: docs/store.md.",
        "",
        "![Hit ratio by size of the pool](hit-ratio.svg)",
        "",
        "| room | pages | " + " | ".join(_POLICIES) + " | prefix: S3-FIFO | LRU | TENT | moved |",
        "|" + "---|" * (len(_POLICIES) + 6),
    ]
    for row in rows:
        cells = [row["room"], f"{row['pages']:,}", *(f"{row[name]:.1%}" for name in _POLICIES)]
        cells += [f"{row[f'{name} prefix']:.1%}" for name in ("S3-FIFO", "LRU", "TENT")]
        lines.append("| " + " | ".join([*cells, f"{row['moved']:.2f}"]) + " |")
    (folder / "hit-ratio.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    curves: dict[str, Sequence[tuple[float, float]]] = {
        name: [(row["pages"], 100 * row[name]) for row in rows] for name in _POLICIES
    }
    panel = Panel(
        "Pages found, per cent",
        "room in the pool, pages",
        curves,
        name_x="{:,.0f}".format,
        name_y="{:g} %".format,
    )
    (folder / "hit-ratio.svg").write_text(svg([panel]), encoding="utf-8")
