"""Both servers have started and Redis has not. Runs first: it starts the directory for all the others."""

from __future__ import annotations

from typing import Any

from support.peers import until

Pair = Any  # conftest.py's, which is no module to import from

STORED_WITHOUT = range(62, 70)


def test_servers_serve_before_their_directory_is_there_and_find_it_by_themselves(strangers: Pair) -> None:
    assert not strangers.directory.running
    for number in STORED_WITHOUT:
        answer, pages = strangers.ask(strangers.first, number)
        assert pages == 0
        strangers.expect(number, answer)
    missed, pages = strangers.ask(strangers.second, 62)
    assert pages == 0
    strangers.expect(62, missed)
    # What was stored in the meantime is published, and found.
    strangers.directory.start()
    wanted = strangers.pages(69)
    until(lambda: len(strangers.directory.record_keys()) > wanted, "records in the directory")
    strangers.found_again(STORED_WITHOUT[1:])
