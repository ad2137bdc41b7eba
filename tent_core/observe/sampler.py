"""Two looks at a node's links make rates: what each link moved between them, and its share of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FaultTimes", "LinkRow", "Sampler"]


@dataclass(frozen=True)
class FaultTimes:
    """Of a link's last fault, in milliseconds from its last sign of life; None: not (yet)."""

    ago_s: float
    detect_ms: float | None
    reroute_ms: float | None
    fence_ms: float | None
    readmit_ms: float | None


@dataclass(frozen=True)
class LinkRow:
    """One link as ``tent top`` shows it. Rates in bytes a second; None where there was only one look so far."""

    node: str
    peer: str
    link: str
    transport: str
    state: str
    rate: float | None
    predicted: int
    share: float | None
    in_flight: int
    slices_in_flight: int
    latency_us: float
    slices: int
    reissued_bytes: int
    reissued_slices: int
    faults: int
    last_fault: FaultTimes | None


class Sampler:
    """Of one node. Give it what ``Engine.stats()`` or ``Peer.stats()`` said, again and again."""

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None

    def add(self, stats: dict[str, Any]) -> list[LinkRow]:
        before = self._before
        self._before = stats
        seconds, old = 0.0, {}
        if before is not None and before["incarnation"] == stats["incarnation"]:
            seconds = (stats["now_ns"] - before["now_ns"]) / 1e9
            old = {_key(link): link for link in before["links"]}
        moved = [max(0, link["bytes_used"] - _bytes(old, link)) for link in stats["links"]]
        total = sum(moved)
        return [
            _row(stats, link, n / seconds if seconds > 0 else None, n / total if total else None)
            for link, n in zip(stats["links"], moved, strict=True)
        ]


def _key(link: dict[str, Any]) -> tuple[str, str]:
    return link["peer"], link["name"]


def _bytes(old: dict[tuple[str, str], dict[str, Any]], link: dict[str, Any]) -> int:
    found = old.get(_key(link))
    return int(found["bytes_used"]) if found else 0


def _row(stats: dict[str, Any], link: dict[str, Any], rate: float | None, share: float | None) -> LinkRow:
    return LinkRow(
        node=stats["name"],
        peer=link["peer"],
        link=link["name"],
        transport=link["transport"],
        state=link["state"],
        rate=rate,
        predicted=link["rate_Bps"],
        share=share,
        in_flight=link["in_flight"],
        slices_in_flight=link["outstanding"],
        latency_us=link["latency_ns"] / 1e3,
        slices=link["used"],
        reissued_bytes=link["bytes_reissued"],
        reissued_slices=link["revoked"] + link["failed"],
        faults=link["faults"],
        last_fault=_times(stats["now_ns"], link["last_fault"]),
    )


def _times(now: int, fault: dict[str, int | None] | None) -> FaultTimes | None:
    if fault is None or fault["at_ns"] is None:
        return None

    def ms(key: str) -> float | None:
        value = fault[key]
        return None if value is None else value / 1e6

    ago = max(0, now - fault["at_ns"]) / 1e9
    return FaultTimes(ago, ms("detect_ns"), ms("reroute_ns"), ms("fence_ns"), ms("readmit_ns"))
