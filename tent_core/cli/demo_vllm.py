"""``tent demo``: two real vLLM processes; the second answers with KV cache that the first computed.

The first answers conversations of several turns; then each goes on at the second, once recomputed there (a cache salt
of its own keeps it from finding anything) and once with its prefix from TENT. Time to first token of all three, what
was moved, and whether the answers agree by their log-probabilities.
"""

from __future__ import annotations

import argparse
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
from tent_core.cli.vllm_server import BLOCK_TOKENS, VllmServer
from tent_core.errors import InvalidArgument

__all__ = ["run"]

_MODEL_SIZE = "demo"
_NEW_TOKENS = 16


def run(options: argparse.Namespace) -> int:
    """Runs the demo and prints its table, or JSON. 0 when every prefix came through TENT and every answer agreed."""
    python = _interpreter(options)
    with tempfile.TemporaryDirectory(prefix="tent-demo-") as folder:
        rows = _demonstrate(python, Path(folder))
    if getattr(options, "json", False):
        print(as_json("vllm", rows))
    else:
        print(report(rows, f"a block of {BLOCK_TOKENS} tokens"))
    return 0 if succeeded(rows) else 1


def _interpreter(options: argparse.Namespace) -> str:
    """The interpreter that has vLLM: the one asked for, or this one."""
    python = getattr(options, "python", None)
    if python:
        return str(python)
    if find_spec("vllm") is None:
        raise InvalidArgument(
            "this environment has no vLLM: run the demo in one that has, name its interpreter with --python, or let "
            "'bash e2e/demo.sh' make one; 'tent demo --fast' needs none"
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
    first = VllmServer(python, model, folder / "first.log", core=cores[0])
    second = VllmServer(python, model, folder / "second.log", core=cores[-1])
    with first, second:
        first.start(connector={}, extra_config=config)
        second.start(connector={}, extra_config=config)
        with steps.step("two vLLM servers start") as progress:
            for server in (first, second):
                server.wait_ready(progress=lambda line: progress.update(_stage(line)))
        with steps.step("warm-up"):
            for server in (first, second):
                server.complete(demo_text.WARM_UP, new_tokens=2, salt=f"warm-up-{server.port}")
        return [_converse(steps, name, first, second) for name in demo_text.CONVERSATIONS]


def _stage(line: str) -> str:
    """What a line of vLLM's log says, after its process, level, time and [place]; other lines say nothing here."""
    return line.rpartition("] ")[2] if "] " in line else "importing"


def _converse(steps: Steps, name: str, first: VllmServer, second: VllmServer) -> Row:
    prompt = demo_text.prompt(name, next_turn=True)
    with steps.step(f"conversation '{name}'") as progress:
        progress.update("first server computes it")
        stored = first.stored_pages()
        cold = first.complete(demo_text.prompt(name, next_turn=False), new_tokens=_NEW_TOKENS)
        # Its local prefix cache has the start of the second conversation, and the pool as well: the rest is new.
        first.wait_stored(stored + (cold.prompt_tokens - cold.cached_tokens) // BLOCK_TOKENS)
        progress.update("second server recomputes it")
        fresh = second.complete(prompt, new_tokens=_NEW_TOKENS, salt=f"recompute-{name}-{time.time_ns()}")
        progress.update("second server loads it through TENT")
        before = _loads(second)
        loaded = second.complete(prompt, new_tokens=_NEW_TOKENS)
        after = _loads(second)
        progress.update("second server has it itself")
        own = second.complete(prompt, new_tokens=1)
    differences = [abs(a - b) for a, b in zip(loaded.logprobs, fresh.logprobs, strict=False)]
    return Row(
        conversation=name,
        prompt_tokens=loaded.prompt_tokens,
        cold_s=cold.first_token_s,
        recomputed_s=fresh.first_token_s,
        through_tent_s=loaded.first_token_s,
        own_cache_s=own.first_token_s,
        pages_hit=int(after["tokens"] - before["tokens"]) // BLOCK_TOKENS,
        bytes_moved=int(after["bytes"] - before["bytes"]),
        load_s=(after["microseconds"] - before["microseconds"]) / 1e6,
        identical=loaded.tokens == fresh.tokens and same_logprobs(loaded.logprobs, fresh.logprobs),
        largest_logprob_difference=max(differences, default=float("nan")),
    )


def _loads(server: VllmServer) -> dict[str, float]:
    """What came to a server: tokens by vLLM's own count, bytes and time by the connector's."""
    return {
        "tokens": server.external_hits(),
        "bytes": server.metric("vllm:tent_bytes_total", direction="load"),
        "microseconds": server.metric("vllm:tent_microseconds_total", direction="load"),
    }
