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
        target=lambda: answers.append(mover.move("get", None, [b"a", b"b"], addresses, np.uint64(8)))
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
        held=lambda *args, **kwargs: np.full(2, PageStatus.ABSENT, np.uint8),
        submit_put=lambda *args, **kwargs: workers.submit(2, lambda control: strange),
    )
    guard = Guard()
    try:
        mover = Mover(store, Settings(), guard)
        assert mover.move("set", None, [b"a", b"b"], np.zeros((2, 1), np.uint64), np.uint64(8)) == [
            True,
            False,
        ]
        assert guard.counts()["set.miss.reason 200"] == 1
    finally:
        workers.close()


def test_what_somebody_has_already_is_not_copied():
    workers, asked = Workers(1, "test"), []

    def submit_put(namespace, names, addresses, lengths, timeout):
        asked.append((list(names), addresses.tolist()))
        return workers.submit(len(names), lambda control: np.full(len(names), PageStatus.STORED, np.uint8))

    held = np.array([PageStatus.PRESENT, PageStatus.ABSENT, PageStatus.PRESENT], np.uint8)
    store = types.SimpleNamespace(held=lambda *args, **kwargs: held, submit_put=submit_put)
    guard = Guard()
    mover = Mover(store, Settings(), guard)
    try:
        names, addresses = [b"a", b"b", b"c"], np.arange(3, dtype=np.uint64)[:, None]
        assert mover.move("set", None, names, addresses, np.uint64(8)) == [True] * 3
        assert asked == [([b"b"], [[1]])]
        assert guard.counts()["set.pages_present"] == 2 and guard.counts()["set.bytes"] == 8
        held[:] = PageStatus.PRESENT
        assert mover.move("set", None, names, addresses, np.uint64(8)) == [True] * 3
        assert len(asked) == 1
    finally:
        workers.close()


def test_a_page_in_pieces_is_as_good_as_its_worst_piece():
    workers = Workers(1, "test")
    statuses = np.array([0, 0, 0, PageStatus.CHECK_FAILED, 0, 0], np.uint8)
    store = types.SimpleNamespace(submit_get=lambda *a, **k: workers.submit(6, lambda control: statuses))
    guard = Guard()
    try:
        mover = Mover(store, Settings(), guard)
        names = [b"%d" % n for n in range(6)]
        done = mover.move("get", None, names, np.zeros((6, 2), np.uint64), np.array([8, 8]), pieces=2)
        assert done == [True, False, True]
        assert guard.counts()["get.bytes"] == 2 * 2 * 16
    finally:
        workers.close()
