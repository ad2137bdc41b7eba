"""Both servers have started and Redis has not. Runs first: it starts the directory for all the others."""

from __future__ import annotations

from typing import Any

import pytest

Pair = Any  # conftest.py's, which is no module to import from

STORED_WITHOUT = [9, 19, 62]


@pytest.mark.leaves("the Redis that it starts is there for all the tests after it")
def test_servers_serve_before_their_directory_is_there_and_find_it_by_themselves(strangers: Pair) -> None:
    assert not strangers.directory.running
    for number in STORED_WITHOUT:
        strangers.expect(number, strangers.store(number))
    missed, pages = strangers.ask(strangers.second, 62)
    assert pages == 0
    strangers.expect(62, missed)
    # What was stored in the meantime is published, and found.
    strangers.directory.start()
    strangers.wait_published(sum(strangers.pages(number) for number in STORED_WITHOUT))
    strangers.wait_directory(known=62)
    strangers.expect_loaded(9)
    strangers.expect_loaded(19)
