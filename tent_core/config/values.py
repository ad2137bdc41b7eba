"""Reading one value: sizes, durations, flags, lists. Pure: raises ``ValueError`` with the expected form.

The caller (`load`) adds the key, the origin and the fix to the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum

__all__ = ["Kind", "format_size", "parse_duration", "parse_rates", "parse_size", "read_value"]

_SIZE = re.compile(r"^\s*([0-9]+)\s*([A-Za-z]*)\s*$")
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9}
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class Kind(Enum):
    """What a setting holds, and so how it is written."""

    text = "text"
    integer = "integer"
    size = "size"
    flag = "flag"
    names = "list"


def parse_size(text: str) -> int:
    """``"64MiB"`` -> bytes. Units B, KiB, MiB, GiB, TiB and their decimal cousins KB, MB, GB, TB; case is ignored."""
    match = _SIZE.match(text)
    factor = _SIZE_UNITS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise ValueError("write a size as a whole number and a unit, such as 64MiB, 1GiB or 4096")
    return int(match.group(1)) * factor


def format_size(value: int) -> str:
    """The shortest exact way to write a number of bytes: ``67108864`` -> ``"64MiB"``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = _SIZE_UNITS[unit.lower()]
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def parse_duration(text: str, unit: str) -> int:
    """``"2s"`` as a whole number of ``unit`` (ns, us, ms, s, min); a bare number is in ``unit``."""
    match = _SIZE.match(text)
    given = (match.group(2).lower() or unit) if match else ""
    if match is None or given not in _NANOSECONDS:
        raise ValueError(f"write a duration as a whole number of {unit}, or with a unit, such as 2s or 500ms")
    nanoseconds = int(match.group(1)) * _NANOSECONDS[given]
    value, rest = divmod(nanoseconds, _NANOSECONDS[unit])
    if rest:
        raise ValueError(f"{text} is not a whole number of {unit}")
    return value


def parse_rates(entries: Sequence[str]) -> dict[str, int]:
    """``["eth0=25Gbit"]`` -> interface: bytes a second."""
    rates = {}
    for entry in entries:
        match = re.fullmatch(r"\s*([^\s=]{1,15})\s*=\s*([0-9]+)\s*([MG])bit\s*", entry)
        rate = int(match[2]) * {"M": 10**6, "G": 10**9}[match[3]] // 8 if match else 0
        if match is None or not 0 < rate <= 10**15:
            raise ValueError(f"{entry!r}: write an interface and its rate as in eth0=25Gbit or eth1=800Mbit")
        rates[match[1]] = rate
    return rates


def _read_text(raw: object, unit: str, from_text: bool) -> str:
    if not isinstance(raw, str):
        raise ValueError("expected text")
    if "\0" in raw or "\n" in raw:
        raise ValueError("expected one line of text")
    return raw


def _read_integer(raw: object, unit: str, from_text: bool) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError("expected a whole number")
    if isinstance(raw, int):
        return raw
    if unit in _NANOSECONDS:
        return parse_duration(raw, unit)
    if from_text and re.fullmatch(r"\s*-?[0-9]+\s*", raw):
        return int(raw)
    raise ValueError("expected a whole number, without quotes or unit")


def _read_size(raw: object, unit: str, from_text: bool) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError("expected a size such as 64MiB")
    return raw if isinstance(raw, int) else parse_size(raw)


def _read_flag(raw: object, unit: str, from_text: bool) -> bool:
    if isinstance(raw, bool):
        return raw
    if from_text and isinstance(raw, str):
        word = raw.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    raise ValueError("expected true or false")


def _read_names(raw: object, unit: str, from_text: bool) -> tuple[str, ...]:
    if isinstance(raw, str):
        parts: Sequence[object] = raw.split(",")
    elif isinstance(raw, list | tuple):
        parts = raw
    else:
        raise ValueError("expected a list, or names with commas between them")
    names = []
    for part in parts:
        if not isinstance(part, str):
            raise ValueError("expected a list of names")
        if part.strip():
            names.append(part.strip())
    return tuple(names)


_READERS: dict[Kind, Callable[[object, str, bool], object]] = {
    Kind.text: _read_text,
    Kind.integer: _read_integer,
    Kind.size: _read_size,
    Kind.flag: _read_flag,
    Kind.names: _read_names,
}


def read_value(kind: Kind, raw: object, unit: str, *, from_text: bool) -> object:
    """``raw`` as the Python value of ``kind``; ``from_text`` when it comes from the environment, where all is text.

    Raises ``ValueError`` saying what was expected.
    """
    return _READERS[kind](raw, unit, from_text)
