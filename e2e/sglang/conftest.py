"""Two real SGLang servers for the whole run: starting one costs half a minute.

`first` starts without any storage, so that its answers are those of a run without TENT; TENT is attached to it
later. `second` starts with the flag `--hicache-storage-backend tent`. `pair` hands out both with empty caches and an
empty pool.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.stores import Server
from tent_core.cli.demo_common import LOGPROB_TOLERANCE, generated_model
from tent_core.cli.sglang_server import PAGE_TOKENS, Answer, SglangServer


def attachment(directory: Server) -> dict[str, Any]:
    """Settings of both servers: small, so that two servers and their host pools fit a small machine."""
    return {
        # The machine may be busy, and these tests are about what comes, not about how soon.
        "directory": {"url": directory.url, "timeout_ms": 2000},
        "store": {"capacity": "256MiB", "extent": "16MiB"},
        "prefetch_threshold": PAGE_TOKENS,
        # What is found is loaded, however fast the small model computes on a busy machine.
        "sglang": {"load": "always"},
    }


# SGLang's own fault injector delays every call of the second server's backend by up to this much, so that a test can
# do something while a prefetch is under way.
DELAY_S = "0.03"


@dataclass
class Pair:
    """Two servers over one pool, and the answers that the first gave before it had one."""

    first: SglangServer
    second: SglangServer
    directory: Server
    config: dict[str, Any]
    _answers: dict[int, Answer] = field(default_factory=dict)
    _stored: dict[int, float] = field(default_factory=dict)

    def prompt(self, number: int) -> list[int]:
        """A prompt of its own of about 1,500 tokens, not a multiple of a page."""
        return [5 + (number * 7919 + i * (i + 31 * number + 1)) % 4000 for i in range(1500 + 7 * number)]

    def pages(self, number: int) -> int:
        """Tokens of the prompt's whole pages, less the last token, which is always computed."""
        return (len(self.prompt(number)) - 1) // PAGE_TOKENS * PAGE_TOKENS

    def expect(self, number: int, answer: Answer) -> None:
        """The answer is that of a run without TENT."""
        reference = self._answers[number]
        assert answer.tokens == reference.tokens
        assert answer.logprobs == pytest.approx(reference.logprobs, abs=LOGPROB_TOLERANCE)

    def learn(self, numbers: range) -> None:
        """The first server's answers, before it has any storage."""
        for number in numbers:
            self._answers[number] = self.first.generate(self.prompt(number))
            assert self._answers[number].storage_tokens == 0

    def found_again(self, numbers: Sequence[int]) -> None:
        """The second server finds what the first has stored of these prompts, though nobody told it that it can now.

        A new prompt each time: what it missed it has computed and stored itself, and finds without the first.
        """
        for number in numbers:
            answer = self.second.generate(self.prompt(number))
            self.expect(number, answer)
            if answer.storage_tokens == self.pages(number):
                return
        raise AssertionError(
            f"the second server finds {answer.storage_tokens} of {self.pages(number)} tokens"
        )

    def store(self, server: SglangServer, number: int) -> Answer:
        """Lets `server` compute prompt `number` and waits until its pages are in the pool."""
        before = server.backed_up()
        answer = server.generate(self.prompt(number))
        server.wait_backed_up(before + self.pages(number))
        return answer


@pytest.fixture(scope="session")
def directory() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="session")
def servers(
    directory: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SglangServer, SglangServer]]:
    folder = tmp_path_factory.mktemp("sglang")
    model = generated_model(sys.executable, "tiny")
    cores = sorted(os.sched_getaffinity(0))
    first = SglangServer(sys.executable, model, folder / "first.log", core=cores[0])
    second = SglangServer(sys.executable, model, folder / "second.log", core=cores[-1])
    try:
        first.start(backend=None)
        second.start(
            extra_config=attachment(directory),
            environment={"SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY": DELAY_S},
        )
        first.wait_ready()
        second.wait_ready()
        yield first, second
    finally:
        first.stop()
        second.stop()


@pytest.fixture(scope="session")
def attached(servers: tuple[SglangServer, SglangServer], directory: Server) -> Pair:
    pair = Pair(*servers, directory, config=attachment(directory))
    pair.learn(range(13))
    status, text = pair.first.attach("tent", pair.config)
    assert status == 200, text
    return pair


@pytest.fixture
def pair(attached: Pair, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Both servers with empty caches over an empty pool. Their logs are shown when a test fails."""
    attached.first.flush()
    attached.second.flush()
    attached.first.clear_storage()
    yield attached
    if request.session.testsfailed:
        print("first:", attached.first.tail(), "second:", attached.second.tail(), sep="\n")
