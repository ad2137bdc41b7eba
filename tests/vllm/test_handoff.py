"""A prefill and a decode server's hand-off without vLLM: both sides of the connector over two real engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.peers import pattern, until
from support.tensors import Tensor
from tent_core import Engine
from tent_core.config import load_config, resolve_secret
from tent_vllm.guard import Guard
from tent_vllm.handoff_plan import Endpoint
from tent_vllm.handoff_scheduler import HandoffScheduler
from tent_vllm.handoff_worker import HandoffWorker
from tent_vllm.layout import page_layout

BLOCKS, TOKENS, FORM = 16, 32, b"tiny float32"
CONFIG = {"shm.enabled": False, "node.bind": ["127.0.0.1"]}


@dataclass
class Request:
    request_id: str
    num_prompt_tokens: int = 3 * TOKENS + 5
    num_computed_tokens: int = 0
    kv_transfer_params: dict[str, Any] | None = None
    status: Any = field(default_factory=lambda: SimpleNamespace(name="FINISHED_LENGTH_CAPPED"))


class Server:
    """One vLLM server's connector, of one rank."""

    def __init__(self, name: str, seed: int, *, form: bytes = FORM, **times: float) -> None:
        self.engine = Engine(CONFIG, name=name)
        self.caches = [
            pattern(seed + i, BLOCKS * TOKENS * 64).view(np.float32).reshape(BLOCKS, TOKENS, 16).copy()
            for i in range(2)
        ]
        self.layout = page_layout({f"layers.{i}": Tensor(cache) for i, cache in enumerate(self.caches)})
        self.segments = [self.engine.register(region, access="private") for region in self.layout.regions]
        guard = Guard(interval=60.0)
        bounds = {"lease": 30.0, "timeout": 30.0, **times}
        engine = self.engine  # no cycle: its sockets go with it
        self.worker = HandoffWorker(lambda: engine, self.layout, form, guard, rank=0, **bounds)
        self.scheduler = HandoffScheduler(TOKENS, guard, engine_id=name, produces=True, consumes=True)
        self.scheduler.serve([Endpoint(self.engine.descriptor(), form)], resolve_secret(load_config({})))

    def step(self) -> None:
        if (plan := self.scheduler.take_plan()) is not None:
            self.worker.perform(plan)

    def blocks(self, ids: list[int]) -> bytes:
        return b"".join(cache[ids].tobytes() for cache in self.caches)

    def prefill(self, request: Request, blocks: list[int]) -> dict[str, Any]:
        """Finishes a request that is decoded elsewhere; answers with what the proxy passes on, as JSON would."""
        request.kv_transfer_params = {
            "do_remote_decode": True,
            "do_remote_prefill": False,
            "remote_block_ids": None,
        }
        request.num_computed_tokens = request.num_prompt_tokens
        held, params = self.scheduler.finished(request, blocks)
        assert held and params is not None
        self.step()
        passed: dict[str, Any] = json.loads(json.dumps(params))
        return passed

    def decode(self, request: Request, blocks: list[int], computed: int = 0) -> int:
        """vLLM asks for a match, allocates and takes a step. The tokens that are to be fetched."""
        tokens = self.scheduler.matched(request, computed)
        self.scheduler.allocated(request, blocks, tokens)
        self.step()
        return tokens

    def received(self) -> tuple[set[str], set[int]]:
        found: list[tuple[set[str], set[int]]] = []

        def look() -> bool:
            _, received = self.worker.results()
            failed = self.worker.take_failed()
            assert received or not failed, "blocks are lost with the request that waits for them"
            if received:
                found.append((received, failed))
            return bool(found)

        until(look, "request")
        return found[0]

    def sent(self, count: int = 1) -> set[str]:
        found: set[str] = set()
        until(lambda: found.update(self.worker.results()[0]) or len(found) >= count, "end of the offers")
        return found

    def close(self) -> None:
        self.worker.close()
        self.engine.close()


@pytest.fixture
def prefill() -> Iterator[Server]:
    server = Server("prefill", 1)
    yield server
    server.close()


@pytest.fixture
def decode() -> Iterator[Server]:
    server = Server("decode", 7)
    yield server
    server.close()


def test_blocks_go_over_and_are_freed_then(prefill: Server, decode: Server) -> None:
    params = prefill.prefill(Request("p"), [3, 9, 4, 12])
    assert params["do_remote_prefill"] and params["remote_block_ids"] == [3, 9, 4, 12]
    beside = decode.blocks([0, 1, 3])
    assert decode.decode(Request("d", kv_transfer_params=params), [5, 2, 8, 6]) == 3 * TOKENS + 5
    assert decode.received() == ({"d"}, set())
    assert decode.blocks([5, 2, 8, 6]) == prefill.blocks([3, 9, 4, 12])
    assert decode.blocks([0, 1, 3]) == beside
    assert prefill.sent() == {"p"}


