"""SGLang's own prefill and decode servers, with TENT between them: the answers are those of one server alone.

What fences what, and which bytes may land where, is tested without servers (tests/sglang/test_pd.py).
"""

from __future__ import annotations

import http.client
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from support.peers import until
from tent_core.cli.demo_common import free_port, generated_model
from tent_core.cli.sglang_server import Answer, SglangServer
from tent_core.errors import TentError

# Also kills the decode server, and starts each anew: half a minute for each.
LONG = os.environ.get("TENT_TEST_PD_LONG") == "1"
ENVIRONMENT = {
    "SGLANG_HOST_IP": "127.0.0.1",
    # Two rails.
    "TENT_NODE_BIND": "127.0.0.1,127.0.0.2",
    "TENT_ENGINE_DEADLINE_MS": "5000",
    "SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL": "2",
}
SAID = "hand-offs go over TENT"
GONE = (OSError, http.client.HTTPException, TentError, KeyError)


class Duo:
    """A prefill and a decode server."""

    def __init__(self, folder: Any) -> None:
        model = generated_model(sys.executable, "tiny")
        cores = sorted(os.sched_getaffinity(0))
        self.port = free_port()
        self.prefill = SglangServer(sys.executable, model, folder / "prefill.log", core=cores[0])
        self.decode = SglangServer(sys.executable, model, folder / "decode.log", core=cores[-1])

    def start(self, *modes: str) -> None:
        for mode in modes:
            arguments = [
                "--disaggregation-mode", mode, "--disaggregation-transfer-backend", "tent",
                "--disaggregation-bootstrap-port", str(self.port), "--disable-overlap-schedule",
            ]  # fmt: skip
            self.server(mode).start(backend=None, hicache=False, environment=ENVIRONMENT, arguments=arguments)
        for mode in modes:
            self.server(mode).wait_ready()

    def server(self, mode: str) -> SglangServer:
        return self.prefill if mode == "prefill" else self.decode

    def route(self) -> dict[str, Any]:
        """What a router adds to both halves of a request."""
        room = random.getrandbits(62)
        return {"bootstrap_host": "127.0.0.1", "bootstrap_port": self.port, "bootstrap_room": room}

    def generate(self, prompt: list[int], timeout: float = 300) -> Answer:
        more = self.route()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(self.prefill.generate, prompt, more=more, timeout=timeout)
            answer = self.decode.generate(prompt, more=more, timeout=timeout)
            first.result()
            return answer

    def abort_all(self) -> bool:
        return _abort_all(self.prefill) and _abort_all(self.decode)

    def stop(self) -> None:
        self.decode.stop()
        self.prefill.stop()


def _abort_all(server: SglangServer) -> bool:
    return server.call("POST", "/abort_request", {"rid": "", "abort_all": True})[0] == 200


@pytest.fixture(scope="module")
def duo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duo]:
    made = Duo(tmp_path_factory.mktemp("pd"))
    try:
        made.start("prefill", "decode")
        yield made
    finally:
        print("prefill:", made.prefill.tail(), "decode:", made.decode.tail(), sep="\n")
        made.stop()


@pytest.mark.timeout(600)
def test_a_decode_server_goes_on_where_a_prefill_server_ended(attached, duo):
    numbers = range(4)
    for number in numbers:
        attached.expect(number, duo.generate(attached.prompt(number)))
    with ThreadPoolExecutor(len(numbers)) as pool:
        answers = list(pool.map(duo.generate, map(attached.prompt, numbers)))
    for number, answer in zip(numbers, answers, strict=True):
        attached.expect(number, answer)
    for server in (duo.prefill, duo.decode):
        assert SAID in server.log.read_text(errors="replace")


@pytest.mark.timeout(600)
def test_aborted_requests_cost_the_others_nothing(attached, duo):
    """Some clients go away at once, while their requests are computed, handed over or waiting."""
    for number in range(4, 8):
        more = duo.route()
        body = {
            "input_ids": attached.prompt(number),
            "stream": True,
            "sampling_params": {"max_new_tokens": 8},
            **more,
        }
        streams = [server.stream("/generate", body) for server in (duo.prefill, duo.decode)]
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(next, stream, None) for stream in streams[: 1 + number % 2]]
            # A request may arrive after the word that ends it.
            until(
                lambda some=asked: duo.abort_all() and all(one.done() for one in some), "end of the requests"
            )
            for one in asked:
                with suppress(*GONE):
                    one.result()
        for stream in streams:
            stream.close()
    attached.expect(8, duo.generate(attached.prompt(8)))


@pytest.mark.timeout(900)
def test_either_server_may_die(attached, duo):
    """The other one ends the request, and serves on with the next. Runs last: it ends the prefill server."""
    for victim in ("decode", "prefill") if LONG else ("prefill",):
        survivor = duo.server("prefill" if victim == "decode" else "decode")
        more = duo.route()
        with ThreadPoolExecutor(2) as pool:
            other, asked = (
                pool.submit(server.generate, attached.prompt(9), more=more, timeout=120)
                for server in (duo.server(victim), survivor)
            )
            duo.server(victim).kill()
            with pytest.raises(GONE):
                other.result()
            # A prefill server whose partner is gone may have ended before, or waits for it until it is told.
            until(lambda one=asked, at=survivor: _abort_all(at) and one.done(), "end of the request")
            with suppress(*GONE):
                answer = asked.result()
                # It had everything before, or it was cut short.
                if len(answer.tokens) == 8:
                    attached.expect(9, answer)
        until(survivor.healthy, "answer of the other server")
        if LONG:
            duo.start(victim)
            attached.expect(9, duo.generate(attached.prompt(9)))
