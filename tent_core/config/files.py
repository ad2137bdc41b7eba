"""Files that a user writes: reading one, and naming the key that somebody meant. Shared by all that is configured."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tent_core.config.values import format_size
from tent_core.errors import ConfigError

__all__ = ["meant", "read_table"]

_MAX_FILE = 1 << 20


def read_table(path: Path, what: str) -> dict[str, Any]:
    """The table that a TOML file (``.json``: JSON) holds. Raises `ConfigError`, which calls the file ``what``."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise ConfigError(f"the {what} {path} is larger than {format_size(_MAX_FILE)}")
    try:
        decoded = data.decode("utf-8")
        parsed = json.loads(decoded) if path.suffix == ".json" else _parse_toml(decoded)
    except (UnicodeDecodeError, ValueError) as error:
        form = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"the {what} {path} is not valid {form}: {error}") from None
    if not isinstance(parsed, dict):
        raise ConfigError(f"the {what} {path} must hold a table of keys")
    return parsed


def meant(given: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The known name nearest to a mistyped one, as the end of a message; empty when none is near."""
    close = difflib.get_close_matches(str(given), list(known), n=1, cutoff=cutoff)
    return f": did you mean '{close[0]}'?" if close else ""


def _parse_toml(decoded: str) -> Mapping[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    parsed: Mapping[str, Any] = tomllib.loads(decoded)
    return parsed
