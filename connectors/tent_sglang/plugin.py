"""Makes ``--hicache-storage-backend tent`` a valid choice in unmodified SGLang.

SGLang calls :func:`register` in every one of its processes, before it parses its arguments. Two hooks do the work:
one adds ``tent`` to the choices of the flag, the other hands the attachment to SGLang's own ``dynamic`` loader,
which takes backends from anywhere. What the flag could have said is put into the extra config for the user. Two more
watch how long prompts take to compute (:mod:`tent_sglang.prefill`). Those for prefill/decode hand-offs come in where
they were asked for (:mod:`tent_sglang.pd_hooks`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .pd_flag import CHOSEN, offer_transfer_backend
from .prefill import around_process_result, around_run_batch

BACKEND = "tent"
FLAG = "--hicache-storage-backend"

# What SGLang's `dynamic` backend wants to know; `interface_v1` selects the zero-copy calls.
DYNAMIC_LOADER: dict[str, Any] = {
    "backend_name": BACKEND,
    "module_path": "tent_sglang.backend",
    "class_name": "TentHiCacheStorage",
    "interface_v1": 1,
}

# Parameters of the attach call, for callers that pass them by position.
_ATTACH_ORDER = ("storage_backend", "prefetch_threshold", "model_name", "storage_backend_extra_config")


def register() -> None:
    """Entry point of the group ``sglang.srt.plugins``. Registers the hooks; SGLang applies them."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register("sglang.srt.server_args.ServerArgs.add_cli_args", offer_choice, HookType.AFTER)
    HookRegistry.register(
        "sglang.srt.managers.cache_controller.HiCacheController.attach_storage_backend",
        attach,
        HookType.AROUND,
    )
    scheduler = "sglang.srt.managers.scheduler.Scheduler"
    HookRegistry.register(f"{scheduler}.run_batch", around_run_batch, HookType.AROUND)
    HookRegistry.register(f"{scheduler}.process_batch_result", around_process_result, HookType.AROUND)
    if os.environ.get(CHOSEN) == "1":
        from . import pd_hooks

        pd_hooks.register(HookRegistry.register, HookType)


def offer_choice(result: Any, parser: Any, *args: Any, **kwargs: Any) -> Any:
    """After ``ServerArgs.add_cli_args(parser)``: the flags of storage and of hand-offs accept ``tent`` too."""
    action = parser._option_string_actions.get(FLAG)
    if action is not None and action.choices is not None and BACKEND not in action.choices:
        action.choices = [*action.choices, BACKEND]
    offer_transfer_backend(parser)
    return result


def attach(original: Callable[..., Any], controller: Any, *args: Any, **kwargs: Any) -> Any:
    """Around ``HiCacheController.attach_storage_backend(storage_backend, …, storage_backend_extra_config)``.

    Other backends pass through untouched. Whatever the attachment raises is the caller's: SGLang reports it at
    start-up, or as the answer of its run-time attach request.
    """
    named = {**dict(zip(_ATTACH_ORDER, args, strict=False)), **kwargs}
    wanted = named.get("storage_backend")
    if wanted == BACKEND:
        named["storage_backend"] = "dynamic"
        named["storage_backend_extra_config"] = {
            **(named.get("storage_backend_extra_config") or {}),
            **DYNAMIC_LOADER,
        }
    result = original(controller, **named)
    if wanted == BACKEND:
        # Operators and SGLang's re-attach logic compare this with the flag.
        controller.storage_backend_type = BACKEND
    _share_stop_event(controller)
    return result


def _share_stop_event(controller: Any) -> None:
    """Lets the backend see when SGLang wants its storage threads back.

    SGLang waits ten seconds for them when it flushes or detaches, and treats a late one as fatal; an I/O in flight
    must not make it late.
    """
    backend = getattr(controller, "storage_backend", None)
    backend = getattr(backend, "_backend", backend)  # SGLang's own fault injector wraps it
    follow = getattr(backend, "follow_stop_event", None)
    event = getattr(controller, "storage_stop_event", None)
    if follow is not None and event is not None:
        follow(event)
