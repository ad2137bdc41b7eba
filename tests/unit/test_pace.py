"""Nodes that fill a directory again share it with each other and with serving, though none of them sees the others."""

from __future__ import annotations

import pytest

from tent_core.cli.bench_command import load
from tent_core.store.pace import LEAST_S, Pace

refill = load("refill")


def test_one_node_goes_as_fast_as_an_idle_server_lets_it() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0], lambda: 0.5)
    assert pace.due
    pace.took(0.001)
    assert pace.next == pytest.approx(LEAST_S) and not pace.due
    now[0] = pace.next
    pace.took(0.004)
    assert pace.next - now[0] == pytest.approx(0.016)


def test_a_slow_answer_is_followed_by_more_rest_and_no_answer_by_twice_as_much_each_time() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0], lambda: 0.5)
    pace.took(0.04)
    assert pace.next > 1.0
    rests = []
    for _ in range(12):
        now[0] = pace.next
        pace.failed()
        rests.append(pace.next - now[0])
    assert rests[:4] == pytest.approx([rests[0] * 2**turn for turn in range(4)])
    assert max(rests) < 20
    now[0] = pace.next
    pace.took(0.001)
    assert 1 < pace.next - now[0] <= 16  # not back to full speed at once


def test_hundreds_of_nodes_at_once_all_get_through_and_look_ups_go_on() -> None:
    cost = {"publish_s": 1e-5, "lookup_s": 1e-6}  # a hundred thousand pages a second
    ours = refill.refill(400, 5_000, limit_s=200, **cost)
    assert ours.seconds is not None and ours.known == 400 * 5_000
    assert ours.sent_again < ours.known / 4
    assert ours.answered > 0.8
    plain = refill.refill(400, 5_000, limit_s=60, pacing=refill.EveryFewMs, **cost)
    assert plain.seconds is None and plain.sent_again > plain.known and plain.answered < 0.1
