"""Nothing gets past the guard, everything is counted, and the log is not flooded."""

from __future__ import annotations

import logging

from tent_sglang.guard import Guard


def failing():
    raise RuntimeError("the world is on fire")


def test_a_fault_becomes_the_given_answer_and_a_count():
    guard = Guard()
    assert guard.run("get", lambda: [True], lambda: [False]) == [True]
    assert guard.run("get", failing, lambda: [False, False]) == [False, False]
    assert guard.counts() == {"get.faults": 1}


def test_one_line_an_interval_and_kind_and_the_next_says_how_many_were_held_back(caplog):
    now = [100.0]
    guard = Guard(interval=10, clock=lambda: now[0])
    with caplog.at_level(logging.WARNING, logger="tent.sglang"):
        for _ in range(4):
            guard.run("get", failing, lambda: None)
        guard.warn("other", "another kind")
        assert [record.getMessage() for record in caplog.records] == [
            "get failed, taken as a miss: the world is on fire",
            "another kind",
        ]
        now[0] += 10
        guard.run("get", failing, lambda: None)
    assert "3 more like it" in caplog.records[-1].getMessage()
    assert guard.counts()["get.faults"] == 5


def test_a_trace_is_shown_to_whoever_asked_for_details(caplog):
    with caplog.at_level(logging.DEBUG, logger="tent.sglang"):
        Guard().run("set", failing, lambda: None)
    assert caplog.records[-1].exc_info
