"""SGLang's real caches without a server or a model, with TENT as their storage.

The wheel of SGLang ships the fixtures that its own tests of the radix cache use: a `UnifiedRadixCache` with its
controller, its device and host pools and its storage threads. Here two of them, a writer and a reader, share pages
through TENT, and every pool's bytes are compared.
"""

from __future__ import annotations

import json
import os
import unittest
from array import array
from typing import Any
from unittest import mock

# Before SGLang is imported: its CPU engine, and the plug-in that copies between "device" and host without kernels.
os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")

import torch
from sglang.kernels.ops.attention.fla.chunk_delta_h import CHUNK_SIZE
from sglang.srt.mem_cache.base_prefix_cache import CacheRequestHandle
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig, PoolHitPolicy, PoolName, PoolTransfer
from sglang.srt.mem_cache.memory_pool import MLATokenToKVPool
from sglang.srt.mem_cache.unified_cache.components.base import ComponentType
from sglang.srt.plugins import load_plugins
from sglang.srt.runtime_context import get_parallel
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler
from sglang.test.kits.unified_radix_cache import fixtures
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang.test.kits.unified_radix_cache.fixtures import (
    build_fixture,
    drop_hicache_atexit_pin,
    match_prefix,
    node_device_value,
)
from sglang.test.kits.unified_radix_cache.storage import UnifiedRadixCacheStorageFixtures

load_plugins()

__all__ = ["FULL", "MAMBA", "SWA", "CacheConfig", "HiCacheStorageConfig", "Kit", "Side", "torch"]

FULL, SWA, MAMBA = ComponentType.FULL, ComponentType.SWA, ComponentType.MAMBA
# The machine may be busy.
_PATIENCE_S = 90
Pages = dict[tuple[ComponentType, str], bytes]


class Side:
    """One cache as one server would have it."""

    def __init__(self, cache: Any, allocator: Any, requests: Any) -> None:
        self.cache, self.allocator, self.requests = cache, allocator, requests
        self.controller = cache.cache_controller

    @property
    def backend(self) -> Any:
        return self.controller.storage_backend

    @property
    def host_pool(self) -> Any:
        """Of the full-attention cache."""
        return self.controller.mem_pool_host.anchor_entry.host_pool

    def _tensors(self, component: ComponentType) -> list[Any]:
        """Device buffers of a component, slots in the first dimension."""
        pool = self.allocator.get_kvcache()
        if component is MAMBA:
            state = self.requests.mamba_pool.mamba_cache
            return [layer for tensor in (*state.conv, state.temporal) for layer in tensor]
        if component is SWA:
            pool = pool.swa_kv_pool
        pool = getattr(pool, "full_kv_pool", pool)
        if hasattr(pool, "k_buffer"):
            return [*pool.k_buffer, *pool.v_buffer]
        return list(pool.kv_buffer)

    def nodes(self, tokens: list[int]) -> list[Any]:
        """From the root's child down to where the match on device and host ends."""
        match = match_prefix(self.cache, tokens)
        node = match.last_host_node if match.last_host_node is not None else match.last_device_node
        path: list[Any] = []
        while node != self.cache.root_node_handle():
            path.append(node)
            node = self.cache.tree_core.get_parent_node_id(node)
        return path[::-1]

    def fill(self, tokens: list[int], seed: int) -> None:
        """Random bytes in every slot of every component that these tokens have."""
        draw = torch.Generator().manual_seed(seed)
        for node in self.nodes(tokens):
            for component in self.cache.tree_components:
                slots = node_device_value(self.cache, node, component)
                if slots is None:
                    continue
                for tensor in self._tensors(component):
                    shape = tensor[slots].shape
                    tensor[slots] = torch.randn(shape, generator=draw).to(tensor.dtype)

    def pages(self, tokens: list[int]) -> Pages:
        """The device bytes of each page of each component, by the hash that SGLang stores it under."""
        found: Pages = {}
        for node in self.nodes(tokens):
            hashes = self.cache.tree_core.get_hash_values(node)
            for component in self.cache.tree_components:
                slots = node_device_value(self.cache, node, component)
                if slots is None:
                    continue
                size = 1 if component is MAMBA else self.cache.page_size
                count = len(slots) // size
                for index, key in enumerate(hashes[-count:]):
                    some = slots[index * size : (index + 1) * size]
                    found[component, key] = b"".join(
                        tensor[some].contiguous().view(torch.uint8).numpy().tobytes()
                        for tensor in self._tensors(component)
                    )
        return found


class Device:
    """The device pools of a linker."""

    def __init__(self, linker: Any) -> None:
        self.linker = linker

    def bytes_at(self, transfer: PoolTransfer) -> bytes:
        buffers = self.linker.pools[transfer.name].get_hybrid_pool_buffer()
        return b"".join(
            tensor[transfer.device_indices].contiguous().view(torch.uint8).numpy().tobytes()
            for tensor in buffers
        )


def _latent_pool(*, head_num: int, head_dim: int, **rest: Any) -> Any:
    return MLATokenToKVPool(kv_lora_rank=head_dim, qk_rope_head_dim=16, **rest)


