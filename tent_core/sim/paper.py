"""The setting in which TENT's paper measures, as far as it is published: ours, the paper's policy and round robin.

Two nodes of eight 200 Gbit/s rails, four of them across NUMA; background traffic that comes and goes; a rail that is
degraded for a tenth of the time; a silent death of 200 ms once a second. See docs/simulator.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tent_core.sim.run import run
from tent_core.sim.values import POLICIES

__all__ = ["Row", "compare", "scenario"]

SIZES = (("1MiB", 1 << 20), ("4MiB", 4 << 20), ("64MiB", 64 << 20))
CONCURRENT = (1, 8, 64)


@dataclass(frozen=True)
class Row:
    policy: str
    size: str
    concurrent: int
    gigabytes_per_second: float
    microseconds: tuple[float, ...]  # P50, P90, P99, P99.9
    failed: int


def scenario(
    policy: str, size: str, concurrent: int, *, seconds: float = 2.0, seed: int = 1
) -> dict[str, Any]:
    rails: list[dict[str, Any]] = []
    for i in range(8):
        far = {"reach": 0.5, "reach_latency": "1500ns", "tier": 2} if i >= 4 else {}
        rails.append({"name": f"nic{i}", "rate": "200Gbit", "latency": "1us", "known": True, **far})
    deaths = [
        {
            "kind": "silent",
            "node": "a",
            "rail": f"nic{(3 * n + seed) % 8}",
            "at": f"{400 + 1000 * n}ms",
            "for": "200ms",
        }
        for n in range(math.ceil(seconds))
    ]
    weather: list[dict[str, Any]] = [
        {"kind": "slow", "rails": [f"b/nic{i}"], "on": "5ms", "off": "5ms", "share": [0.25, 0.75]}
        for i in range(8)
    ]
    weather.append({"kind": "slow", "rails": ["b/nic*"], "on": "20ms", "off": "180ms", "share": 0.25})
    load = {"from": "a", "to": "b", "bytes": size, "concurrent": concurrent, "deadline": "30s"}
    return {
        "seed": seed,
        "policy": policy,
        "duration": f"{round(seconds * 1000)}ms",
        "node": [{"name": "a"}, {"name": "b"}],
        "rail": rails,
        "transfers": [load],
        "fault": deaths,
        "weather": weather,
        "check_every": 1 << 20,
    }


def compare(seconds: float = 2.0, seed: int = 1) -> Iterator[Row]:
    for size, nbytes in SIZES:
        for concurrent in CONCURRENT:
            for policy in POLICIES:
                result = run(scenario(policy, size, concurrent, seconds=seconds, seed=seed))
                took = result.times()
                at = tuple(float(v) / 1e3 for v in np.percentile(took, [50, 90, 99, 99.9]))
                rate = len(took) * nbytes / seconds / 1e9
                yield Row(policy, size, concurrent, rate, at, result.fates()["failed"])
