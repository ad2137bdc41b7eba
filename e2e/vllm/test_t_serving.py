"""What clients and pools do to servers that serve: aborts in every phase, a full pool. Every answer is that of vLLM
alone, and no request is left behind."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

from support.peers import until

Pair = Any  # conftest.py's, which is no module to import from

# More salted prompts than the second server's part of the pool has room for.
SALTS = 26
# Tokens of an answer that nobody waits for to end.
LONG = 2000


def test_clients_that_go_away_in_every_phase(pair: Pair) -> None:
    second = pair.second
    for number in (11, 12):
        pair.store(number)
    pair.expect_loaded(11)

    def in_queue() -> bool:
        return bool(second.metric("vllm:num_requests_waiting"))

    def running() -> bool:
        return bool(second.metric("vllm:num_requests_running"))

    # Waiting for its look-up.
    with pair.directory.silent():
        leaves(second.begin(pair.prompt(21), new_tokens=LONG), lambda: in_queue() or running())
    # Loading: the bytes are held back.
    second.reset()
    pair.relay.hold("to_client", after=100_000)
    leaves(second.begin(pair.prompt(12), new_tokens=LONG), lambda: pair.relay.waiting("to_client") > 0)
    pair.relay.release()
    # Computing its prompt, piece by piece, and its answer.
    leaves(second.begin(pair.prompt(31) * 4, new_tokens=LONG), running)
    leaving = second.begin(pair.prompt(32), new_tokens=LONG)
    leaves(leaving, lambda: leaving.getresponse().readline().startswith(b"data:"))
    pair.wait_idle()
    pair.wait_directory(known=11)
    pair.expect(12, pair.complete(second, 12))
    pair.expect(21, pair.complete(second, 21))


def leaves(client: HTTPConnection, phase: Callable[[], bool]) -> None:
    until(phase, "request in the phase in which its client goes away")
    client.close()


def test_a_pool_that_is_full(pair: Pair) -> None:
    """The second server stores more than fits: what is gone is computed, what is there is right."""
    names = [f"tenant {i}" for i in range(SALTS)]
    stored = pair.second.stored_pages()
    for name in names:
        pair.expect(5, pair.ask(pair.second, 5, salt=name)[0])
    until(
        lambda: pair.second.complete("Go on.", new_tokens=1) and pair.second.stored_pages() > stored,
        "stored pages in the counters",
    )
    found = []
    for name in reversed(names):
        answer, pages = pair.ask(pair.first, 5, salt=name)
        pair.expect(5, answer)
        found.append(pages)
    assert 0 < sum(found) < SALTS * pair.pages(5), found
