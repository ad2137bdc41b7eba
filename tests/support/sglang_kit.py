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

# Before SGLang is imported: its CPU engine, and the plug-in that copies between "device" and host without kernels.
os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")

import torch
from sglang.kernels.ops.attention.fla.chunk_delta_h import CHUNK_SIZE
from sglang.srt.mem_cache.base_prefix_cache import CacheRequestHandle
from sglang.srt.mem_cache.unified_cache.components.base import ComponentType
from sglang.srt.plugins import load_plugins
from sglang.srt.runtime_context import get_parallel
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler
from sglang.test.kits.unified_radix_cache.config import CacheConfig
from sglang.test.kits.unified_radix_cache.fixtures import (
    build_fixture,
    drop_hicache_atexit_pin,
    match_prefix,
    node_device_value,
)
from sglang.test.kits.unified_radix_cache.storage import UnifiedRadixCacheStorageFixtures

load_plugins()

FULL, SWA, MAMBA = ComponentType.FULL, ComponentType.SWA, ComponentType.MAMBA
Pages = dict[tuple[ComponentType, str], bytes]


class Side:
    """One cache as one server would have it."""

    def __init__(self, cache: Any, allocator: Any, requests: Any) -> None:
        self.cache, self.allocator, self.requests = cache, allocator, requests
        self.backend = cache.cache_controller.storage_backend
        self.controller = cache.cache_controller

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


class Kit(UnifiedRadixCacheStorageFixtures, unittest.TestCase):
    """The wheel's fixtures, with our storage attached by the flag's value as in a server. `doCleanups` ends it."""

    def __init__(self, cfg: CacheConfig, extra: dict[str, Any], layout: str = "layer_first") -> None:
        super().__init__()
        self.cfg, self._extra, self._layout = cfg, extra, layout

    def runTest(self) -> None:
        """unittest wants one."""

    def side(self, *, backend: str = "tent", policy: str = "wait_complete", **extra: Any) -> Side:
        """A cache of its own with the storage attached."""
        cache, allocator, requests = build_fixture(self.cfg)
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
        self.addCleanup(cache.cache_controller.detach_storage_backend)
        self.addCleanup(drop_hicache_atexit_pin, cache)
        cache.write_through_threshold = 1 << 30
        cache.load_back_threshold = 0
        controller = cache.cache_controller
        controller.prefetch_capacity_limit = max(
            controller.prefetch_capacity_limit, controller.mem_pool_host.size
        )
        return Side(cache, allocator, requests)

    def store(self, side: Side, tokens: list[int], seed: int) -> Pages:
        """Computed (by a random generator), backed up to the host and from there to the storage."""
        self._insert(side.cache, side.allocator, side.requests, tokens)
        side.fill(tokens, seed)
        leaf = match_prefix(side.cache, tokens).last_device_node
        self._backup_node(side.cache, leaf)
        self._write_path_to_l3(side.cache, leaf)
        self._flush_l3_backups(side.cache)
        return side.pages(tokens)

    def load(self, side: Side, tokens: list[int], name: str = "load") -> Pages:
        """Prefetched from the storage to the host and loaded back to the device."""
        request = CacheRequestHandle(name, 0)
        side.cache.prefetch_from_storage(
            request, side.cache.root_node_handle(), array("q", tokens), None, None
        )
        self._run_prefetch_to_completion(side.cache, request)
        path = side.nodes(tokens)
        if not path:
            return {}
        self._load_back_node(side.cache, path[-1], req=self._make_req(side.requests))
        return side.pages(tokens)
