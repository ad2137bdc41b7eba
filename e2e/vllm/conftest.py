"""Two real vLLM servers over one Redis for the whole run: starting one costs half a minute.

`first` finds the connector by its entry point and has plenty of room; `second` is told its module and has so few
blocks that they change hands all the time. They are two hosts to each other: the second reads from the first over TCP,
through a relay that can hold bytes back (SGLang's tests use shared memory). Both are started before their Redis is.
`Pair.expect` compares with what vLLM answers without any connector, by log-probabilities: tokens alone can agree on a
wrong cache.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.peers import until
from support.relay import Relay
from support.stores import Server
from tent_core.cli.demo_common import LOGPROB_TOLERANCE, free_port
from tent_core.cli.vllm_server import BLOCK_TOKENS, Answer, VllmServer

HERE = Path(__file__).resolve().parent
NEW_TOKENS = 8
# Blocks of the second server: six long prompts at once.
FEW_BLOCKS = 80
# It computes long prompts piece by piece, and its part of the pool is soon full.
FEW_TOKENS, SMALL_POOL = 512, "128MiB"
# The first test's time includes the start of both servers, on a machine that may be busy.
PATIENCE_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PATIENCE_S))


def load_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("tent_e2e_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def model() -> Path:
    return Path(load_module(HERE.parent / "models" / "__init__.py").model_path(sys.executable, "tiny"))


@pytest.fixture(scope="session")
def directory() -> Iterator[Server]:
    """Not started: the servers come first."""
    made = Server(start=False)
    yield made
    made.close()


@dataclass
class Pair:
    first: VllmServer
    second: VllmServer
    directory: Server
    relay: Relay
    """What the second reads from the first passes here, to the client."""
    reference: dict[str, dict[str, Any]]

    @staticmethod
    def prompt(number: int) -> list[int]:
        """A prompt of its own of some 1,500 tokens; those of one decade share their first 1,000."""
        shared = [5 + (number // 10 * 7919 + i * (i + 17)) % 4000 for i in range(1000)]
        own = [5 + (number * 7919 + i * (i + 31 * number + 1)) % 4000 for i in range(520 + 7 * (number % 10))]
        return shared + own

    @classmethod
    def pages(cls, number: int) -> int:
        """Pages of the prompt that may be loaded: its last token is always computed."""
        return (len(cls.prompt(number)) - 1) // BLOCK_TOKENS

    def complete(self, server: VllmServer, number: int) -> Answer:
        """As `ask`, for many at once: nothing is said about hits."""
        return server.complete(self.prompt(number), new_tokens=NEW_TOKENS, timeout=120)

    def ask(self, server: VllmServer, number: int, salt: str | None = None) -> tuple[Answer, int]:
        """(the answer, pages of its prompt that came through TENT). For one request at a time."""
        before = server.external_hits()
        answer = server.complete(self.prompt(number), new_tokens=NEW_TOKENS, salt=salt)
        hits = server.external_hits() - before
        assert hits % BLOCK_TOKENS == 0
        return answer, hits // BLOCK_TOKENS

    def expect(self, number: int, answer: Answer) -> None:
        """The answer is that of vLLM without a connector."""
        reference = self.reference[str(number)]
        assert answer.logprobs == pytest.approx(reference["logprobs"], abs=LOGPROB_TOLERANCE)
        assert answer.prompt_tokens == len(self.prompt(number))

    def wait_directory(self, known: int) -> None:
        """Returns when the second server's look-ups reach the directory. `known`: a prompt that it has seen."""

        def unanswered() -> float:
            events = ("lookup.directory_down", "lookup.not_waited")
            return sum(self.second.metric("vllm:tent_events_total", event=event) for event in events)

        def answered() -> bool:
            before = unanswered()
            self.second.reset()
            self.expect(known, self.ask(self.second, known)[0])
            return unanswered() == before

        until(answered, "answer of the directory to the second server")

    def wait_idle(self) -> None:
        """Returns when no request is in a server or holds a block of it. What was handed over is freed when vLLM
        works."""
        for server in (self.first, self.second):
            until(lambda server=server: self._idle(server), "no request in the server")  # type: ignore[misc]

    @staticmethod
    def _idle(server: VllmServer) -> bool:
        server.complete("Go on.", new_tokens=1)
        gauges = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        return not any(server.metric(f"vllm:{name}") for name in gauges)

    def wait_published(self, pages: int) -> None:
        """Returns when so many pages are in the directory."""
        until(lambda: len(self.directory.record_keys()) >= pages, f"records of {pages} pages")

    def expect_loaded(self, number: int) -> None:
        """The second server loads every page of a prompt."""
        answer, pages = self.ask(self.second, number)
        assert pages == self.pages(number)
        self.expect(number, answer)

    def store(self, number: int, *, on: VllmServer | None = None, salt: str | None = None) -> Answer:
        """Lets a server (the first) compute a prompt and waits until its pages are in the pool."""
        server = on or self.first
        before = server.stored_pages()
        answer, _ = self.ask(server, number, salt)
        server.wait_stored(before + self.pages(number) - answer.cached_tokens // BLOCK_TOKENS)
        return answer


def ask_without_tent(model: Path, numbers: range) -> dict[str, dict[str, Any]]:
    """vLLM's answers without any connector, from a process of its own."""
    prompts = {str(number): Pair.prompt(number) for number in numbers}
    done = subprocess.run(
        [sys.executable, str(HERE / "reference.py"), str(model), str(NEW_TOKENS)],
        input=json.dumps(prompts), capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@dataclass
class Hosts:
    first: VllmServer
    second: VllmServer
    relay: Relay


@pytest.fixture(scope="session")
def servers(model: Path, directory: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("vllm")
    cores = sorted(os.sched_getaffinity(0))
    config = {
        # The machine may be busy, and these tests are about what comes, not about how soon.
        "directory": {"url": directory.url, "timeout_ms": 2000},
        "store": {"capacity": "256MiB", "extent": "16MiB"},
        "shm": {"enabled": False},
        "vllm": {"lookup_wait_ms": 5000, "load_when_faster": False},
    }
    port = free_port()
    behind_relay = {**config, "node": {"port": port, "bind": ["127.0.0.1"], "advertise": ["127.0.0.2"]}}
    first = VllmServer(sys.executable, model, folder / "first.log", core=cores[0])
    second = VllmServer(sys.executable, model, folder / "second.log", core=cores[-1])
    with Relay(("127.0.0.1", port), "127.0.0.2", port) as relay, first, second:
        first.start(connector={}, extra_config=behind_relay)
        by_path = {"kv_connector_module_path": "tent_vllm.connector"}
        few = ["--num-gpu-blocks-override", str(FEW_BLOCKS), "--max-num-batched-tokens", str(FEW_TOKENS)]
        small = {**config, "store": {"capacity": SMALL_POOL, "extent": "8MiB"}}
        second.start(connector=by_path, extra_config=small, arguments=few)
        first.wait_ready()
        second.wait_ready()
        yield Hosts(first, second, relay)


@pytest.fixture(scope="session")
def strangers(servers: Hosts, directory: Server, model: Path) -> Pair:
    """The two servers; the directory may not be there yet."""
    reference = ask_without_tent(model, range(70))
    return Pair(servers.first, servers.second, directory, servers.relay, reference)


@pytest.fixture(scope="session")
def started(strangers: Pair) -> Pair:
    if not strangers.directory.running:
        strangers.directory.start()
        strangers.store(68)
        strangers.wait_published(strangers.pages(68))
        strangers.ask(strangers.second, 69)
        strangers.wait_directory(69)
    return strangers


@pytest.fixture
def pair(started: Pair, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Both servers with empty prefix caches over an empty pool. Their logs are shown when a test fails."""
    started.first.reset(external=True)
    started.second.reset()
    yield started
    show_logs(started, request)


def show_logs(pair: Pair, request: pytest.FixtureRequest) -> None:
    if request.session.testsfailed:
        for name, server in (("first", pair.first), ("second", pair.second)):
            print(f"{name}:", server.events(), server.tail(), sep="\n")
