"""What this connector takes from SGLang itself, in one place, so that a new version's changes meet one file.

Importable without SGLang; then the base class is `object` and there are no server arguments.
"""

from __future__ import annotations

from typing import Any

try:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorage
except ImportError:
    HiCacheStorage = object

__all__ = ["HiCacheStorage", "pool_transfer_result", "server_args", "storage_metrics", "text"]


def text(name: Any) -> str:
    """The text of one of SGLang's string enumerations (their `str` differs between versions)."""
    return str(getattr(name, "value", name))


def server_args() -> Any:
    """The server arguments of this process, or None outside a server (SGLang's unit kit)."""
    try:
        from sglang.srt.runtime_context import get_server_args as getter
    except ImportError:
        try:
            from sglang.srt.server_args import get_global_server_args as getter  # before the runtime context
        except ImportError:
            return None
    try:
        return getter()
    except Exception:  # "not set yet" has had several types
        return None


def pool_transfer_result(kv_pages: int, pool_pages: dict[Any, int], restorable: list[int]) -> Any:
    """A PoolTransferResult; what an older version does not have is left out."""
    from dataclasses import fields

    from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransferResult

    hits = {PoolName(text(name)): pages for name, pages in pool_pages.items()}
    known = {field.name for field in fields(PoolTransferResult)}
    extra = {"restorable_prefix_pages": restorable} if "restorable_prefix_pages" in known else {}
    return PoolTransferResult(kv_hit_pages=kv_pages, extra_pool_hit_pages=hits, **extra)


def storage_metrics(reads: tuple[list[int], list[float]], writes: tuple[list[int], list[float]]) -> Any:
    """A StorageMetrics of (pages, GB/s) a transfer, for prefetches and backups."""
    try:
        from sglang.srt.observability.metrics_collector import StorageMetrics
    except ImportError:
        from sglang.srt.metrics.collector import StorageMetrics
    return StorageMetrics(
        prefetch_pgs=reads[0],
        prefetch_bandwidth=reads[1],
        backup_pgs=writes[0],
        backup_bandwidth=writes[1],
    )
