"""Splits vLLM's ``kv_connector_extra_config`` into what TENT reads and what this connector reads.

The JSON holds TENT's configuration sections (``directory``, ``store``, ``cluster`` …) beside an optional section
``vllm`` with the settings below. A key that is neither is an error that names the nearest one: a typo must not become
a silent default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from tent_core.errors import ConfigError

SECTION = "vllm"


@dataclass(frozen=True)
class Settings:
    """Settings of the connector itself. Durations are milliseconds."""

    lookup_wait_ms: int = 200
    """Longest time a request waits in vLLM's queue for its look-up; later it is computed like any other."""
    lookup_pause_ms: int = 1000
    """After a look-up found the directory down, requests do not wait for look-ups for so long."""
    pin_ms: int = 5000
    """Read lease on the pages found, so that they are still there when the worker loads them."""
    load_timeout_ms: int = 5000
    """Longest time a step waits for its pages; what has not arrived is computed."""
    save_timeout_ms: int = 5000
    """Longest time one step's pages may take to be stored; then they are given up."""
    save_wait_ms: int = 50
    """Longest time a step waits for a save to let go of blocks that vLLM hands to somebody else."""
    save_queue_steps: int = 64
    """Saves under way at once; a step that finds more is not saved."""
    failed_page_ms: int = 5000
    """A page that failed to load is not offered again for so long."""
    load_when_faster: bool = True
    """Offer a hit only when loading it is expected to take less time than computing it."""
    async_load: bool = True
    """Load large hits beside the steps while other requests run, so that nobody waits for them. Models with several
    kinds of attention always load so."""
    async_load_bytes: int = 4 << 20
    """A hit from this size on is large."""
    shutdown_ms: int = 2000
    """Longest time a server that ends waits for its saves."""
    handoff_lease_ms: int = 30000
    """Prefill/decode: longest time a finished prompt's blocks wait for a decode server to begin fetching them."""
    handoff_timeout_ms: int = 10000
    """Prefill/decode: longest time a request waits for its prompt's blocks; then it is computed."""
    model_id: str = ""
    """Identity of the weights. Empty: from the model's path, revision and files. Set it where the same weights lie
    under different paths or dates on different hosts."""
    weights_version: str = ""
    """Version of the weights that the server starts with, where they change while it runs: see weights.py."""
    keep_failure_policy: bool = False
    """Leave ``kv_load_failure_policy`` as it is. Otherwise "fail" is replaced by "recompute": a page that a cache has
    lost is no reason to end a request in an error."""


def split_extra_config(extra: Mapping[str, Any] | None) -> tuple[dict[str, Any], Settings]:
    """(TENT's configuration as a dict, the connector's settings). Raises ConfigError on an unknown or bad setting."""
    rest = dict(extra or {})
    section = rest.pop(SECTION, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"{SECTION}: expected a JSON object, got {type(section).__name__}")
    known = {field.name: field for field in fields(Settings)}
    for key, value in section.items():
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {SECTION}.{near[0]}?" if near else f"; known: {', '.join(sorted(known))}"
            raise ConfigError(f"unknown configuration key {SECTION}.{key}{hint}")
        _check(key, value, type(known[key].default))
    return rest, Settings(**section)


def _check(key: str, value: Any, kind: type) -> None:
    # bool is an int in Python, and never a number of milliseconds.
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not right:
        raise ConfigError(f"{SECTION}.{key}: expected {_KINDS[kind]}, got {value!r}")
    if kind is int and value <= 0:
        raise ConfigError(f"{SECTION}.{key}: expected a positive number, got {value!r}")


_KINDS = {int: "a positive number", str: "a string", bool: "true or false"}
