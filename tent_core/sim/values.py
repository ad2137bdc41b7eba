"""What the tables of a scenario take: each key, how it is written, and what it is without being written."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tent_core.config.values import parse_duration, parse_size
from tent_core.errors import ConfigError

__all__ = ["CHURN_KINDS", "POLICIES", "PRIORITIES", "SECTIONS", "TOP", "Key"]

PRIORITIES = ("interactive", "normal", "bulk")
CHURN_KINDS = ("slow", "jitter", "loss", "silent", "stop")
POLICIES = ("water", "robin", "paper")
_RATE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*$")
_RATES = {
    "gbit": 125_000_000,
    "mbit": 125_000,
    "kbit": 125,
    "gb": 10**9,
    "mb": 10**6,
    "kb": 10**3,
    "gib": 1 << 30,
    "mib": 1 << 20,
}


@dataclass(frozen=True)
class Key:
    read: Callable[[Any, str], Any]
    default: Any = None
    needed: bool = False


def _text(raw: Any, where: str) -> str:
    if not isinstance(raw, str) or not raw or "\n" in raw:
        raise ConfigError(f"{where} must be one line of text, not {raw!r}")
    return raw


def _whole(raw: object, where: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw < 2**63:
        raise ConfigError(f"{where} must be a whole number, not {raw!r}")
    return raw


def _flag(raw: Any, where: str) -> bool:
    if not isinstance(raw, bool):
        raise ConfigError(f"{where} must be true or false, not {raw!r}")
    return raw


def _duration(raw: Any, where: str) -> int:
    if not isinstance(raw, str):
        raise ConfigError(f'{where} must be a duration with its unit, such as "200ms", not {raw!r}')
    try:
        return parse_duration(raw, "ns")
    except ValueError as error:
        raise ConfigError(f"{where} = {raw!r}: {error}") from None


def _size(raw: Any, where: str) -> int:
    try:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise ValueError("write a size such as 1MiB")
        return raw if isinstance(raw, int) else parse_size(raw)
    except ValueError as error:
        raise ConfigError(f"{where} = {raw!r}: {error}") from None


def _sizes(raw: Any, where: str) -> tuple[int, int]:
    """``"1MiB"`` or ``"64KiB..4MiB"``."""
    low, dots, high = raw.partition("..") if isinstance(raw, str) else (raw, "", "")
    first = _size(low, where)
    last = _size(high, where) if dots else first
    if not 0 < first <= last:
        raise ConfigError(f"{where} = {raw!r}: write a size above 0, or two with '..' between them")
    return first, last


def _rate(raw: Any, where: str) -> int:
    match = _RATE.match(raw) if isinstance(raw, str) else None
    factor = _RATES.get(match.group(2).lower()) if match else None
    if match is None or factor is None or float(match.group(1)) <= 0:
        raise ConfigError(f'{where} must be a rate such as "2Gbit" or "250MB" (a second), not {raw!r}')
    return round(float(match.group(1)) * factor)


def _share(raw: object, where: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 <= raw <= 1:
        raise ConfigError(f"{where} must lie between 0 and 1, not at {raw!r}")
    return round(raw * 1_000_000)


def _shares(raw: Any, where: str) -> tuple[int, int]:
    both = raw if isinstance(raw, list | tuple) else (raw, raw)
    if len(both) != 2:
        raise ConfigError(f"{where} is a share, or a pair of them, not {raw!r}")
    return _share(both[0], where), _share(both[1], where)


def _names(raw: Any, where: str) -> tuple[str, ...]:
    names = [raw] if isinstance(raw, str) else raw
    if not isinstance(names, list | tuple) or not names:
        raise ConfigError(f"{where} must be a name or a list of names, not {raw!r}")
    return tuple(_text(name, where) for name in names)


def _one_of(*words: str) -> Callable[[Any, str], int]:
    def read(raw: Any, where: str) -> int:
        if raw not in words:
            raise ConfigError(f"{where} must be one of {', '.join(words)}, not {raw!r}")
        return words.index(raw)

    return read


_MS = 1_000_000
TOP: dict[str, Key] = {
    "seed": Key(_whole, 1),
    "duration": Key(_duration),
    "crossed": Key(_flag, False),
    "fencing": Key(_flag, True),
    "credits": Key(_flag, True),
    "hedge": Key(_share, 0),
    "policy": Key(_one_of(*POLICIES), 0),
    "lease": Key(_duration, 3000 * _MS),
    "heartbeat": Key(_duration, 10 * _MS),
    "bin": Key(_duration, _MS),
    "late": Key(_duration, 200 * _MS),
    "warm": Key(_duration, 0),
    "slice_min": Key(_size, 64 << 10),
    "slice_max": Key(_size, 4 << 20),
    "initial_rate": Key(_rate, 1_000_000_000),
    "suspect_floor": Key(_duration, 5 * _MS),
    "probe_interval": Key(_duration, 50 * _MS),
    "window_slices": Key(_whole, 2),
    "check_every": Key(_whole, 4096),
}
SECTIONS: dict[str, dict[str, Key]] = {
    "node": {"name": Key(_text, needed=True), "count": Key(_whole, 0)},
    "switch": {
        "name": Key(_text, needed=True),
        "rate": Key(_rate, needed=True),
        "latency": Key(_duration, 1000),
    },
    "rail": {
        "node": Key(_text, "*"),
        "name": Key(_text, needed=True),
        "rate": Key(_rate, needed=True),
        "burst": Key(_size, 0),
        "line": Key(_rate, 0),
        "latency": Key(_duration, 10_000),
        "network": Key(_whole, 0),
        "switch": Key(_text),
        "reach": Key(_share, 1_000_000),
        "reach_latency": Key(_duration, 0),
        "tier": Key(_whole, 1),
        "known": Key(_flag, False),
    },
    "transfers": {
        "from": Key(_text, needed=True),
        "to": Key(_text, needed=True),
        "peers": Key(_whole, 0),
        "op": Key(_one_of("read", "write"), 0),
        "priority": Key(_one_of(*PRIORITIES), 1),
        "bytes": Key(_sizes, needed=True),
        "concurrent": Key(_whole, 1),
        "count": Key(_whole, 0),
        "start": Key(_duration, 0),
        "stop": Key(_duration),
        "pause": Key(_duration, 0),
        "deadline": Key(_duration),
        "cancel": Key(_share, 0),
    },
    "weather": {
        "kind": Key(_one_of(*CHURN_KINDS), needed=True),
        "rails": Key(_names, ("*/*",)),
        "nodes": Key(_names, ("*",)),
        "on": Key(_duration, needed=True),
        "off": Key(_duration, needed=True),
        "share": Key(_shares, (0, 0)),
        "extra": Key(_duration, 0),
        "start": Key(_duration, 0),
        "stop": Key(_duration),
    },
    "unregister": {"node": Key(_text, needed=True), "at": Key(_duration, 0), "back": Key(_duration)},
}
