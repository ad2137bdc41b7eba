"""``tent demo --engine sglang``: two real SGLang servers; the second answers with KV cache that the first computed.

The first answers conversations of several turns; then each goes on at the second, once recomputed there (under a
cache key of its own, which finds nothing) and once with its prefix from TENT. Time to first token of all three, what
was moved, and whether the answers agree by their log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from tent_core.cli import demo_text
from tent_core.cli.demo_common import generated_model, same_logprobs
from tent_core.cli.demo_report import Row, as_json, report, succeeded
from tent_core.cli.progress import Steps
from tent_core.cli.sglang_server import PAGE_TOKENS, SglangServer
from tent_core.errors import InvalidArgument

__all__ = ["run"]

_REMARK = (
    "SGLang's attention for the CPU goes through the cached part of a prompt, too: its own cache takes time."
)
_MODEL_SIZE = "demo"
_NEW_TOKENS = 16
# How long SGLang may take to put the speed of a finished prefetch into its metrics, seconds.
_METRICS_PATIENCE = 5.0


def run(options: argparse.Namespace) -> int:
    """Runs the demo and prints its table, or JSON. 0 when every prefix came through TENT and every answer agreed."""
    python = _interpreter(options)
    with tempfile.TemporaryDirectory(prefix="tent-demo-") as folder:
        rows = _demonstrate(python, Path(folder))
    if getattr(options, "json", False):
        print(as_json("sglang", rows))
    else:
        print(report(rows, f"{PAGE_TOKENS} tokens", _REMARK))
    return 0 if succeeded(rows) else 1


def _interpreter(options: argparse.Namespace) -> str:
    """The interpreter that has SGLang: the one asked for, or this one."""
    python = getattr(options, "python", None)
    if python:
        return str(python)
    if find_spec("sglang") is None:
        raise InvalidArgument(
            "this environment has no SGLang: run the demo in one that has, name its interpreter with --python, or "
            "let 'bash e2e/demo.sh --engine sglang' make one; 'tent demo --fast' needs none"
        )
    return sys.executable


def _demonstrate(python: str, folder: Path) -> list[Row]:
    steps = Steps(3 + len(demo_text.CONVERSATIONS))
    with steps.step("model") as progress:
        model = generated_model(python, _MODEL_SIZE, progress.update)
    # A directory of its own: the demo starts with nothing, and leaves nothing to the user's other processes.
    # It may take its time: two servers on a small machine keep each other waiting.
    directory = {"embedded_dir": str(folder / "directory"), "timeout_ms": 1000}
    config = {"directory": directory, "store": {"capacity": "512MiB"}}
    cores = sorted(os.sched_getaffinity(0))
    first = SglangServer(python, model, folder / "first.log", core=cores[0])
    second = SglangServer(python, model, folder / "second.log", core=cores[-1])
    with first, second:
        first.start(extra_config=config)
        second.start(extra_config=config)
        with steps.step("two SGLang servers start") as progress:
            for server in (first, second):
                server.wait_ready(progress=lambda line: progress.update(_stage(line)))
        with steps.step("warm-up"):
            for server in (first, second):
                server.generate(demo_text.WARM_UP, new_tokens=2, cache_key=f"warm-up-{server.port}")
        page_bytes = _page_bytes(model)
        return [_converse(steps, name, first, second, page_bytes) for name in demo_text.CONVERSATIONS]


def _stage(line: str) -> str:
    """What a line of SGLang's log says, without its date; warnings of its libraries say nothing here."""
    return line.partition("] ")[2] if line.startswith("[") else "importing"


def _converse(steps: Steps, name: str, first: SglangServer, second: SglangServer, page_bytes: int) -> Row:
    prompt = demo_text.prompt(name, next_turn=True)
    with steps.step(f"conversation '{name}'") as progress:
        progress.update("first server computes it")
        stored = first.backed_up()
        cold = first.generate(demo_text.prompt(name, next_turn=False), new_tokens=_NEW_TOKENS)
        # What it had in its own cache from the conversation before is in the pool already.
        fresh_tokens = (cold.prompt_tokens - cold.cached_tokens) // PAGE_TOKENS * PAGE_TOKENS
        first.wait_backed_up(stored + fresh_tokens)
        progress.update("second server recomputes it")
        alone = second.generate(prompt, new_tokens=_NEW_TOKENS, cache_key=f"alone-{name}-{time.time_ns()}")
        # Pages of the conversation before would be a hit of the server's own: start it empty.
        second.flush()
        progress.update("second server loads it through TENT")
        before = _speeds(second)
        loaded = second.generate(prompt, new_tokens=_NEW_TOKENS)
        progress.update("second server has it itself")
        own = second.generate(prompt, new_tokens=1)
    pages = loaded.storage_tokens // PAGE_TOKENS
    gigabytes_a_second = _mean_speed(second, before) if pages else 0.0
    differences = [abs(a - b) for a, b in zip(loaded.logprobs, alone.logprobs, strict=False)]
    return Row(
        conversation=name,
        prompt_tokens=loaded.prompt_tokens,
        cold_s=cold.first_token_s,
        recomputed_s=alone.first_token_s,
        through_tent_s=loaded.first_token_s,
        own_cache_s=own.first_token_s,
        pages_hit=pages,
        bytes_moved=pages * page_bytes,
        load_s=pages * page_bytes / gigabytes_a_second / 1e9 if gigabytes_a_second else 0.0,
        identical=loaded.tokens == alone.tokens and same_logprobs(loaded.logprobs, alone.logprobs),
        largest_logprob_difference=max(differences, default=float("nan")),
    )


def _page_bytes(model: Path) -> int:
    """Bytes of KV cache in a page: keys and values of all layers, in fp32."""
    shape = json.loads((model / "config.json").read_text())
    return int(
        2 * 4 * PAGE_TOKENS * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"]
    )


def _speeds(server: SglangServer) -> tuple[float, float]:
    """(sum, number) of the speeds of all prefetches so far, GB/s, by SGLang's own histogram."""
    name = "sglang:prefetch_bandwidth"
    return server.metric(f"{name}_sum"), server.metric(f"{name}_count")


def _mean_speed(server: SglangServer, before: tuple[float, float]) -> float:
    """Mean speed of the prefetches since `before`, GB/s; 0 when SGLang does not tell in time."""
    deadline = time.monotonic() + _METRICS_PATIENCE
    while True:
        total, number = _speeds(server)
        if number > before[1]:
            return (total - before[0]) / (number - before[1])
        if time.monotonic() > deadline:
            return 0.0
        time.sleep(0.05)
