"""What this connector relies on in SGLang, and what an unknown version has changed of it.

Read at attach. A release that was tested needs no look. In any other, every call that SGLang makes of a storage backend
is compared with what this connector answers to: what it would call and we do not have ends the attachment with a clear
message; what is merely new is said once in the log.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tent_core.errors import Unsupported

from .guard import log

#: Releases that the conformance suite was run against (docs/sglang.md).
TESTED = frozenset({"0.5.10", "0.5.11", "0.5.18", "0.5.23"})

# Calls without which nothing works, and those that newer releases added, with their parameters.
_NEEDED = {
    "register_mem_pool_host": ("mem_pool_host",),
    "get": ("key", "target_location", "target_sizes"),
    "batch_get": ("keys", "target_locations", "target_sizes"),
    "set": ("key", "value", "target_location", "target_sizes"),
    "batch_set": ("keys", "values", "target_locations", "target_sizes"),
    "exists": ("key",),
    "batch_exists": ("keys", "extra_info"),
    "clear": (),
    "get_stats": (),
}
_LATER = {
    "batch_get_v1": ("keys", "host_indices", "extra_info"),
    "batch_set_v1": ("keys", "host_indices", "extra_info"),
    "batch_exists_v2": ("keys", "pool_transfers", "extra_info"),
    "batch_get_v2": ("transfers", "extra_info"),
    "batch_set_v2": ("transfers", "extra_info"),
    "register_mem_host_pool_v2": ("host_pool", "host_pool_name"),
    "on_host_pools_registered": (),
}


def differences(interface: type, answers: type) -> tuple[list[str], list[str]]:
    """(what breaks this connector, what is merely new) in SGLang's class of a storage backend."""
    known = {**_NEEDED, **_LATER}
    breaking: list[str] = []
    fresh: list[str] = []
    for name, method in inspect.getmembers(interface, inspect.isfunction):
        if name.startswith("_"):
            continue
        abstract = name in getattr(interface, "__abstractmethods__", ())
        if name not in known:
            if not abstract or getattr(answers, name, method) is not method:
                fresh.append(f"{name}() is new")
            else:
                breaking.append(f"{name}() is new and must be answered")
            continue
        required = _required(method)
        strange = [parameter for parameter in required if parameter not in known[name]]
        if strange:
            breaking.append(f"{name}() is called with {', '.join(strange)}")
    breaking += [f"{name}() is gone" for name in _NEEDED if not hasattr(interface, name)]
    return breaking, fresh


def _required(method: Callable[..., Any]) -> list[str]:
    """Parameters that a caller must give, besides self."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def check(version: str, interface: type, answers: type) -> None:
    """Raises Unsupported when this SGLang calls a storage backend in ways that this connector does not know."""
    if version in TESTED or interface is object:
        return
    breaking, fresh = differences(interface, answers)
    if breaking:
        raise Unsupported(
            f"SGLang {version} is not known to this TENT, and its storage interface differs: {'; '.join(breaking)}. "
            f"Tested: {', '.join(sorted(TESTED))}; upgrade TENT, or use one of these"
        )
    log.info(
        "SGLang %s was not tested with this TENT (tested: %s); its storage interface fits%s",
        version,
        ", ".join(sorted(TESTED)),
        f" ({'; '.join(fresh)})" if fresh else "",
    )
