"""A server of two tensor-parallel ranks: a block is there when both of its halves are, and each rank loads its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tent_core.cli.demo_common import LOGPROB_TOLERANCE
from tent_core.cli.vllm_server import BLOCK_TOKENS, VllmServer

PAGES = 8
PROMPT = [5 + i * (i + 11) % 4000 for i in range(BLOCK_TOKENS * PAGES + 40)]


def test_both_ranks_load_what_both_have_stored(model: Path, tmp_path: Path) -> None:
    config = {
        "directory": {"embedded_dir": str(tmp_path / "directory"), "timeout_ms": 5000},
        "store": {"capacity": "64MiB", "extent": "16MiB"},
        "vllm": {"load_when_faster": False, "lookup_wait_ms": 30000},
    }
    ranks = ["--distributed-executor-backend", "mp", "--tensor-parallel-size", "2"]
    with VllmServer(sys.executable, model, tmp_path / "log") as server:
        server.start(connector={}, extra_config=config, arguments=ranks)
        server.wait_ready()
        computed = server.complete(PROMPT)
        # Two ranks store a half of each block.
        server.wait_stored(2 * PAGES)
        server.reset()
        loaded = server.complete(PROMPT)
        print(server.events())
        assert server.external_hits() == PAGES * BLOCK_TOKENS
        assert loaded.logprobs == pytest.approx(computed.logprobs, abs=LOGPROB_TOLERANCE)
        assert server.metric("vllm:tent_events_total", event="load.hit") == 2 * PAGES
        # And a clear reaches both.
        server.reset(external=True)
        again = server.complete(PROMPT)
        assert server.external_hits() == PAGES * BLOCK_TOKENS
        assert again.logprobs == pytest.approx(computed.logprobs, abs=LOGPROB_TOLERANCE)
