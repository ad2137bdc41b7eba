"""Every node against every other, rail by rail, and what those that are sick have in common."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tent_core import _native
from tent_core.engine import Peer
from tent_core.errors import ProtocolError, TentError
from tent_core.observe.session import Observer

__all__ = ["Finding", "Measured", "blame", "check", "rounds"]

_POLL_S = 0.05
_SLOW = 0.5  # of what its like do
_MOST_LINKS = 4096
_FEW = 3  # fewer of a kind than this are compared with all others instead
_SLOW_AMONG_ALL = 0.25  # rails of one host may be uneven by design


@dataclass
class Measured:
    """One direction of one link: ``reader`` read from ``owner`` over a pair of rails."""

    reader: str
    owner: str
    local: str
    remote: str
    latency_us: float | None = None
    worst_us: float | None = None
    rate: float = 0.0
    probes: int = 0
    lost: int = 0
    error: str = ""
    sick: str = ""  # why, in words; empty: well

    @property
    def ends(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.reader, self.local), (self.owner, self.remote)


@dataclass(frozen=True)
class Finding:
    """What is named: a host, a NIC (an interface of a host), a rail everywhere (its switch), or one path."""

    kind: str
    name: str
    why: str
    links: int


def rounds(names: Sequence[str]) -> Iterable[list[tuple[str, str]]]:
    """Every node towards every other, in rounds in which no node takes part twice."""
    ring: list[str | None] = [*names, *([None] if len(names) % 2 else [])]
    half = len(ring) // 2
    for _ in range(len(ring) - 1):
        pairs = [(a, b) for a, b in zip(ring[:half], reversed(ring[half:]), strict=True) if a and b]
        yield pairs
        yield [(b, a) for a, b in pairs]
        ring = [ring[0], ring[-1], *ring[1:-1]]


def check(
    observer: Observer,
    descriptors: dict[str, bytes],
    seconds: float,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[Measured], list[str]]:
    """Measures all pairs. Returns what was measured, and in words what could not be (a node that does not answer,
    nodes of one host: they share memory)."""
    peers, failed = observer.reachable(descriptors)
    notes = [f"node {name} does not answer: {why}" for name, why in failed.items()]
    for name in list(peers):
        try:
            _native.peer_probe_memory(peers[name]._native)
        except TentError as error:
            notes.append(f"node {name} takes no part: {error}")
            del peers[name]
    hosts = {name: _native.describe(descriptors[name])["host"] for name in peers}
    found: list[Measured] = []
    for pairs in rounds(sorted(peers)):
        tickets = []
        for reader, owner in pairs:
            if hosts[reader] == hosts[owner]:
                if reader < owner:
                    notes.append(f"{reader} and {owner} are on one host: they share memory")
                continue
            say(f"{reader} <- {owner}")
            try:
                ticket = _native.peer_probe(
                    peers[reader]._native, descriptors[owner], max(1, round(seconds * 1e3))
                )
                tickets.append((reader, owner, ticket))
            except TentError as error:
                notes.append(f"{reader} <- {owner}: {error}")
        for reader, owner, ticket in tickets:
            try:
                found += _links(reader, owner, _wait(peers[reader], ticket, seconds))
            except TentError as error:
                notes.append(f"{reader} <- {owner}: {error}")
    return found, notes


def _wait(peer: Peer, ticket: int, seconds: float) -> bytes:
    # A pair of rails that does not answer takes its time-outs; there are not many pairs.
    until = time.monotonic() + 60 + 64 * seconds
    while (report := _native.peer_probe_result(peer._native, ticket)) is None:
        if time.monotonic() > until:
            raise ProtocolError("the probe did not end")
        time.sleep(_POLL_S)
    return report


def _links(reader: str, owner: str, report: bytes) -> list[Measured]:
    """What a node says it measured: hostile until it was looked at."""
    try:
        read = json.loads(report)
        rows = [_link(reader, owner, row) for row in read["links"][:_MOST_LINKS]]
        failed = str(read.get("error", ""))[:500]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"node {reader} reports in a way that is not understood: {error}") from None
    if failed:
        raise ProtocolError(failed)
    return rows


def _link(reader: str, owner: str, row: dict[str, Any]) -> Measured:
    def number(key: str) -> float | None:
        value = row.get(key)
        return None if value is None else float(value)

    return Measured(
        reader,
        owner,
        str(row["local"])[:255],
        str(row["remote"])[:255],
        number("latency_us"),
        number("worst_us"),
        number("rate_Bps") or 0.0,
        int(row.get("probes", 0)),
        int(row.get("lost", 0)),
        str(row.get("error", ""))[:500],
    )


# ---- what is wrong


def judge(links: Sequence[Measured]) -> None:
    """Says of each link whether it is sick: no answer, lost probes, or far slower than others like it."""
    alike: dict[tuple[str, str], list[float]] = defaultdict(list)
    for link in links:
        if link.rate:
            alike[link.local, link.remote].append(link.rate)
    for link in links:
        if link.error:
            link.sick = f"no way through: {link.error}"
        elif link.lost:
            link.sick = f"lost {link.lost} of {link.probes} probes"
        elif link.rate:
            same = alike[link.local, link.remote]
            others = [
                rate for key, rates in alike.items() if key != (link.local, link.remote) for rate in rates
            ]
            if len(same) > _FEW and link.rate < _SLOW * statistics.median(same):
                link.sick = _slow(link.rate, statistics.median(same), "of other hosts on this rail")
            elif others and link.rate < _SLOW_AMONG_ALL * statistics.median(others):
                link.sick = _slow(link.rate, statistics.median(others), "of the other rails")


def _slow(rate: float, usual: float, whose: str) -> str:
    return f"slow: {rate / 1e6:.1f} MB/s, where the median {whose} is {usual / 1e6:.1f} MB/s"


def blame(links: Sequence[Measured]) -> list[Finding]:
    """Names what explains the sick links, the largest thing first: all links of a host, of a rail on every host, of
    one NIC, or a single path. A thing is to blame only if all of its links are sick and some other link is well."""
    judge(links)
    left = [link for link in links if link.sick]
    findings: list[Finding] = []
    for kind, things in (("host", _hosts), ("rail", _rails), ("NIC", _nics)):
        for name, ours in _grouped(links, things).items():
            mine = [link for link in ours if any(link is other for other in left)]
            if not mine or any(not link.sick for link in ours) or not _telling(kind, name, ours, links):
                continue
            findings.append(Finding(kind, name, mine[0].sick, len(mine)))
            left = [link for link in left if not any(link is other for other in mine)]
    paths: dict[str, list[Measured]] = defaultdict(list)
    for link in left:
        a, b = sorted(link.ends)
        paths[f"{a[0]}/{a[1]} - {b[0]}/{b[1]}"].append(link)
    findings += [Finding("path", name, mine[0].sick, len(mine)) for name, mine in sorted(paths.items())]
    return findings


def _hosts(link: Measured) -> set[str]:
    return {link.reader, link.owner}


def _rails(link: Measured) -> set[str]:
    return {link.local} if link.local == link.remote else set()


def _nics(link: Measured) -> set[str]:
    return {f"{node}/{rail}" for node, rail in link.ends}


def _grouped(links: Sequence[Measured], things: Callable[[Measured], set[str]]) -> dict[str, list[Measured]]:
    groups: dict[str, list[Measured]] = defaultdict(list)
    for link, name in itertools.chain.from_iterable(((link, n) for n in things(link)) for link in links):
        groups[name].append(link)
    return dict(sorted(groups.items()))


def _telling(kind: str, name: str, ours: Sequence[Measured], links: Sequence[Measured]) -> bool:
    """Whether the evidence can tell this thing from a smaller or another one."""
    nodes = {node for link in ours for node in (link.reader, link.owner)}
    well_elsewhere = any(not link.sick for link in links)
    if kind == "host":  # with two nodes, either of them would do
        return len(nodes) > 2 and well_elsewhere
    if kind == "rail":  # the rail between two hosts is a path, unless that is all there is
        return well_elsewhere and (len(nodes) > 2 or len({n for li in links for n in _hosts(li)}) == 2)
    return len(nodes) > 2 and well_elsewhere
