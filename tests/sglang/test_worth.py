"""Load or compute, and the measure of computing."""

from __future__ import annotations

import types

from tent_sglang import prefill
from tent_sglang.prefill import Prefill
from tent_sglang.worth import Worth

PAGE = 16


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_everything_is_loaded_while_nothing_is_known_or_it_is_wanted_so():
    assert Worth(lambda: None, False).pages(100, PAGE, 1e9) == 100
    assert Worth(lambda: 1000.0, True).pages(100, PAGE, 1e9) == 100
    assert Worth(lambda: None, False).patience(4096) is None


def test_what_would_arrive_too_late_is_computed_but_tried_now_and_then():
    clock = Clock()
    worth = Worth(lambda: 1600.0, False, clock)  # a hundred pages a second
    assert worth.pages(100, PAGE, 0.9) == 100
    clock.now += 10
    assert worth.pages(100, PAGE, 1.1) == 16, "a first trial, of 256 tokens"
    assert worth.pages(100, PAGE, 1.1) == 0
    clock.now += 5
    assert worth.pages(100, PAGE, 1.1) == 16
    assert worth.pages(0, PAGE, 0.0) == 0


def test_loads_agreed_to_stand_in_each_others_way():
    clock = Clock()
    worth = Worth(lambda: 1600.0, False, clock)
    assert worth.pages(100, PAGE, 0.6) == 100
    assert worth.pages(100, PAGE, 0.6) < 100, "it would have to wait for the first"
    clock.now += 0.6
    assert worth.pages(100, PAGE, 0.6) == 100


def test_patience_grows_with_what_is_at_stake():
    worth = Worth(lambda: 1000.0, False)
    assert worth.patience(10) == 0.25
    assert worth.patience(4000) == 6.0


def test_prefill_counts_the_time_of_prompts_and_not_of_waiting():
    clock = Clock()
    meter = Prefill(clock)
    assert meter.rate is None
    meter.finished()  # nothing was started: a result of a batch before the hooks
    meter.started(1000)
    meter.started(0)  # a decode step, launched while the first is computed
    clock.now += 2
    meter.finished()
    assert meter.rate == 500
    clock.now += 1
    meter.finished()
    meter.started(10)  # too small to say anything
    clock.now += 1
    meter.finished()
    assert meter.rate == 500


def test_the_hooks_pass_everything_on_and_survive_a_strange_batch(monkeypatch):
    meter = Prefill()
    monkeypatch.setattr(prefill, "PREFILL", meter)
    strange = types.SimpleNamespace()
    result = prefill.around_run_batch(lambda self, batch, more: ("ran", self, batch, more), "s", strange, 5)
    assert result == ("ran", "s", strange, 5)
    assert prefill.around_process_result(lambda *args: args, "s", strange, "r") == ("s", strange, "r")
    assert meter.rate is None
