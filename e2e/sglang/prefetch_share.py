"""How much of a prefetch of 128 pages is spent in Python: `python e2e/sglang/prefetch_share.py`.

The same call is made for pages of 512 KiB and for pages of the same parts with hardly a byte in them, out of another
process's memory: the processor time that the small ones take, look-up and wake-ups included, is more than our Python
takes of the large ones. Elapsed times stand beside those of the processor, which are of this process. Needs TENT and
numpy, and nothing of SGLang.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from tent_sglang.backend import TentHiCacheStorage

PAGES, SLOTS = 128, 16
STORE = {"store": {"capacity": "128MiB", "extent": "16MiB"}, "directory": {"timeout_ms": 5000}}
OWNER = """
import sys
sys.path.insert(0, sys.argv[1])
from prefetch_share import *
pools = [Pool(int(a), int(b)) for a, b in [pair.split("x") for pair in sys.argv[2:]]]
owners = [attach(pool) for pool in pools]
for owner in owners:
    assert all(owner.batch_set_v1(KEYS, INDICES))
print("ready", flush=True)
sys.stdin.read()
for owner in owners:
    owner.close()
"""
KEYS = [f"{n:064x}" for n in range(PAGES)]
INDICES = np.arange(PAGES * SLOTS)


class Pool:
    """A host pool of `parts` pieces a page, each of `size` bytes."""

    dtype, head_num, head_dim, layout, page_size = "torch.bfloat16", 8, 64, "layer_first", SLOTS

    def __init__(self, parts: int, size: int) -> None:
        self.parts, self.size = parts, size
        self.array = np.zeros((parts, PAGES, size), np.uint8)
        self.array[:] = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
        self.kv_buffer = SimpleNamespace(untyped_storage=self._storage)

    def _storage(self) -> Any:
        return SimpleNamespace(data_ptr=lambda: self.array.ctypes.data, nbytes=lambda: self.array.nbytes)

    def get_page_buffer_meta(self, indices: Any) -> Any:
        base, part = self.array.ctypes.data, PAGES * self.size
        pointers = [
            base + p * part + int(i) // SLOTS * self.size for i in indices[::SLOTS] for p in range(self.parts)
        ]
        return pointers, [self.size] * len(pointers)


def attach(pool: Pool) -> TentHiCacheStorage:
    config = SimpleNamespace(
        extra_config={**STORE, "sglang": {"load": "always"}},
        model_name="share", tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, is_mla_model=False,
    )  # fmt: skip
    backend = TentHiCacheStorage(config, {})
    backend.register_mem_pool_host(pool)
    return backend


def times(pool: Pool, rounds: int) -> tuple[float, float]:
    """Milliseconds of a call: elapsed, and of the processor. Medians."""
    backend = attach(pool)
    try:
        taken = []
        for _ in range(rounds + 1):  # the first connects
            started, worked = time.perf_counter(), time.process_time()
            assert all(backend.batch_get_v1(KEYS, INDICES))
            taken.append((time.perf_counter() - started, time.process_time() - worked))
        elapsed, busy = (statistics.median(column) * 1e3 for column in zip(*taken[1:], strict=True))
        return elapsed, busy
    finally:
        backend.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    for name, parts in (("page_first", 2), ("layer_first", 32)):
        large, small = Pool(parts, (512 << 10) // parts), Pool(parts, 16)
        shapes = [f"{pool.parts}x{pool.size}" for pool in (large, small)]
        command = [sys.executable, "-c", OWNER, sys.path[0], *shapes]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None and owner.stdout.readline().strip() == "ready"
            (whole, whole_cpu), (bare, bare_cpu) = (times(pool, options.rounds) for pool in (large, small))
            owner.communicate()
        figures = {
            "ms": whole,
            "cpu_ms": whole_cpu,
            "without_bytes_ms": bare,
            "without_bytes_cpu_ms": bare_cpu,
        }
        rounded = {key: round(value, 2) for key, value in figures.items()}
        print(json.dumps({"layout": name, "parts": parts, "pages": PAGES, **rounded}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
