"""A real server whose device pools are linked straight to the pool.

Its pages go to a `tent node`, and a server that is started anew finds them there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from pytest import approx

from support.peers import until
from support.store_process import NodeProcess
from support.stores import Server
from tent_core.cli.demo_common import LOGPROB_TOLERANCE, generated_model
from tent_core.cli.sglang_server import PAGE_TOKENS, SglangServer

PROMPT = [5 + (i * (i + 31)) % 4000 for i in range(1200)]
WHOLE_PAGES = (len(PROMPT) - 1) // PAGE_TOKENS * PAGE_TOKENS


@pytest.fixture
def node(directory: Server) -> Iterator[NodeProcess]:
    made = NodeProcess(
        directory.folder,
        "keeper",
        **{
            "directory.url": directory.url,
            "directory.timeout_ms": 2000,
            "store.capacity": "128MiB",
            "store.extent": "8MiB",
        },
    )
    yield made
    made.close()


@pytest.mark.timeout(600)
def test_a_restarted_server_continues_from_pages_that_a_node_kept(directory, node, tmp_path):
    model = generated_model(sys.executable, "tiny")
    config = {
        "directory": {"url": directory.url, "timeout_ms": 2000},
        "store": {"capacity": "0", "place": "node"},
        "sglang": {"load": "always"},
    }
    before = len(directory.record_keys())
    answers = []
    for run in ("first", "second"):
        server = SglangServer(sys.executable, model, tmp_path / f"{run}.log")
        try:
            server.start(extra_config=config, linker=True)
            server.wait_ready()
            answers.append(server.generate(PROMPT))
            until(
                lambda: len(directory.record_keys()) - before >= WHOLE_PAGES // PAGE_TOKENS,
                "records of the prompt's pages",
            )
        finally:
            print(server.tail())
            server.stop()
    computed, loaded = answers
    assert computed.cached_tokens == 0
    assert loaded.cached_tokens == WHOLE_PAGES
    assert loaded.tokens == computed.tokens
    assert loaded.logprobs == approx(computed.logprobs, abs=LOGPROB_TOLERANCE)
