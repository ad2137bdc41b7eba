"""The parts of the benchmark that need no server: what is asked, and what becomes of the answers."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from pytest import approx

sys.path.insert(0, str(Path(__file__).with_name("ttft")))

import load
import report

SHAPE = load.Shape(clients=3, turns=2, first=20, more=5)


def test_a_conversation_grows_and_a_seed_says_all_of_it():
    asked = load.prompts(SHAPE, 1)
    assert asked == load.prompts(SHAPE, 1) != load.prompts(SHAPE, 2)
    assert [[len(prompt) for prompt in client] for client in asked] == [[20, 25, 30]] * 3
    assert all(client[2][:25] == client[1] and client[1][:20] == client[0] for client in asked)
    assert asked[0][0] != asked[1][0]


class Server:
    """Counts who asks at a time, and what."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.seen: list[int] = []

    def __call__(self, prompt: list[int]) -> tuple[int, int, float]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.seen.append(len(prompt))
        with self.lock:
            self.now -= 1
        return len(prompt) // 2, len(prompt) // 2, 0.5


def test_every_turn_is_asked_once_in_its_order():
    asked = load.prompts(SHAPE, 1)
    for turns in (load.poisson(Server(), asked, 500.0, 1), load.closed_loop(Server(), asked, 2)[0]):
        assert sorted((one.client, one.turn) for one in turns) == [(c, t) for c in range(3) for t in (1, 2)]
    assert [(one.client, one.turn, one.prompt) for one in load.fill(Server(), asked)] == [
        (c, 0, 20) for c in range(3)
    ]
    server = Server()
    load.closed_loop(server, asked, 1)
    assert server.most == 1


def block(backend: str, repetition: int, times: list[float], seconds: float = 1.0) -> report.Block:
    turns = [load.Turn(0, at + 1, 100, 50, 60, ttft, 0.0) for at, ttft in enumerate(times)]
    fetched = [{"seconds": ttft / 2, "pages": 3, "asked": 3} for ttft in times]
    return report.Block(
        backend, "poisson", repetition, turns, seconds, [*fetched, {"seconds": 9, "pages": 1, "asked": 3}]
    )


def test_percentiles_lie_between_ranks():
    assert [report.percentile([4, 1, 3, 2], p) for p in (0, 50, 90, 100)] == approx([1, 2.5, 3.7, 4])
    assert report.percentile([7.0], 99) == 7.0


def test_ratios_are_of_pairs_and_have_an_interval():
    ours = [block("tent", n, [1.0, 1.0 + n / 10]) for n in range(4)]
    theirs = [block("mooncake", n, [2.0, 2.0 + n / 5]) for n in range(4)]
    value, low, high = report.ratio(ours, theirs, report.ttft_at(90))
    assert value == approx(0.5) and low <= value <= high
    found = report.figures([*ours, *theirs])
    assert found["prefetch P50, TENT / Mooncake"][0] == approx(0.5)
    assert found["P90 TTFT, none / TENT"] is None, "it was not measured"
    assert "not measured" in [value for _, value, *_ in report.lines(found)]


def test_the_page_has_a_row_for_each_backend():
    blocks = [block("tent", 0, [0.25, 0.5]), block("none", 0, [2.0, 3.0], 5.0)]
    rows = report.table(blocks)
    assert rows[1][:6] == ("poisson", "tent", "2", "375", "375", "475")
    assert rows[1][7:] == ("200", "50%", "188", "238", "50%")
    page = report.page(blocks, report.figures(blocks), ["How."], "make it")
    assert "| poisson | none | 2 |" in page and "| none | 50%, 2000 | 50%, 3000 |" in page
    assert report.plot(blocks).startswith("<svg")
