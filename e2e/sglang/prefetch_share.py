"""How much of a prefetch of 128 pages is spent in Python: `python e2e/sglang/prefetch_share.py`.

The processor's time of every thread that runs our Python during the call (the caller's and the store's), less what
these threads spend inside the native module, over the time that the call takes. Out of another process's memory, pages
of 512 KiB. Needs TENT and numpy, and nothing of SGLang.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tent_core import _native
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


class Native:
    """The time that each thread of ours spends inside the native module, counted by wrapping all that it offers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0
        for name, value in list(vars(_native).items()):
            if isinstance(value, type):
                for method, function in list(vars(value).items()):
                    if not method.startswith("__") and callable(function):
                        setattr(value, method, self._wrapped(function))
            elif callable(value) and not name.startswith("__"):
                setattr(_native, name, self._wrapped(value))

    def take(self) -> float:
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _wrapped(self, function: Callable[..., Any]) -> Any:
        clock = time.thread_time

        def timed(*args: Any, **options: Any) -> Any:
            if not _moves(threading.current_thread()):
                return function(*args, **options)
            began = clock()
            try:
                return function(*args, **options)
            finally:
                spent = clock() - began
                with self._lock:
                    self._seconds += spent

        return timed


def our_threads() -> float:
    """Processor time of the caller and of the store's threads that move pages, in seconds."""
    clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threading.enumerate() if _moves(thread)]
    return sum(map(time.clock_gettime, clocks))


def _moves(thread: threading.Thread) -> bool:
    return thread is threading.main_thread() or thread.name.startswith("tent-store-")


def times(pool: Pool, rounds: int, native: Native) -> tuple[float, float]:
    """Milliseconds of a call: elapsed, and of our Python. Medians."""
    backend = attach(pool)
    try:
        taken = []
        for _ in range(rounds + 1):  # the first connects
            native.take()
            started, worked = time.perf_counter(), our_threads()
            assert all(backend.batch_get_v1(KEYS, INDICES))
            elapsed = time.perf_counter() - started
            taken.append((elapsed, our_threads() - worked - native.take()))
        elapsed, ours = (statistics.median(column) * 1e3 for column in zip(*taken[1:], strict=True))
        return elapsed, ours
    finally:
        backend.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    native = Native()
    for name, parts in (("page_first", 2), ("layer_first", 32)):
        pool = Pool(parts, (512 << 10) // parts)
        command = [sys.executable, "-c", OWNER, sys.path[0], f"{pool.parts}x{pool.size}"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None and owner.stdout.readline().strip() == "ready"
            whole, ours = times(pool, options.rounds, native)
            owner.communicate()
        figures = {"ms": round(whole, 2), "python_ms": round(ours, 2), "share": round(ours / whole, 4)}
        print(json.dumps({"layout": name, "parts": parts, "pages": PAGES, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