def test_what_the_decode_server_has_is_not_fetched(prefill: Server, decode: Server) -> None:
    params = prefill.prefill(Request("p"), [3, 9, 4, 12])
    here = decode.blocks([5, 2])
    assert (
        decode.decode(Request("d", kv_transfer_params=params), [5, 2, 8, 6], computed=2 * TOKENS)
        == TOKENS + 5
    )
    assert decode.received() == ({"d"}, set())
    assert decode.blocks([5, 2]) == here
    assert decode.blocks([8, 6]) == prefill.blocks([4, 12])
    params = prefill.prefill(Request("all"), [3, 9, 4])
    request = Request("whole", num_prompt_tokens=3 * TOKENS, kv_transfer_params=params)
    params["tent"]["tokens"] = 3 * TOKENS
    assert decode.decode(request, [5, 2, 8], computed=3 * TOKENS) == 0
    assert prefill.sent(2) == {"p", "all"}, "nobody will fetch it: it need not wait"


def test_a_request_that_ends_before_its_turn_frees_its_blocks(prefill: Server, decode: Server) -> None:
    params = prefill.prefill(Request("p"), [1, 2, 3, 4])
    aborted = Request("d", kv_transfer_params=params, status=SimpleNamespace(name="FINISHED_ABORTED"))
    assert decode.scheduler.finished(aborted, []) == (False, None)
    decode.step()
    assert prefill.sent() == {"p"}


def test_a_prefill_server_that_is_gone_fails_the_blocks_and_not_more(decode: Server) -> None:
    gone = Server("gone", 3)
    params = gone.prefill(Request("p"), [1, 2, 3, 4])
    gone.close()
    request = Request("d", kv_transfer_params=params)
    decode.decode(request, [5, 2, 8, 6])
    assert decode.received() == ({"d"}, {5, 2, 8, 6})
    assert decode.scheduler.matched(request, 0) == 0, "it is not fetched a second time"


def test_blocks_that_nobody_fetches_are_freed_by_their_lease() -> None:
    server = Server("prefill", 1, lease=0.05)
    server.prefill(Request("p"), [1, 2])
    assert server.sent() == {"p"}
    server.close()


def test_another_model_is_never_loaded(prefill: Server) -> None:
    other = Server("other", 7, form=b"tiny bfloat16")
    params = prefill.prefill(Request("p"), [1, 2, 3, 4])
    before = other.blocks(list(range(BLOCKS)))
    other.decode(Request("d", kv_transfer_params=params), [5, 2, 8, 6])
    assert other.received() == ({"d"}, {5, 2, 8, 6})
    assert other.blocks(list(range(BLOCKS))) == before
    other.close()


@pytest.mark.parametrize(
    "ours",
    [
        None,
        "text",
        {},
        {"version": 2, "tickets": ["x"], "tokens": 64, "block_tokens": TOKENS},
        {"version": 1, "tickets": ["x", "y"], "tokens": 64, "block_tokens": TOKENS},
        {"version": 1, "tickets": [7], "tokens": 64, "block_tokens": TOKENS},
        {"version": 1, "tickets": ["x"], "tokens": -64, "block_tokens": TOKENS},
        {"version": 1, "tickets": ["x"], "tokens": 64, "block_tokens": 16},
    ],
)
def test_parameters_that_make_no_sense_are_computed(decode: Server, ours: Any) -> None:
    request = Request("d", kv_transfer_params={"do_remote_prefill": True, "tent": ours})
    assert decode.decode(request, [1, 2, 3, 4]) == 0
    assert decode.worker.results() == (set(), set())


def test_a_request_that_was_aborted_keeps_nothing(prefill: Server) -> None:
    request = Request("p", status=SimpleNamespace(name="FINISHED_ABORTED"))
    request.kv_transfer_params = {"do_remote_decode": True}
    assert prefill.scheduler.finished(request, [1, 2]) == (False, None)
    assert prefill.scheduler.take_plan() is None


def test_parameters_of_another_connector_are_left_alone(prefill: Server, decode: Server) -> None:
    """Inside MultiConnector they belong to a sibling."""
    theirs = {"do_remote_prefill": True, "remote_block_ids": [1], "remote_host": "there"}
    request = Request("d", kv_transfer_params=dict(theirs))
    assert decode.decode(request, [1, 2, 3, 4]) == 0
    assert decode.scheduler.finished(request, [1, 2, 3, 4]) == (False, None)
    assert request.kv_transfer_params == theirs
    # And where a sibling was chosen to load, what was offered to us is given back.
    params = prefill.prefill(Request("p"), [3, 9, 4, 12])
    request = Request("both", kv_transfer_params=params)
    assert decode.scheduler.matched(request, 0) > 0
    assert not decode.scheduler.allocated(request, [5, 2, 8, 6], 0)
    decode.step()
    assert prefill.sent() == {"p"}
    assert params["do_remote_prefill"]
