"""How long the connector keeps vLLM's scheduler thread: every call of it, over a few hundred requests, without a model.
By the clock and by the thread's own processor time, which a busy machine does not change.

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


def timed(connector: Any, times: dict[str, list[tuple[float, float]]]) -> None:
    """Every call of `connector` notes what it took."""

    def wrap(name: str) -> None:
        call = getattr(connector, name)

        def measured(*args: Any, **options: Any) -> Any:
            started, own = time.perf_counter(), time.thread_time()
            try:
                return call(*args, **options)
            finally:
                spent = time.thread_time() - own
                times[name].append(((time.perf_counter() - started) * 1e6, spent * 1e6))

        setattr(connector, name, measured)

    for name in CALLS:
        wrap(name)


def main(requests: int) -> None:
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
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
    print(f"{'microseconds':32} {'calls':>7} {'p50':>8} {'p99':>8} {'p50 cpu':>8} {'p99 cpu':>8}")
    for name in CALLS:
        if times[name]:
            ranked = np.percentile(np.array(times[name]), (50, 99), axis=0).T.ravel()
            print(f"{name:32} {len(times[name]):7} " + " ".join(f"{value:8.1f}" for value in ranked))
    every = np.array([one for name in CALLS for one in times[name]])
    print(
        f"{'all of them':32} {len(every):7} "
        + " ".join(f"{v:8.1f}" for v in np.percentile(every, (50, 99), axis=0).T.ravel())
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
