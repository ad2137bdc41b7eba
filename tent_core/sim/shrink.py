"""Makes a failing scenario smaller: leaves out what it fails without, until nothing more can go."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tent_core.errors import TentError
from tent_core.sim.results import Result
from tent_core.sim.run import run

__all__ = ["shrink"]

_LISTS = ("fault", "weather", "unregister", "transfers", "switch", "rail", "node")


def violates(result: Result) -> bool:
    return bool(result.report["violated"])


def shrink(
    scenario: Mapping[str, Any],
    fails: Callable[[Result], bool] = violates,
    *,
    budget: int = 400,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The smallest scenario found that still ``fails``, in at most ``budget`` runs. It is written as `scenario` was."""
    best: dict[str, Any] = copy.deepcopy(dict(scenario))
    left = budget

    def still(candidate: dict[str, Any]) -> bool:
        nonlocal left
        left -= 1
        try:
            return fails(run(candidate))
        except TentError:
            return False  # it does not hang together any more

    progress = True
    while progress and left > 0:
        progress = False
        for what, candidate in _smaller(best):
            if left <= 0:
                break
            if still(candidate):
                tell(f"without {what}")
                best, progress = candidate, True
                break  # begin again from what is there now
    return best


def _smaller(scenario: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Scenarios with less in them, what saves most first."""
    for name in _LISTS:
        rows = scenario.get(name, [])
        for part in _parts(len(rows)):
            smaller = copy.deepcopy(scenario)
            smaller[name] = [row for i, row in enumerate(rows) if i not in part]
            if not smaller[name]:
                del smaller[name]
            yield f"{len(part)} of {len(rows)} {name}", smaller
    for name, key in (("transfers", "count"), ("transfers", "concurrent"), ("node", "count")):
        for i, row in enumerate(scenario.get(name, [])):
            if row.get(key, 0) > 1:
                smaller = copy.deepcopy(scenario)
                smaller[name][i][key] = row[key] // 2
                yield f"half of the {key} of {name} {i + 1}", smaller
    for name, key in (("transfers", "cancel"), ("transfers", "pause"), ("transfers", "deadline")):
        for i, row in enumerate(scenario.get(name, [])):
            if key in row:
                smaller = copy.deepcopy(scenario)
                del smaller[name][i][key]
                yield f"the {key} of {name} {i + 1}", smaller


def _parts(count: int) -> Iterator[range]:
    """Halves, quarters … single ones."""
    size = count
    while size >= 1:
        for start in range(0, count, size):
            if size < count or count == 1:
                yield range(start, min(count, start + size))
        size //= 2
