"""The server that holds the pages is killed while another one reads them. Runs last: it ends the first server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

FRESH = 12  # a prompt that the killed server never saw


@pytest.mark.timeout(600)
def test_a_server_killed_in_mid_transfer_costs_the_other_misses_only(pair):
    numbers = range(12)
    for number in numbers:
        pair.store(pair.first, number)
    before = pair.second.prefetched()
    with ThreadPoolExecutor(len(numbers)) as pool:
        answers = [pool.submit(pair.second.generate, pair.prompt(number)) for number in numbers]
        # Some pages have come over and others are on their way: the reader's backend is slowed down for this.
        while pair.second.prefetched() == before:
            assert not all(answer.done() for answer in answers), "nothing came from the pool"
        pair.first.kill()
        wait(answers)
    loaded = 0
    for number, answer in zip(numbers, answers, strict=True):
        pair.expect(number, answer.result())
        loaded += answer.result().storage_tokens
    assert 0 < loaded < sum(pair.pages(number) for number in numbers)

    # Its storage threads are alive: what it stores from now on it finds again.
    pair.second.flush()
    pair.store(pair.second, FRESH)
    pair.second.flush()
    again = pair.second.generate(pair.prompt(FRESH))
    assert again.storage_tokens == pair.pages(FRESH)
    pair.expect(FRESH, again)

    # The dead server's records give way to new pages of the same prompts, at the latest when its node record expires.
    deadline = time.monotonic() + 60
    while (replaced := pair.second.generate(pair.prompt(0))).storage_tokens == 0:
        assert time.monotonic() < deadline, "the dead server's records still stand"
        pair.expect(0, replaced)
        pair.second.flush()
    pair.expect(0, replaced)
