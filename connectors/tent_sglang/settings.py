"""Splits SGLang's extra config into what TENT reads, what this connector reads, and what SGLang put there itself.

The JSON of ``--hicache-storage-backend-extra-config`` holds TENT's configuration sections (``directory``, ``store``,
``cluster`` …) beside an optional section ``sglang`` with the settings below. A key that is neither is an error that
names the nearest one: a typo must not become a silent default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from tent_core.errors import ConfigError

SECTION = "sglang"

# Keys that SGLang itself, or its `dynamic` loader, puts into or reads from the same JSON.
SGLANG_KEYS = frozenset(
    {
        "backend_name",
        "module_path",
        "class_name",
        "interface_v1",
        "allocator",
        "file_storage_path",
        "prefetch_threshold",
        "prefetch_timeout_base",
        "prefetch_timeout_per_ki_token",
        "hicache_storage_pass_prefix_keys",
    }
)


@dataclass(frozen=True)
class Settings:
    """Settings of the connector itself."""

    get_timeout_ms: int = 5000
    """Longest time one batch read may take before the rest of it is a miss."""
    put_timeout_ms: int = 5000
    """Longest time one batch write may take before the rest of it is given up."""
    load: str = "auto"
    """"auto": pages that would arrive later than they can be computed are not loaded; "always": all that are found."""


_CHOICES = {"load": ("auto", "always")}


def split_extra_config(extra: Mapping[str, Any] | None) -> tuple[dict[str, Any], Settings]:
    """(TENT's configuration as a dict, the connector's settings). Raises ConfigError on an unknown or bad setting."""
    rest = {key: value for key, value in (extra or {}).items() if key not in SGLANG_KEYS}
    return rest, _settings(rest.pop(SECTION, {}))


def _settings(section: Any) -> Settings:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{SECTION}: expected a JSON object, got {type(section).__name__}")
    known = {field.name for field in fields(Settings)}
    for key, value in section.items():
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {SECTION}.{near[0]}?" if near else f"; known: {', '.join(sorted(known))}"
            raise ConfigError(f"unknown configuration key {SECTION}.{key}{hint}")
        if key in _CHOICES:
            if value not in _CHOICES[key]:
                raise ConfigError(f"{SECTION}.{key}: expected {' or '.join(_CHOICES[key])}, got {value!r}")
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ConfigError(f"{SECTION}.{key}: expected a positive number of milliseconds, got {value!r}")
    return Settings(**section)
