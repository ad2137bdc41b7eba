"""What one server computed another one loads, and every answer is that of vLLM alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tent_core.cli.vllm_server import BLOCK_TOKENS

Pair = Any  # conftest.py's, which is no module to import from


def test_a_prefix_that_another_process_computed(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    cold = pair.store(1)
    pair.expect(1, cold)
    computed, none = pair.ask(pair.second, 1, salt="a fresh one")
    assert none == 0
    pair.expect(1, computed)
    loaded, pages = pair.ask(pair.second, 1)
    assert pages == pair.pages(1)
    pair.expect(1, loaded)
    with capsys.disabled():
        print(
            f"\nTTFT of {loaded.prompt_tokens} tokens: cold {cold.first_token_s:.3f} s, recomputed "
            f"{computed.first_token_s:.3f} s, through TENT {loaded.first_token_s:.3f} s"
        )


def test_after_a_clear_it_is_computed_again(pair: Pair) -> None:
    pair.store(2)
    pair.first.reset(external=True)
    answer, pages = pair.ask(pair.second, 2)
    assert pages == 0
    pair.expect(2, answer)


def test_a_local_prefix_goes_on_with_a_remote_one(pair: Pair) -> None:
    pair.store(11)
    pair.store(12)
    _, pages = pair.ask(pair.second, 11)
    assert pages == pair.pages(11)
    answer, pages = pair.ask(pair.second, 12)
    # Their common part is local now; of the rest every whole page is loaded.
    common = 1000 // BLOCK_TOKENS
    assert pages == pair.pages(12) - common
    pair.expect(12, answer)


def test_it_works_in_both_directions(pair: Pair) -> None:
    pair.expect(3, pair.store(3, on=pair.second))
    answer, pages = pair.ask(pair.first, 3)
    assert pages == pair.pages(3)
    pair.expect(3, answer)


def test_salts_do_not_share(pair: Pair) -> None:
    pair.store(5, salt="tenant one")
    assert pair.ask(pair.second, 5, salt="tenant two")[1] == 0
    assert pair.ask(pair.second, 5)[1] == 0
    answer, pages = pair.ask(pair.second, 5, salt="tenant one")
    assert pages == pair.pages(5)
    pair.expect(5, answer)


def test_many_at_once_while_blocks_change_hands(pair: Pair) -> None:
    """Twelve long prompts in a server with room for six: loaded, computed and saved beside each other."""
    numbers = [20, 21, 22, 30, 31, 32, 33, 40, 41, 42, 50, 51]
    for number in numbers[::2]:
        pair.store(number)
    before = pair.second.external_hits()
    with ThreadPoolExecutor(len(numbers)) as threads:
        answers = list(threads.map(lambda n: pair.complete(pair.second, n), numbers))
    for number, answer in zip(numbers, answers, strict=True):
        pair.expect(number, answer)
    assert pair.second.external_hits() > before
    # And what the crowded server stored in the meantime is right as well.
    pair.first.reset()
    for number in numbers[1::2]:
        pair.expect(number, pair.ask(pair.first, number)[0])


def test_garbage_in_the_directory_is_a_miss(pair: Pair) -> None:
    pair.store(6)
    client = pair.directory.client()
    records = list(client.scan_iter("tent:*:p:*", count=1000))
    assert len(records) >= pair.pages(6)
    for i, key in enumerate(records):
        kept = client.get(key) or b""
        client.set(key, [b"", b"\xff" * len(kept), kept[: len(kept) // 2], kept[::-1]][i % 4])
    answer, pages = pair.ask(pair.second, 6)
    assert pages == 0
    pair.expect(6, answer)


def test_a_directory_that_hangs_and_goes_on(pair: Pair) -> None:
    pair.store(7)
    pair.store(17)
    with pair.directory.silent():
        answer, pages = pair.ask(pair.second, 7)
        assert pages == 0
        pair.expect(7, answer)
        pair.expect(8, pair.ask(pair.first, 8)[0])
    pair.wait_directory(known=7)
    pair.expect_loaded(17)


@pytest.mark.leaves("the Redis that it starts anew is there for all the tests after it")
def test_a_directory_that_dies_and_comes_back_empty(pair: Pair) -> None:
    pair.store(44)
    pair.first.reset(external=True)
    numbers = [4, 14, 24]
    for number in numbers:
        pair.store(number)
    pair.directory.kill()
    answer, pages = pair.ask(pair.second, 4)
    assert pages == 0
    pair.expect(4, answer)
    # In the same outage the first server goes on serving and storing.
    pair.expect(34, pair.store(34))
    pair.directory.start()
    # It publishes again what it has.
    pair.wait_published(sum(pair.pages(number) for number in [*numbers, 34]))
    pair.wait_directory(known=4)
    for number in (14, 24, 34):
        pair.expect_loaded(number)
    # What was cleared stays so.
    assert pair.ask(pair.second, 44)[1] == 0
