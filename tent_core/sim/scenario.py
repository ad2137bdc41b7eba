"""A scenario: a cluster, what it transfers, what goes wrong, a seed. Read from TOML, JSON or a dict.

The fault plan in it (``[[fault]]``) is that of `tent_core.faults`: the same words break the simulator, the fault
injecting transport and the test bed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tent_core.config.files import meant, read_table
from tent_core.errors import ConfigError
from tent_core.faults import FaultPlan
from tent_core.sim.values import SECTIONS, TOP, Key

__all__ = ["Scenario"]


class Scenario:
    """A checked description. ``source`` is what was written (fit for JSON and for `load`); ``sections`` holds every
    table with its defaults filled in, in the units of native code (bytes, nanoseconds, bytes a second, millionths).
    """

    def __init__(self, source: Mapping[str, Any], where: str = "the scenario") -> None:
        self.source: dict[str, Any] = copy.deepcopy(dict(source))
        known = (*TOP, *SECTIONS, "fault")
        for key in source:
            if key not in known:
                near = meant(key, known) or f": it has {', '.join(known)}"
                raise ConfigError(f"{where} takes no '{key}'{near}")
        top = {key: source[key] for key in TOP if key in source}
        self.top = _read(top, TOP, where)
        self.sections: dict[str, list[dict[str, Any]]] = {}
        for name, keys in SECTIONS.items():
            rows = source.get(name, [])
            rows = [rows] if isinstance(rows, Mapping) else rows
            if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
                raise ConfigError(f"{where}: '{name}' is a list of tables: write [[{name}]]")
            self.sections[name] = [_read(r, keys, f"{where}: {name} {i + 1}") for i, r in enumerate(rows)]
        faults = {"seed": self.top["seed"], "fault": source.get("fault", [])}
        self.plan = FaultPlan.load(faults)
        if not self.sections["node"] or not self.sections["rail"]:
            raise ConfigError(f"{where} needs nodes and rails: write [[node]] and [[rail]]")

    @staticmethod
    def load(source: str | os.PathLike[str] | Mapping[str, Any] | Scenario) -> Scenario:
        """From a file (TOML; ``.json``: JSON) or a dict. Raises `ConfigError` naming the table, the key and what would
        be right."""
        if isinstance(source, Scenario):
            return source
        if isinstance(source, Mapping):
            return Scenario(source)
        return Scenario(read_table(Path(source), "scenario"), f"the scenario {os.fspath(source)}")

    def changed(self, **top: Any) -> Scenario:
        """The same with other values at the top: a seed, a switch."""
        return Scenario({**self.source, **top})


def _read(row: Mapping[str, Any], keys: Mapping[str, Key], where: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in row:
        if name not in keys:
            near = meant(name, keys) or f": it takes {', '.join(keys)}"
            raise ConfigError(f"{where} takes no '{name}'{near}")
    for name, key in keys.items():
        if name in row:
            values[name] = key.read(row[name], f"{where}: {name}")
        elif key.needed:
            raise ConfigError(f"{where} needs '{name}'")
        else:
            values[name] = key.default
    return values
