"""A transfer under way when SGLang wants its thread back."""

from __future__ import annotations

import threading
import types

import numpy as np

from tent_core.store import PageStatus
from tent_core.store.transfer import Control, Workers
from tent_sglang.guard import Guard
from tent_sglang.mover import Mover
from tent_sglang.settings import Settings


def test_it_is_cut_short_and_what_came_before_counts():
    """One page is in place and the other hangs until somebody cancels, as over a link that went silent."""
    started, stop, workers = threading.Event(), threading.Event(), Workers(1, "test")

    def hang(control: Control) -> np.ndarray:
        cancelled = threading.Event()
        control.add(types.SimpleNamespace(cancel=cancelled.set, released=True))
        started.set()
        assert cancelled.wait(60), "nobody cancelled"
        return np.array([PageStatus.HIT, PageStatus.CANCELLED], np.uint8)

    store = types.SimpleNamespace(submit_get=lambda *args, **kwargs: workers.submit(2, hang))
    guard = Guard()
    mover = Mover(store, Settings(), guard)
    mover.follow(stop)
    answers: list[list[bool]] = []
    addresses = np.zeros((2, 1), np.uint64)
    reader = threading.Thread(
        target=lambda: answers.append(mover.move("get", None, ["a", "b"], addresses, np.uint64(8)))
    )
    try:
        reader.start()
        assert started.wait(60)
        stop.set()
        reader.join(60)
        assert answers == [[True, False]]
        assert guard.counts()["get.miss.CANCELLED"] == 1
    finally:
        stop.set()
        workers.close()


def test_an_unknown_reason_of_a_newer_store_is_a_miss_with_its_number():
    workers = Workers(1, "test")
    strange = np.array([PageStatus.STORED, 200], np.uint8)
    store = types.SimpleNamespace(
        submit_put=lambda *args, **kwargs: workers.submit(2, lambda control: strange)
    )
    guard = Guard()
    try:
        mover = Mover(store, Settings(), guard)
        assert mover.move("set", None, ["a", "b"], np.zeros((2, 1), np.uint64), np.uint64(8)) == [True, False]
        assert guard.counts()["set.miss.reason 200"] == 1
    finally:
        workers.close()
