"""Runs a scenario: the description becomes a native world, which runs to its end in one call."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from tent_core import _native
from tent_core.errors import ConfigError
from tent_core.sim.results import Result
from tent_core.sim.scenario import Scenario
from tent_core.sim.values import CHURN_KINDS

__all__ = ["run", "run_text"]


def run(
    source: str | os.PathLike[str] | Mapping[str, Any] | Scenario,
    *,
    seed: int | None = None,
    slices: bool = False,
) -> Result:
    """The run of a scenario. The same scenario and seed give the same run, bit for bit.

    ``slices`` keeps every slice, for a trace.
    """
    scenario = Scenario.load(source)
    if seed is not None:
        scenario = scenario.changed(seed=seed)
    top = dict(scenario.top)
    duration = top.pop("duration")
    world = _native.SimWorld({**top, "drawn": slices})
    names = _add_nodes(world, scenario)
    rails = _add_rails(world, scenario, names)
    loads = list(_add_transfers(world, scenario, names))
    _add_troubles(world, scenario, names, rails)
    endless = [row for row in scenario.sections["transfers"] if not row["count"] and row["stop"] is None]
    if endless and duration is None:
        raise ConfigError("transfers without 'count' or 'stop' never end: give the scenario a 'duration'")
    world.run(duration)
    return Result(scenario, world.report(), names, rails, loads)


def run_text(text: str, **options: Any) -> Result:
    """As `run`, of a scenario written as JSON."""
    import json

    return run(json.loads(text), **options)


def _add_nodes(world: _native.SimWorld, scenario: Scenario) -> list[str]:
    names: list[str] = []
    for row in scenario.sections["node"]:
        many = range(row["count"])
        names += [f"{row['name']}{i}" for i in many] if row["count"] else [row["name"]]
    if len(set(names)) != len(names):
        raise ConfigError("two nodes of the scenario have one name")
    for name in names:
        world.add_node(name)
    return names


def _matching(pattern: str, names: list[str], what: str) -> list[int]:
    found = [i for i, name in enumerate(names) if fnmatchcase(name, pattern)]
    if not found:
        raise ConfigError(f"no {what} of the scenario is called '{pattern}'")
    return found


def _add_rails(world: _native.SimWorld, scenario: Scenario, nodes: list[str]) -> list[str]:
    """Names of the rails, as node/rail, by their numbers."""
    switches: list[str] = []
    for row in scenario.sections["switch"]:
        world.add_switch(row["name"], row["rate"], row["latency"])
        switches.append(row["name"])
    names: list[str] = []
    for row in scenario.sections["rail"]:
        through = None if row["switch"] is None else _matching(row["switch"], switches, "switch")[0]
        for node in _matching(row["node"], nodes, "node"):
            world.add_rail(
                {
                    **{key: row[key] for key in ("name", "rate", "burst", "line", "latency", "network")},
                    **{key: row[key] for key in ("reach_latency", "tier", "known")},
                    "node": node,
                    "through": through,
                    "reach_ppm": row["reach"],
                }
            )
            names.append(f"{nodes[node]}/{row['name']}")
    return names


def _pairs(row: Mapping[str, Any], nodes: list[str]) -> Iterator[tuple[int, int]]:
    """Who asks whom: each of the ones all of the others, or ``peers`` of them, those that follow it in their order."""
    owners = _matching(row["to"], nodes, "node")
    for a in _matching(row["from"], nodes, "node"):
        others = [b for b in owners if b != a]
        if row["peers"]:
            first = sum(b < a for b in others)
            others = [others[(first + i) % len(others)] for i in range(min(row["peers"], len(others)))]
        yield from ((a, b) for b in others)


def _add_transfers(world: _native.SimWorld, scenario: Scenario, nodes: list[str]) -> Iterator[int]:
    """The row of the scenario that each workload of the world comes from."""
    for index, row in enumerate(scenario.sections["transfers"]):
        for a, b in _pairs(row, nodes):
            same = ("priority", "concurrent", "count", "start", "stop", "pause", "deadline")
            world.add_workload(
                {
                    **{key: row[key] for key in same},
                    "from": a,
                    "to": b,
                    "write": row["op"] == 1,
                    "bytes_low": row["bytes"][0],
                    "bytes_high": row["bytes"][1],
                    "cancel_ppm": row["cancel"],
                }
            )
            yield index


def _add_troubles(world: _native.SimWorld, scenario: Scenario, nodes: list[str], rails: list[str]) -> None:
    world.set_plan(scenario.plan.native())
    for row in scenario.sections["weather"]:
        stops = CHURN_KINDS[row["kind"]] == "stop"
        patterns, names = (row["nodes"], nodes) if stops else (row["rails"], rails)
        targets = sorted({i for p in patterns for i in _matching(p, names, "node" if stops else "rail")})
        world.add_churn(
            {
                **{key: row[key] for key in ("kind", "on", "off", "extra", "start", "stop")},
                "targets": targets,
                "low_ppm": row["share"][0],
                "high_ppm": row["share"][1],
            }
        )
    for row in scenario.sections["unregister"]:
        for node in _matching(row["node"], nodes, "node"):
            world.add_unregister(node, row["at"], row["back"])
