"""One vLLM computes a prompt and another one goes on from its blocks; the test passes on what a proxy would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.peers import until
from tent_core.cli.demo_common import LOGPROB_TOLERANCE
from tent_core.cli.vllm_server import BLOCK_TOKENS

SCRIPT = Path(__file__).with_name("handoff.py")
ASKED = {"do_remote_decode": True, "do_remote_prefill": False, "remote_block_ids": None}
TOKENS = 8


def prompt(number: int) -> list[int]:
    """Those of one decade share their first eight blocks."""
    shared = [5 + (number // 10 * 31 + i * (i + 7)) % 4000 for i in range(8 * BLOCK_TOKENS)]
    return shared + [5 + (number * 97 + i * (i + 13)) % 4000 for i in range(3 * BLOCK_TOKENS + 40 + number)]


class Vllm:
    def __init__(self, model: Path, folder: Path, name: str) -> None:
        """A directory of its own: nothing comes by way of a shared pool."""
        config = {
            "directory": {"embedded_dir": str(folder / name), "timeout_ms": 5000},
            "store": {"capacity": "32MiB", "extent": "16MiB"},
            "shm": {"enabled": False},
            "vllm": {"handoff_timeout_ms": 60000},
        }
        with open(folder / f"{name}.log", "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(model)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.send({"config": config, "transfer": {}})

    def send(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"vLLM ended with {self.process.wait()}: see its log"
        return json.loads(line)

    def do(self, name: str, **arguments: Any) -> Any:
        self.send([name, arguments])
        return self.answer()

    def event(self, name: str) -> float:
        return float(self.do("state")["events"].get(f"handoff.{name}", 0))

    def fetched(self) -> float:
        return float(self.do("state")["bytes"].get("handoff", 0))

    def wait_free(self) -> None:
        until(lambda: self.do("state")["held"] == 0, "free blocks")


@pytest.fixture
def two(model: Path, tmp_path: Path) -> Iterator[tuple[Vllm, Vllm]]:
    """(prefill, decode). Their logs are shown when the test fails."""
    both = Vllm(model, tmp_path, "prefill"), Vllm(model, tmp_path, "decode")
    try:
        for server in both:
            assert server.answer() == "ready"
        yield both
    finally:
        for server in both:
            server.process.kill()
            server.process.communicate()
        for name in ("prefill", "decode"):
            print((tmp_path / f"{name}.log").read_text()[-2500:])


def test_the_answer_is_that_of_one_server(two: tuple[Vllm, Vllm]) -> None:
    prefill, decode = two

    def plain(number: int) -> list[float]:
        answer = decode.do("ask", prompt=prompt(number), tokens=TOKENS, salt=f"computed {number}")
        assert answer["handoff"] is None
        return [float(value) for value in answer["logprobs"]]

    def prefilled(number: int) -> Any:
        handoff = prefill.do("ask", prompt=prompt(number), tokens=1, handoff=ASKED)["handoff"]
        assert handoff["do_remote_prefill"]
        return handoff

    def expect(number: int, answer: Any, logprobs: list[float]) -> None:
        assert answer["logprobs"] == pytest.approx(logprobs, abs=LOGPROB_TOLERANCE), number

    alone = {number: plain(number) for number in (1, 2, 11, 12)}

    assert decode.do("state")["external"] == 0
    expect(1, decode.do("ask", prompt=prompt(1), tokens=TOKENS, handoff=prefilled(1)), alone[1])
    assert decode.do("state")["external"] >= len(prompt(1)) - 1, "nothing of it is computed twice"
    prefill.wait_free()
    decode.wait_free()
    until(lambda: prefill.event("released") == 1, "released offer in the counters")

    # Its first eight blocks are here by now: only the others are fetched.
    before = until(lambda: decode.fetched(), "fetched bytes in the counters")
    expect(2, decode.do("ask", prompt=prompt(2), tokens=TOKENS, handoff=prefilled(2)), alone[2])
    until(lambda: 0 < decode.fetched() - before < before / 2, "bytes of less than half the blocks")

    # What cannot be fetched is computed: the ticket was changed on its way, or the prefill server is gone.
    handoff = prefilled(11)
    ticket = handoff["tent"]["tickets"][0]
    handoff["tent"]["tickets"][0] = ticket[:-8] + "AAAAAAAA"
    expect(11, decode.do("ask", prompt=prompt(11), tokens=TOKENS, handoff=handoff), alone[11])
    until(lambda: decode.event("pull.auth_failed") == 1, "refused ticket in the counters")
    assert decode.do("reset")
    handoff = prefilled(12)
    decode.send(["ask", {"prompt": prompt(12), "tokens": TOKENS, "handoff": handoff}])
    prefill.process.kill()
    expect(12, decode.answer(), alone[12])
    decode.wait_free()
