"""A fault that repeats is one line of the log, with how often it did."""

from __future__ import annotations

import logging

import pytest

from tent_core.store.rarely import Rarely


def test_a_message_of_a_kind_comes_once_and_says_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    rarely = Rarely(logging.getLogger("tent.test"), 10.0)
    for number in range(5):
        rarely.warning("bad", "%d bad pages of %r", number, "a")
    rarely.warning("other", "something else")
    now[0] += 10.5
    rarely.warning("bad", "%d bad pages of %r", 7, "a")
    assert [record.getMessage() for record in caplog.records] == [
        "0 bad pages of 'a'",
        "something else",
        "7 bad pages of 'a' (4 more of this kind since the last one)",
    ]
