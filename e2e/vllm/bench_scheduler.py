"""How long the connector keeps vLLM's scheduler thread: every call of it, over a few hundred requests, without a model.

PYTHONPATH=tests python e2e/vllm/bench_scheduler.py [REQUESTS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.vllm_bench import Shape, VllmBench, write_model

CALLS = (
    "on_new_request", "get_num_new_matched_tokens", "update_state_after_alloc", "build_connector_meta",
    "update_connector_output", "request_finished_all_groups", "take_events",
)  # fmt: skip


def timed(connector: Any, times: dict[str, list[float]]) -> None:
    """Every call of `connector` notes what it took."""

    def wrap(name: str) -> None:
        call = getattr(connector, name)

        def measured(*args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                times[name].append((time.perf_counter() - started) * 1e6)

        setattr(connector, name, measured)

    for name in CALLS:
        wrap(name)


def main(requests: int) -> None:
    times: dict[str, list[float]] = defaultdict(list)
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        bench = VllmBench(
            write_model(folder), Shape(blocks=2000, budget=2048, running=16), patch, inline=False
        )
        timed(bench.scheduler.get_kv_connector(), times)
        for i in range(requests):
            tokens = [5 + (i % 40 * 131 + j * (j + 7)) % 900 for j in range(256 + i % 7 * 64)]
            bench.add(f"r{i}", tokens, 3)
            if i % 4 == 0:
                bench.step()
            if i % 40 == 39:
                bench.forget_local()
        bench.drain(100_000)
        bench.close()
    print(f"{'call':32} {'calls':>7} {'p50':>8} {'p99':>8}   (microseconds)")
    for name in CALLS:
        values = np.array(times[name])
        if len(values):
            print(
                f"{name:32} {len(values):7} {np.percentile(values, 50):8.1f} {np.percentile(values, 99):8.1f}"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
