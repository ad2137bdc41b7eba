"""Notes how long SGLang's prefetches take, whatever the backend: a plug-in of the benchmark's servers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any


def timed(original: Callable[..., Any], controller: Any, operation: Any, *args: Any) -> Any:
    """Around a prefetch's I/O: everything that its pages take to arrive."""
    started = time.monotonic()
    pages = original(controller, operation, *args)
    line = {"seconds": time.monotonic() - started, "pages": pages, "asked": len(operation.hash_value)}
    with open(os.environ["SGLANG_TTFT_PREFETCHES"], "a", encoding="ascii") as log:
        log.write(json.dumps(line) + "\n")
    return pages


def register() -> None:
    if "SGLANG_TTFT_PREFETCHES" not in os.environ:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    target = "sglang.srt.managers.cache_controller.HiCacheController._page_transfer"
    HookRegistry.register(target, timed, HookType.AROUND)
