"""What goes wrong, on which links, when and for how long: a fault plan, read from TOML, JSON or a dict.

``csrc/model/fault_plan.h`` is the same plan for native code, and the words mean the same there. docs/faults.md shows
one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from tent_core.config.files import meant, read_table
from tent_core.config.values import parse_duration
from tent_core.errors import ConfigError

__all__ = ["KINDS", "Fault", "FaultPlan", "Kind"]

_PPM = 1_000_000
_FOREVER_NS = 2**62
_DIRECTIONS = ("out", "in")


class Kind(NamedTuple):
    """What a kind of fault is, and the keys that only it and some others take."""

    help: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "drop": Kind("an attempt is lost, and nobody is told"),
    "delay": Kind("the end of an attempt is told later", needs=("delay",), takes=("jitter",)),
    "corrupt": Kind("bytes are flipped on the way", takes=("bytes",)),
    "stall": Kind("nothing moves; what waited goes on when the fault ends"),
    "slow": Kind("the rate falls to 1/factor", needs=("factor",)),
    "down": Kind(
        "the link fails with an error, and cannot be made again until the fault ends", takes=("error",)
    ),
    "silent": Kind("everything vanishes in both directions, and nobody is told"),
    "one_way": Kind("everything that one end sends (or receives) vanishes", takes=("direction",)),
    "flap": Kind("down for half a period, up for the other half", needs=("period",), takes=("error",)),
    "fail_submit": Kind("an attempt is refused when it is posted", takes=("error",)),
    "fail_after": Kind(
        "the link works for so many attempts, then goes down", needs=("count",), takes=("error",)
    ),
    "duplicate_completion": Kind("the end of an attempt is told twice"),
    "stop_node": Kind("the node stands still, and goes on when the fault ends", needs=("node",)),
}
_COMMON = (
    "kind",
    "transport",
    "node",
    "rail",
    "peer",
    "peer_rail",
    "at",
    "for",
    "from_attempt",
    "attempts",
    "chance",
)


@dataclass(frozen=True)
class Fault:
    """One fault. Names are patterns (``*`` any run, ``?`` any one character); durations are nanoseconds.

    A link is hit if one of its ends is ``node`` and ``rail`` and the other ``peer`` and ``peer_rail``.
    """

    kind: str
    transport: str = "*"
    node: str = "*"
    rail: str = "*"
    peer: str = "*"
    peer_rail: str = "*"
    at_ns: int = 0
    duration_ns: int = 0  # 0: for ever
    from_attempt: int = 0  # of those on a link, counted from 1; 0: from the first
    attempts: int = 0  # how many of them; 0: all
    chance_ppm: int = _PPM
    delay_ns: int = 0
    jitter_ns: int = 0
    factor: int = 1
    period_ns: int = 0
    count: int = 0
    bytes: int = 1
    direction: str = "out"
    error: str = ""


@dataclass(frozen=True)
class FaultPlan:
    """Faults, and the seed that decides which attempts they strike where that is left to chance."""

    seed: int = 0
    faults: tuple[Fault, ...] = ()

    @staticmethod
    def load(source: str | os.PathLike[str] | Mapping[str, Any] | FaultPlan) -> FaultPlan:
        """From a file (TOML; ``.json``: JSON) or a dict. Raises `ConfigError` naming the fault, the key and what
        would be right."""
        if isinstance(source, FaultPlan):
            return source
        if isinstance(source, Mapping):
            return _read_plan(source, "the fault plan")
        if not isinstance(source, str | os.PathLike):
            raise ConfigError(f"a fault plan is a path or a dict, not {type(source).__name__}")
        return _read_plan(read_table(Path(source), "fault plan"), f"the fault plan {os.fspath(source)}")

    def to_dict(self) -> dict[str, Any]:
        """The plan as a dict (fit for JSON) that `load` reads back to an equal plan."""
        return {"seed": self.seed, "fault": [_written(fault) for fault in self.faults]}

    def native(self) -> dict[str, Any]:
        """What native code is given: every field of every fault, times in nanoseconds."""
        rows = [{item.name: getattr(fault, item.name) for item in fields(Fault)} for fault in self.faults]
        return {"seed": self.seed, "faults": rows}


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read_plan(tree: Mapping[str, Any], where: str) -> FaultPlan:
    for key in tree:
        if key not in ("seed", "fault"):
            raise ConfigError(f"{where} has 'seed' and 'fault', not '{key}'{meant(key, ('seed', 'fault'))}")
    rows = tree.get("fault", [])
    if not isinstance(rows, list | tuple):
        raise ConfigError(f"{where}: 'fault' is a list of tables: write [[fault]]")
    seed = _number(tree.get("seed", 0), f"{where}: seed", high=2**64 - 1)
    return FaultPlan(seed, tuple(_read_fault(row, f"{where}: fault {i + 1}") for i, row in enumerate(rows)))


def _read_fault(row: object, where: str) -> Fault:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where} must be a table of keys, not {row!r}")
    name = row.get("kind")
    if name is None:
        raise ConfigError(f"{where} has no 'kind': one of {', '.join(KINDS)}")
    if not isinstance(name, str) or name not in KINDS:
        near = meant(name, KINDS) or f": choose one of {', '.join(KINDS)}"
        raise ConfigError(f"{where}: there is no kind {name!r}{near}")
    kind, where = KINDS[name], f"{where} ({name})"
    known = (*_COMMON, *(key for key in (*kind.needs, *kind.takes) if key not in _COMMON))
    values: dict[str, Any] = {}
    for key, raw in row.items():
        if key not in known:
            near = meant(key, known) or f": it takes {', '.join(known[1:])}"
            raise ConfigError(f"{where} takes no '{key}'{near}")
        if key != "kind":
            attribute, reader = _READERS[key]
            values[attribute] = reader(raw, f"{where}: {key}")
    for key in kind.needs:
        if key not in row:
            raise ConfigError(f"{where} needs '{key}'")
    return Fault(name, **values)


def _number(raw: object, where: str, *, low: int = 0, high: int = 2**63 - 1) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ConfigError(f"{where} must be a whole number, not {raw!r}")
    if not low <= raw <= high:
        raise ConfigError(f"{where} must lie between {low} and {high}, not at {raw}")
    return raw


def _whole(low: int, high: int = 2**31 - 1) -> Callable[[object, str], int]:
    return lambda raw, where: _number(raw, where, low=low, high=high)


def _duration(low: int = 0) -> Callable[[object, str], int]:
    def read(raw: object, where: str) -> int:
        if not isinstance(raw, str):
            raise ConfigError(f'{where} must be a duration with its unit, such as "200ms", not {raw!r}')
        try:
            value = parse_duration(raw, "ns")
        except ValueError as error:
            raise ConfigError(f"{where} = {raw!r}: {error}") from None
        return _number(value, where, low=low, high=_FOREVER_NS)

    return read


def _chance(raw: object, where: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 1 / _PPM <= raw <= 1:
        raise ConfigError(f"{where} must lie above 0 and be at most 1 (0.01: one in a hundred), not {raw!r}")
    return round(raw * _PPM)


def _text(raw: object, where: str) -> str:
    if not isinstance(raw, str) or not raw or "\0" in raw or "\n" in raw:
        raise ConfigError(f"{where} must be one line of text, not {raw!r}")
    return raw


def _direction(raw: object, where: str) -> str:
    if raw not in _DIRECTIONS:
        raise ConfigError(f"{where} is 'out' (what the node sends) or 'in' (what it receives), not {raw!r}")
    return str(raw)


# Key in a file -> attribute, and how it is read.
_READERS: dict[str, tuple[str, Callable[[object, str], Any]]] = {
    **{name: (name, _text) for name in ("transport", "node", "rail", "peer", "peer_rail", "error")},
    "at": ("at_ns", _duration()),
    "for": ("duration_ns", _duration(1)),
    "from_attempt": ("from_attempt", _whole(1)),
    "attempts": ("attempts", _whole(1)),
    "chance": ("chance_ppm", _chance),
    "delay": ("delay_ns", _duration()),
    "jitter": ("jitter_ns", _duration()),
    "factor": ("factor", _whole(2, 1_000_000)),
    "period": ("period_ns", _duration(2)),
    "count": ("count", _whole(0)),
    "bytes": ("bytes", _whole(1)),
    "direction": ("direction", _direction),
}


# ---- writing ---------------------------------------------------------------------------------------------------------


def _written(fault: Fault) -> dict[str, Any]:
    kind = KINDS[fault.kind]
    row: dict[str, Any] = {"kind": fault.kind}
    defaults = Fault(fault.kind)
    for key in dict.fromkeys((*_COMMON[1:], *kind.needs, *kind.takes)):
        attribute = _READERS[key][0]
        value = getattr(fault, attribute)
        if value == getattr(defaults, attribute) and key not in kind.needs:
            continue
        if attribute.endswith("_ns"):
            value = _written_duration(value)
        row[key] = value / _PPM if key == "chance" else value
    return row


def _written_duration(nanoseconds: int) -> str:
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if nanoseconds % size == 0:
            return f"{nanoseconds // size}{unit}"
    return f"{nanoseconds}ns"
