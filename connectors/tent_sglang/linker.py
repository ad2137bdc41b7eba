"""`TentLinker`: SGLang's device pools linked to TENT's page store, without a host pool between them.

    --enable-unified-cache-external-linker --unified-cache-external-linker-backend dynamic \\
    --unified-cache-external-linker-config '{"linker": "TentLinker", "linker_module_path": "tent_sglang.linker"}'

The store's half is the storage backend's (:mod:`tent_sglang.backend`), over device pools in place of host pools. SGLang
aborts a request whose load failed, so what a look-up found is kept by its owner until the load, and a load that failed
is tried once more. SGLang's scheduler calls `lookup` itself and waits for it: a round trip to the directory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Empty, Queue
from typing import Any

from sglang.srt.mem_cache.unified_cache.unified_cache_linker import LayerWiseLoadCounter, UnifiedCacheLinker
from sglang.srt.utils import get_device_module

from .backend import KV, TentHiCacheStorage
from .guard import log
from .linker_pools import DevicePages, device_pools, linker_storage_config
from .sglang_api import text

__all__ = ["TentLinker"]

_PIN_MS = 10_000
_LOADS = 2

Task = Callable[[], None]


class _DirectStorage(TentHiCacheStorage):
    """A failed load aborts its request: what was found is held, and no load is cut short to compute instead."""

    _pin_ms = _PIN_MS
    _cut_short = False


class TentLinker(UnifiedCacheLinker):  # type: ignore[misc]
    """One worker's link. Calls come from SGLang's scheduler thread; two threads of its own move the bytes."""

    def __init__(
        self,
        server_args: Any,
        params: Any,
        *,
        components: set[Any],
        extra_config: dict[str, Any] | None = None,
        forward_stream: Any = None,
        store: Any = None,
    ) -> None:
        """Called by SGLang. `extra_config`: what the storage backend takes. A `store` given stays its giver's.

        Raises ConfigError, and Unsupported for pools that cannot be linked.
        """
        self.forward_stream = forward_stream
        self._group = device_pools(params, components)
        self.pools = self._group.entry_map
        config, self._writes = linker_storage_config(params, self._group, extra_config)
        self._storage = _DirectStorage(config, {}, store=store)
        try:
            for name, pool in self.pools.items():
                self._storage.register_mem_host_pool_v2(DevicePages(pool), name)
            self._storage.on_host_pools_registered()
        except BaseException:
            self._storage.close()
            raise
        self.layer_done_counter = LayerWiseLoadCounter(self._group.num_layers)
        if any(text(name) == "mamba" for name in self.pools):
            params.req_to_token_pool.register_layer_transfer_counter(self.layer_done_counter)
        self._pending: dict[str, list[Any]] = {}
        self._results: Queue[bool] = Queue()
        self._loads, self._offloads = _Lane("tent-link-load"), _Lane("tent-link-offload")

    # ---- loads -------------------------------------------------------------------------------------------------

    def lookup(self, rid: str, transfers: list[Any]) -> list[int]:
        expanded = self._group.resolve_transfers(transfers)
        keys = next((list(t.keys) for t in expanded if text(t.name) == KV), [])
        if not keys:
            return []
        others = [t for t in expanded if text(t.name) != KV]
        return self._storage.batch_exists_v2(keys, others).restorable_prefix_pages or []

    def load(self, rid: str, transfers: list[Any]) -> bool:
        expanded = self._group.resolve_transfers(transfers, allow_partial=True, allow_missing_kv=True)
        if not expanded or rid in self._pending:
            return False
        self._pending[rid] = expanded
        return True

    def cancel_queued_load(self, rid: str) -> bool:
        return self._pending.pop(rid, None) is not None

    def start_layer_wise_loading(self) -> int:
        if not self._pending:
            return -1
        requests, self._pending = list(self._pending.values()), {}
        index: int = self.layer_done_counter.update_producer()
        ready = get_device_module().Event()
        ready.record()
        self._loads.put(lambda: self._load(index, requests, ready))
        return index

    def finish_layer_wise_loading(self, counter_index: int) -> bool:
        landed: bool = self.layer_done_counter.finish(counter_index)
        return landed

    def _load(self, index: int, requests: Sequence[list[Any]], ready: Any) -> None:
        """All pools of a batch of requests; its layers are there when everything is, and checked."""
        try:
            ready.synchronize()
            left = [transfer for transfers in requests for transfer in transfers]
            for _ in range(_LOADS):
                left = [t for t in left if not self._whole(self._storage.batch_get_v2([t]))]
            if left:
                raise RuntimeError(f"{len(left)} pools of a load did not arrive")
            for layer in range(self._group.num_layers):
                self.layer_done_counter.complete(index, layer)
        except BaseException as error:
            log.warning("a load of the linker failed; SGLang aborts its requests: %s", error)
            self.layer_done_counter.fail(index, error)

    # ---- offloads ----------------------------------------------------------------------------------------------

    def offload(self, transfers: list[Any], session_id: str | None = None) -> bool:
        expanded = self._group.resolve_transfers(transfers, allow_partial=True)
        if not expanded:
            return False
        if not self._writes:
            self._results.put(True)  # another rank has the same bytes, and stores them
            return True
        events = self.record_offload_ready()
        self._offloads.put(lambda: self._results.put(self._offload(expanded, events)))
        return True

    def _offload(self, transfers: Sequence[Any], events: Sequence[Any]) -> bool:
        """Sidecars first: pages of the main pool are what a look-up begins with."""
        for event in events:
            event.synchronize()
        order = sorted(transfers, key=lambda transfer: text(transfer.name) == KV)
        return self._whole(self._storage.batch_set_v2(order))

    def num_completed_offloads(self) -> int:
        return self._results.qsize()

    def pop_completed_offload(self) -> bool:
        return self._results.get_nowait()

    # ---- life --------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        self._pending.clear()
        self._loads.drain()
        self._offloads.drain()
        while True:
            try:
                self._results.get_nowait()
            except Empty:
                break
        self.layer_done_counter.reset()

    def close(self) -> None:
        self.reset()
        self._loads.close()
        self._offloads.close()
        self._storage.close()

    @staticmethod
    def _whole(answers: dict[Any, list[bool]]) -> bool:
        return all(all(pages) for pages in answers.values())


class _Lane:
    """One thread that runs tasks in order."""

    def __init__(self, name: str) -> None:
        self._tasks: Queue[Task | None] = Queue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, task: Task) -> None:
        self._tasks.put(task)

    def drain(self) -> None:
        """Returns when everything that was put has run."""
        self._tasks.join()

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                if task is None:
                    return
                task()
            except Exception:
                log.exception("a task of the linker failed")
            finally:
                self._tasks.task_done()
