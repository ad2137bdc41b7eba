"""The device pools that SGLang's external linker moves, and who they are stored for."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tent_core.errors import Unsupported

from .sglang_api import text


class DevicePages:
    """A device pool with the calls and names that the storage backend knows of a host pool."""

    layout = "device"

    def __init__(self, entry: Any) -> None:
        """`entry`: SGLang's DevicePoolEntry. Raises Unsupported for memory that is not the host's."""
        self._entry = entry
        pool = entry.device_pool
        for buffer in entry.get_hybrid_pool_buffer():
            if buffer.device.type != "cpu":
                raise Unsupported(
                    f"pool {text(entry.name)!r} lies on {buffer.device}: the linker has only been run with pools in "
                    "host memory; use --enable-hierarchical-cache --hicache-storage-backend tent there"
                )
        self.page_size = entry.page_size
        self.dtype = ",".join(sorted({str(buffer.dtype) for buffer in entry.get_hybrid_pool_buffer()}))
        self.layer_num = len(entry.layer_mapping)
        # What the bytes of a row mean is the device pool's business: its kind is part of the identity.
        self.storage_format_tag = f"{type(pool).__name__}:{'packed' if entry.packed else 'apart'}"
        for name in ("head_num", "head_dim", "v_head_dim", "kv_lora_rank", "qk_rope_head_dim", "start_layer"):
            setattr(self, name, getattr(pool, name, ""))

    def get_page_buffer_meta(self, indices: Any) -> Any:
        return self._entry.get_page_buffer_meta(indices)

    def get_hybrid_pool_buffer(self) -> Any:
        return self._entry.get_hybrid_pool_buffer()


def device_pools(params: Any, components: set[Any]) -> Any:
    """SGLang's DevicePoolGroup of this model: its own where it has one, ours for plain pools, which it leaves out."""
    from sglang.srt.mem_cache.hybrid_cache.linker_pool_assembler import resolve_hybrid_device_pool_group

    kvcache = params.token_to_kv_pool_allocator.get_kvcache()
    plain = _plain_pools(kvcache, params.page_size, {component.name for component in components})
    if plain is not None:
        return plain
    try:
        return resolve_hybrid_device_pool_group(
            kvcache=kvcache, page_size=params.page_size, params=params, components=components
        )
    except ValueError as refusal:
        raise Unsupported(f"the external linker: {refusal}") from refusal


def _plain_pools(kvcache: Any, page_size: int, components: set[str]) -> Any:
    from sglang.srt.mem_cache import memory_pool, swa_memory_pool
    from sglang.srt.mem_cache.hicache_storage import PoolName
    from sglang.srt.mem_cache.hybrid_cache import linker_pool_assembler as assembler

    if components == {"FULL"} and type(kvcache) is memory_pool.MHATokenToKVPool:
        layers = {layer: layer for layer in range(kvcache.layer_num)}
        entry = assembler._mha_device_pool_entry(PoolName.KV, kvcache, layers, page_size)
        return assembler.DevicePoolGroup([entry], kvcache.layer_num, page_size)
    if components == {"FULL"} and type(kvcache) is memory_pool.MLATokenToKVPool:
        entry = assembler.DevicePoolEntry(
            name=PoolName.KV,
            indices_from_pool=PoolName.KV,
            device_pool=kvcache,
            components=[list(kvcache.kv_buffer)],
            layer_mapping={layer: layer for layer in range(kvcache.layer_num)},
            page_size=page_size,
            rows_are_pages=False,
        )
        return assembler.DevicePoolGroup([entry], kvcache.layer_num, page_size, rank_replicated=True)
    if components == {"FULL", "SWA"} and type(kvcache) is swa_memory_pool.SWAKVPool:
        from sglang.srt.mem_cache.hybrid_cache.hybrid_pool_assembler import _swa_layer_mappings

        full, swa = _swa_layer_mappings(kvcache)
        entries = [
            assembler._mha_device_pool_entry(PoolName.KV, kvcache.full_kv_pool, full, page_size),
            assembler._mha_device_pool_entry(PoolName.SWA, kvcache.swa_kv_pool, swa, page_size),
        ]
        return assembler.DevicePoolGroup(entries, max([*full, *swa]) + 1, page_size)
    return None


def linker_storage_config(params: Any, group: Any, extra: dict[str, Any] | None) -> tuple[Any, bool]:
    """(SGLang's storage configuration of this worker, whether it is one that writes)."""
    import torch
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
    from sglang.srt.runtime_context import get_model, get_parallel

    rank, size = 0, int(get_parallel().tp_size)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks = params.attn_tp_cache_group or params.tp_cache_group
        rank, size = torch.distributed.get_rank(group=ranks), torch.distributed.get_world_size(group=ranks)
    model = get_model()
    config = HiCacheStorageConfig(
        tp_rank=rank,
        tp_size=size,
        pp_rank=params.pp_rank,
        pp_size=params.pp_size,
        attn_cp_rank=params.attn_cp_rank,
        attn_cp_size=params.attn_cp_size,
        is_mla_model=group.rank_replicated,
        enable_storage_metrics=False,
        is_page_first_layout=False,
        model_name=getattr(model, "served_model_name", None) or model.model_path,
        extra_config=deepcopy(extra or {}),
    )
    return config, not group.rank_replicated or rank == 0
