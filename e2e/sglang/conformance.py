"""Whether this SGLang takes TENT as its storage, without a server: one line of JSON. Run by versions.sh.

The flag (or, before 0.5.11, the `dynamic` backend), what the storage interface asks for, and pages set, found, got and
cleared through a backend that SGLang's own factory has made.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from importlib.metadata import version
from typing import Any

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")

import torch
from sglang.srt.mem_cache import hicache_storage

from tent_sglang.backend import TentHiCacheStorage
from tent_sglang.contract import differences
from tent_sglang.plugin import DYNAMIC_LOADER

PAGE, PAGES, WIDTH = 16, 4, 256
STORE = {
    "store": {"capacity": "16MiB", "extent": "4MiB", "prefault": False},
    "directory": {"timeout_ms": 5000},
}


class Pool:
    """A host pool as SGLang's controllers hand it over: page first, keys and values apart."""

    dtype, head_num, head_dim, layer_num, layout, page_size = torch.float32, 2, 32, 1, "page_first", PAGE

    def __init__(self) -> None:
        self.kv_buffer = torch.zeros((2, PAGE * PAGES, WIDTH), dtype=torch.uint8)

    def get_page_buffer_meta(self, indices: Any) -> Any:
        half = PAGE * PAGES * WIDTH
        base = self.kv_buffer.data_ptr()
        pointers = [base + side * half + int(i) * WIDTH for i in indices[::PAGE] for side in (0, 1)]
        return pointers, [PAGE * WIDTH] * len(pointers)


def flag_accepts_tent() -> bool:
    """Whether the plug-in makes `tent` a value of the flag; False where SGLang runs no plug-ins."""
    try:
        from sglang.srt.plugins import load_plugins
    except ImportError:
        return False
    load_plugins()
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    known, _ = parser.parse_known_args(["--model-path", "m", "--hicache-storage-backend", "tent"])
    return known.hicache_storage_backend == "tent"


def storage_config() -> Any:
    """SGLang's configuration of one rank; what a release does not know is left out."""
    wanted = {
        "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1,
        "is_mla_model": False, "enable_storage_metrics": True, "is_page_first_layout": True, "model_name": "m",
        "extra_config": {**STORE, **DYNAMIC_LOADER},
    }  # fmt: skip
    fields = {field.name for field in dataclasses.fields(hicache_storage.HiCacheStorageConfig)}
    return hicache_storage.HiCacheStorageConfig(**{k: v for k, v in wanted.items() if k in fields})


def round_trip() -> None:
    from sglang.srt.mem_cache.storage import StorageBackendFactory

    pool = Pool()
    backend = StorageBackendFactory.create_backend("dynamic", storage_config(), pool)
    try:
        backend.register_mem_pool_host(pool)
        keys = [f"{n:064x}" for n in range(2)]
        pool.kv_buffer[:, : 2 * PAGE] = torch.randint(0, 256, (2, 2 * PAGE, WIDTH), dtype=torch.uint8)
        assert backend.batch_exists(keys) == 0
        assert backend.batch_set_v1(keys, torch.arange(2 * PAGE)) == [True, True]
        assert backend.batch_exists(keys) == 2
        assert backend.batch_get_v1(keys, torch.arange(2 * PAGE, 4 * PAGE)) == [True, True]
        assert torch.equal(pool.kv_buffer[:, : 2 * PAGE], pool.kv_buffer[:, 2 * PAGE :])
        backend.get_stats()
        backend.clear()
        assert backend.batch_exists(keys) == 0
    finally:
        backend.close()


def main() -> int:
    result: dict[str, Any] = {"version": version("sglang")}
    try:
        result["way"] = "flag" if flag_accepts_tent() else "dynamic"
        breaking, fresh = differences(hicache_storage.HiCacheStorage, TentHiCacheStorage)
        result.update(breaking=breaking, new=fresh)
        round_trip()
        result["pages"] = "ok"
    except Exception as error:
        result["pages"] = f"{type(error).__name__}: {error}"[:300]
    print(json.dumps(result))
    return 0 if result["pages"] == "ok" and not result.get("breaking") else 1


if __name__ == "__main__":
    sys.exit(main())
