"""Two SGLang servers share KV cache through TENT, and answer as they would without it.

Hits are SGLang's own word for them: `cached_tokens_details.storage` of each answer.
"""

from __future__ import annotations

import http.client
from contextlib import suppress

import pytest
from pytest import approx

from support.peers import until
from tent_core.cli.sglang_server import PAGE_TOKENS

# The first test's time includes the start of both servers.
pytestmark = pytest.mark.timeout(600)
attaches = pytest.mark.leaves("the node of the server's new attachment lives until the end of the run")


def test_a_server_gets_its_own_pages_back_after_its_caches_are_flushed(pair):
    pair.expect(0, pair.store(pair.second, 0))
    pair.second.flush()
    again = pair.second.generate(pair.prompt(0))
    assert again.storage_tokens == pair.pages(0)
    pair.expect(0, again)


def test_the_second_server_continues_from_the_first_ones_pages(pair):
    computed = pair.store(pair.first, 1)
    assert computed.storage_tokens == 0
    loaded = pair.second.generate(pair.prompt(1))
    assert loaded.storage_tokens == pair.pages(1)
    pair.expect(1, computed)
    pair.expect(1, loaded)


def test_and_the_other_way_round(pair):
    pair.store(pair.second, 2)
    loaded = pair.first.generate(pair.prompt(2))
    assert loaded.storage_tokens == pair.pages(2)
    pair.expect(2, loaded)


def test_a_shared_beginning_is_a_hit_and_the_rest_is_computed(pair):
    pair.store(pair.first, 3)
    shared = 50 * PAGE_TOKENS
    branch = pair.prompt(3)[:shared] + pair.prompt(4)[: 20 * PAGE_TOKENS + 3]
    loaded = pair.second.generate(branch)
    assert loaded.storage_tokens == shared
    pair.second.flush()
    pair.first.clear_storage()
    computed = pair.second.generate(branch)
    assert computed.storage_tokens == 0
    assert loaded.tokens == computed.tokens
    assert loaded.logprobs == approx(computed.logprobs, abs=1e-4)


def test_after_clear_nothing_is_found_and_the_answer_is_the_same(pair):
    pair.store(pair.first, 5)
    pair.second.clear_storage()
    missed = pair.second.generate(pair.prompt(5))
    assert missed.storage_tokens == 0
    pair.expect(5, missed)


def test_pages_stored_after_a_clear_are_found_again(pair):
    pair.store(pair.first, 6)
    pair.first.clear_storage()
    pair.first.flush()
    pair.store(pair.first, 6)
    loaded = pair.second.generate(pair.prompt(6))
    assert loaded.storage_tokens == pair.pages(6)
    pair.expect(6, loaded)


@attaches
def test_detached_and_attached_again_over_the_same_host_memory(pair):
    pair.store(pair.second, 7)
    try:
        status, text = pair.first.detach()
        assert status == 200, text
        assert pair.first.generate(pair.prompt(7)).storage_tokens == 0
        pair.first.flush()
    finally:
        status, text = pair.first.attach("tent", pair.config)
    assert status == 200, text
    loaded = pair.first.generate(pair.prompt(7))
    assert loaded.storage_tokens == pair.pages(7)
    pair.expect(7, loaded)


@attaches
def test_the_dynamic_backend_reads_the_same_pool(pair):
    pair.store(pair.second, 8)
    dynamic = {
        **pair.config,
        "backend_name": "tent",
        "module_path": "tent_sglang.backend",
        "class_name": "TentHiCacheStorage",
        "interface_v1": 1,
    }
    pair.first.detach()
    try:
        status, text = pair.first.attach("dynamic", dynamic)
        assert status == 200, text
        loaded = pair.first.generate(pair.prompt(8))
        assert loaded.storage_tokens == pair.pages(8)
        pair.expect(8, loaded)
        pair.first.flush()
    finally:
        pair.first.detach()
        assert pair.first.attach("tent", pair.config)[0] == 200


@attaches
def test_a_mistake_in_the_configuration_is_answered_with_the_fix(pair):
    pair.first.detach()
    try:
        status, text = pair.first.attach("tent", {"store": {"capactiy": "1GiB"}})
        assert status == 400
        assert "capactiy" in text and "store.capacity" in text
        pair.expect(9, pair.first.generate(pair.prompt(9)))
    finally:
        status, text = pair.first.attach("tent", pair.config)
        assert status == 200, text


@attaches
def test_an_unreachable_directory_means_misses_and_serving_goes_on(pair):
    pair.store(pair.second, 10)
    pair.first.detach()
    try:
        unreachable = {**pair.config, "directory": {"url": "redis://127.0.0.1:1/0"}}
        status, text = pair.first.attach("tent", unreachable)
        assert status == 200, text
        missed = pair.first.generate(pair.prompt(10))
        assert missed.storage_tokens == 0, "another server's pages cannot be known of"
        pair.expect(10, missed)
        # What the server itself has stored since it may find; the answer is the same in any case.
        pair.first.flush()
        pair.expect(10, pair.first.generate(pair.prompt(10)))
    finally:
        pair.first.detach()
        assert pair.first.attach("tent", pair.config)[0] == 200
    pair.first.flush()
    loaded = pair.first.generate(pair.prompt(10))
    assert loaded.storage_tokens == pair.pages(10)
    pair.expect(10, loaded)


def test_a_directory_that_hangs_means_misses_until_it_goes_on(pair):
    for number in range(6):
        pair.store(pair.first, number)
    with pair.directory.silent():
        missed = pair.second.generate(pair.prompt(0))
        assert missed.storage_tokens == 0
        pair.expect(0, missed)
    pair.found_again(range(1, 6))


@pytest.mark.leaves("the Redis that it starts anew is there for all the tests after it")
def test_a_directory_that_dies_and_comes_back_empty(pair):
    for number in range(6):
        pair.store(pair.first, number)
    pair.directory.kill()
    missed = pair.second.generate(pair.prompt(0))
    assert missed.storage_tokens == 0
    pair.expect(0, missed)
    pair.directory.start()
    # Its owner publishes again what it has.
    wanted = sum(pair.pages(number) for number in range(6)) // PAGE_TOKENS
    until(lambda: len(pair.directory.record_keys()) >= wanted, "records of all that the first server has")
    pair.found_again(range(1, 6))


def test_clients_that_leave_during_a_prefetch_cost_nobody_anything(pair):
    """The second server's backend is slowed down: they are gone before their pages have come."""
    for number in range(3):
        pair.store(pair.first, number)
    for number in (0, 1, 2, 0, 1, 2):
        stream = pair.second.stream(
            "/generate", {"input_ids": pair.prompt(number), "stream": True}, timeout=0.02
        )
        with suppress(OSError, http.client.HTTPException):
            next(stream)
        stream.close()
    answer = pair.second.generate(pair.prompt(0))
    pair.expect(0, answer)
    pair.second.flush()
    again = pair.second.generate(pair.prompt(1))
    assert again.storage_tokens == pair.pages(1)
    pair.expect(1, again)