class Kit(UnifiedRadixCacheStorageFixtures, unittest.TestCase):
    """The wheel's fixtures, with our storage attached by the flag's value as in a server. `doCleanups` ends it."""

    def __init__(
        self, cfg: CacheConfig, extra: dict[str, Any], layout: str = "layer_first", *, mla: bool = False
    ) -> None:
        """`mla`: the full-attention pool is one of latent attention, which the fixtures do not know."""
        super().__init__()
        self.cfg, self._extra, self._layout, self._mla = cfg, extra, layout, mla

    def runTest(self) -> None:
        """unittest wants one."""

    def fixture(self, cfg: CacheConfig | None = None) -> tuple[Any, Any, Any]:
        """(cache, allocator, request pool), without host pools and storage."""
        if not self._mla:
            return build_fixture(cfg or self.cfg)
        with mock.patch.object(fixtures, "MHATokenToKVPool", _latent_pool):
            return build_fixture(cfg or self.cfg)

    def side(
        self,
        *,
        backend: str | None = "tent",
        policy: str = "wait_complete",
        cfg: CacheConfig | None = None,
        **extra: Any,
    ) -> Side:
        """A cache of its own with the storage attached; None: host pools alone."""
        cache, allocator, requests = self.fixture(cfg)
        override = get_parallel().override(tp_rank=0, tp_size=1, pp_rank=0, pp_size=1)
        override.__enter__()
        self.addCleanup(override.__exit__, None, None, None)
        args = ServerArgs(
            model_path="dummy",
            page_size=self.cfg.page_size,
            hicache_io_backend="kernel",
            hicache_mem_layout=self._layout,
            hicache_write_policy="write_through",
            hicache_storage_backend=backend,
            hicache_storage_backend_extra_config=json.dumps(
                {**self._extra, "prefetch_threshold": 1, **extra}
            ),
            hicache_storage_prefetch_policy=policy,
        )
        args._mamba_cache_chunk_size = max(CHUNK_SIZE, self.cfg.page_size)
        set_global_server_args_for_scheduler(args)
        cache.init_hicache(args, cache.cache_init_params)
        if backend:
            self.addCleanup(cache.cache_controller.detach_storage_backend)
        self.addCleanup(drop_hicache_atexit_pin, cache)
        cache.write_through_threshold = 1 << 30
        cache.load_back_threshold = 0
        controller = cache.cache_controller
        if not backend:
            return Side(cache, allocator, requests)
        controller.prefetch_capacity_limit = max(
            controller.prefetch_capacity_limit, controller.mem_pool_host.size
        )
        return Side(cache, allocator, requests)

    def linked(self, store: Any) -> tuple[Any, Device]:
        """A linker over device pools of its own, and those pools."""
        from tent_sglang.linker import TentLinker

        cache, _, _ = self.fixture()
        override = get_parallel().override(tp_rank=0, tp_size=1, pp_rank=0, pp_size=1)
        override.__enter__()
        self.addCleanup(override.__exit__, None, None, None)
        args = ServerArgs(model_path="dummy", page_size=self.cfg.page_size)
        linker = TentLinker(args, cache.cache_init_params, components=set(self.cfg.components), store=store)
        self.addCleanup(linker.close)
        return linker, Device(linker)

    def transfers(self, device: Device, keys: list[str], seed: int | None) -> list[PoolTransfer]:
        """One transfer a component over whole pages of slots; filled at random where there is a seed, zeroes and other
        slots where there is none."""
        first = 1 if seed is None else 4
        slots = torch.arange(first * self.cfg.page_size, (first + len(keys)) * self.cfg.page_size)
        made = [PoolTransfer(name=PoolName.KV, device_indices=slots, keys=keys)]
        if self.cfg.has_swa:
            window, rule = slots + self.cfg.page_size, PoolHitPolicy.TRAILING_PAGES
            made.append(PoolTransfer(name=PoolName.SWA, device_indices=window, keys=keys, hit_policy=rule))
        draw = None if seed is None else torch.Generator().manual_seed(seed)
        for transfer in made:
            for tensor in device.linker.pools[transfer.name].get_hybrid_pool_buffer():
                shape = tensor[transfer.device_indices].shape
                fresh = torch.zeros(shape) if draw is None else torch.randn(shape, generator=draw)
                tensor[transfer.device_indices] = fresh.to(tensor.dtype)
        return made

    def store(self, side: Side, tokens: list[int], seed: int) -> Pages:
        """Computed (by a random generator), backed up to the host and from there to the storage."""
        self._insert(side.cache, side.allocator, side.requests, tokens)
        side.fill(tokens, seed)
        leaf = match_prefix(side.cache, tokens).last_device_node
        self._backup_node(side.cache, leaf)
        self._write_path_to_l3(side.cache, leaf)
        self._flush_l3_backups(side.cache, timeout=_PATIENCE_S)
        return side.pages(tokens)

    def load(self, side: Side, tokens: list[int], name: str = "load") -> Pages:
        """Prefetched from the storage to the host and loaded back to the device."""
        request = CacheRequestHandle(name, 0)
        side.cache.prefetch_from_storage(
            request, side.cache.root_node_handle(), array("q", tokens), None, None
        )
        self._run_prefetch_to_completion(side.cache, request, timeout=_PATIENCE_S)
        path = side.nodes(tokens)
        if not path:
            return {}
        self._load_back_node(side.cache, path[-1], req=self._make_req(side.requests))
        return side.pages(tokens)
