"""The worker's side over a store that does what the test says: what vLLM is told, and which saves survive."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.tensors import Tensor
from tent_core.store.reason import PageStatus
from tent_vllm.guard import Guard
from tent_vllm.layout import page_layout
from tent_vllm.plan import Fetch, GroupPages, Pages, StepPlan
from tent_vllm.settings import Settings
from tent_vllm.store_pages import StorePages
from tent_vllm.worker import WorkerSide

BLOCKS = 8


class Transfer:
    def __init__(self, count: int) -> None:
        self.status = np.full(count, PageStatus.PENDING, dtype=np.uint8)
        self.cancelled = False
        self.released = False

    @property
    def done(self) -> bool:
        return bool((self.status != PageStatus.PENDING).all())

    def end(self, *status: PageStatus) -> Transfer:
        self.status[:] = status
        return self

    def wait(self, timeout: float | None = None) -> bool:
        return self.done

    def cancel(self) -> bool:
        self.cancelled = True
        self.status[self.status == PageStatus.PENDING] = PageStatus.CANCELLED
        return True

    def wait_released(self, timeout: float | None = None) -> bool:
        self.released = self.done
        return self.done


class Store:
    def __init__(self) -> None:
        self.gets: list[Any] = []
        self.puts: list[Any] = []
        self.answer: list[PageStatus] = []
        self.known = 0

    def namespace(self, fields: dict[str, str], *, model: str = "") -> Any:
        return SimpleNamespace(digest=repr(sorted(fields.items())).encode())

    def saw_generation(self, ns: Any, generation: int) -> None:
        self.known = max(self.known, generation)

    def register(self, region: tuple[int, int]) -> Any:
        return SimpleNamespace(close=lambda: None)

    def submit_get(
        self, ns: Any, keys: list[bytes], addresses: Any, lengths: Any, **options: Any
    ) -> Transfer:
        transfer = Transfer(len(keys))
        self.gets.append((keys, addresses, transfer))
        if self.answer:
            transfer.end(*self.answer)
        return transfer

    def submit_put(
        self, ns: Any, keys: list[bytes], addresses: Any, lengths: Any, *, token: Any, timeout: float
    ) -> Transfer:
        transfer = Transfer(len(keys))
        self.puts.append((keys, addresses, token, transfer))
        return transfer


def pages(keys: list[bytes], blocks: list[int]) -> Pages:
    return Pages(keys, np.array(blocks, dtype=np.int64))


class Bench:
    def __init__(self, **settings: int) -> None:
        self.cache = np.zeros((BLOCKS, 4, 16), dtype=np.float32)
        self.store = Store()
        self.handle: Any = SimpleNamespace(store=self.store, guard=Guard(), weights="")
        self.layout = page_layout({"layer.0": Tensor(self.cache)})
        named = [GroupPages({"model": "m"}, self.layout.page_bytes)]
        self.pages = StorePages(self.handle, [self.layout], named)
        self.side = WorkerSide(self.pages, self.handle.guard, Settings(**settings))
        self.step = 0

    def plan(
        self,
        *,
        load: tuple[list[bytes], list[int]] = ([], []),
        save: tuple[list[bytes], list[int]] = ([], []),
        reused: tuple[int, ...] = (),
        **fields: Any,
    ) -> StepPlan:
        self.step += 1
        return StepPlan(
            step=self.step,
            load=pages(*load),
            save=pages(*save),
            reused=np.array(reused, dtype=np.int64),
            **fields,
        )

    def run(self, plan: StepPlan) -> set[int]:
        """A step as vLLM's worker makes it; the blocks that failed."""
        self.side.prepare(plan)
        if len(plan.load):
            self.side.load(plan)
        self.side.save(plan)
        return self.side.take_failed()

    def counts(self) -> dict[str, int]:
        return self.handle.guard.counts()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_loads_go_to_their_blocks(bench: Bench) -> None:
    bench.store.answer = [PageStatus.HIT, PageStatus.HIT]
    plan = bench.plan(load=([b"a", b"b"], [5, 2]), report=True)
    assert bench.run(plan) == set()
    keys, addresses, _ = bench.store.gets[0]
    assert keys == [b"a", b"b"]
    assert addresses[:, 0].tolist() == [bench.cache[5].ctypes.data, bench.cache[2].ctypes.data]
    told = bench.side.take_told()
    assert told is not None and told.report is not None
    report = told.report
    assert (report.step, report.failed) == (plan.step, False)
    assert bench.side.take_told() is None


def test_pages_that_do_not_come_are_reported_once(bench: Bench) -> None:
    bench.store.answer = [PageStatus.HIT, PageStatus.CHECK_FAILED]
    assert bench.run(bench.plan(load=([b"a", b"b"], [5, 2]))) == {2}
    assert bench.side.take_failed() == set()
    assert bench.counts()["load.check_failed"] == 1


def test_a_load_that_takes_too_long_is_fenced_before_its_blocks_are_given_back(bench: Bench) -> None:
    assert bench.run(bench.plan(load=([b"a"], [5]))) == {5}
    _, _, transfer = bench.store.gets[0]
    assert transfer.cancelled and transfer.released


def test_a_clear_that_the_scheduler_saw_counts_for_what_is_stored_after_it(bench: Bench) -> None:
    digest = bench.store.namespace({"model": "m"}).digest
    bench.run(bench.plan(save=([b"a"], [1]), generations={digest: 3, b"another": 9}))
    assert bench.store.known == 3
    bench.run(bench.plan(save=([b"b"], [2])))
    assert len(bench.store.puts) == 2


@pytest.mark.protects("guard")
def test_invariant_7_a_store_that_raises_is_a_miss(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.store, "submit_get", lambda *a, **k: 1 / 0)
    monkeypatch.setattr(bench.store, "submit_put", lambda *a, **k: 1 / 0)
    plan = bench.plan(load=([b"a"], [5]), save=([b"b"], [6]), epoch=1)
    assert bench.run(plan) == {5}
    bench.run(bench.plan(save=([b"b"], [6]), epoch=2))
    assert bench.counts()["load.faults"] == 1
    assert bench.counts()["save.faults"] == 1


def test_without_a_store_every_load_fails_and_saves_are_counted(bench: Bench) -> None:
    bench.handle.store = None
    assert bench.run(bench.plan(load=([b"a"], [5]))) == {5}
    bench.run(bench.plan(save=([b"b"], [6]), epoch=1))
    assert bench.counts()["save.not_ready"] == 1


def test_nothing_computed_on_a_failed_load_is_saved(bench: Bench) -> None:
    bench.store.answer = [PageStatus.ABSENT]
    bench.run(bench.plan(load=([b"a"], [5]), save=([b"b"], [6]), epoch=3))
    # Planned before the scheduler knew: still of the spoiled epoch.
    bench.run(bench.plan(save=([b"c"], [7]), epoch=3))
    assert bench.store.puts == []
    assert bench.counts()["save.dropped_after_failed_load"] == 2
    bench.run(bench.plan(save=([b"d"], [6]), epoch=4))
    assert [put[0] for put in bench.store.puts] == [[b"d"]]


def test_what_a_broken_forward_pass_left_is_not_saved(bench: Bench) -> None:
    """vLLM calls wait_for_save in the finally clause of the step."""
    plan = bench.plan(save=([b"a"], [3]))
    with pytest.raises(ZeroDivisionError):
        try:
            bench.side.prepare(plan)
            raise ZeroDivisionError
        finally:
            bench.side.save(plan)
    assert bench.store.puts == []
    assert bench.counts()["save.dropped_forward_failed"] == 1


def test_a_block_that_gets_another_owner_is_not_saved() -> None:
    bench = Bench(save_wait_ms=1)
    bench.run(bench.plan(save=([b"a", b"b"], [3, 4])))
    bench.run(bench.plan(save=([b"c"], [5])))
    _, _, token, shared = bench.store.puts[0]
    other = bench.store.puts[1][3]
    before = [counter(address) for address in token]
    bench.side.prepare(bench.plan(reused=(4, 6)))
    assert shared.cancelled and not other.cancelled
    assert [counter(address) for address in token] == [before[0], before[1] + 1]


def test_a_save_that_ends_in_time_is_kept(bench: Bench) -> None:
    bench.run(bench.plan(save=([b"a"], [3])))
    transfer = bench.store.puts[0][3].end(PageStatus.STORED)
    bench.side.prepare(bench.plan(reused=(3,)))
    assert not transfer.cancelled
    assert bench.counts()["save.stored"] == 1


def test_more_saves_than_the_queue_takes_are_dropped() -> None:
    bench = Bench(save_queue_steps=2)
    for block in range(3):
        bench.run(bench.plan(save=([b"k%d" % block], [block])))
    assert len(bench.store.puts) == 2
    assert bench.counts()["save.dropped_queue_full"] == 1


def test_a_fetch_is_reported_once_and_not_before_it_has_ended(bench: Bench) -> None:
    bench.run(bench.plan(fetches=[Fetch("r", pages([b"a", b"b"], [5, 2]))]))
    assert bench.side.take_fetched(set()) == (set(), set())
    bench.store.gets[0][2].end(PageStatus.HIT, PageStatus.HIT)
    assert bench.side.take_fetched(set()) == ({"r"}, set())
    assert bench.side.take_fetched(set()) == (set(), set())


def test_a_fetch_that_loses_a_page_fails_and_names_it(bench: Bench) -> None:
    bench.store.answer = [PageStatus.HIT, PageStatus.ABSENT]
    bench.run(bench.plan(fetches=[Fetch("r", pages([b"a", b"b"], [5, 2]))]))
    assert bench.side.take_fetched(set()) == ({"r"}, {"r"})
    told = bench.side.take_told()
    assert told is not None and told.lost == [(0, b"b")]


def test_a_fetch_of_a_request_that_is_over_is_cancelled_and_reported(bench: Bench) -> None:
    bench.run(bench.plan(fetches=[Fetch("r", pages([b"a"], [5]))]))
    assert bench.side.take_fetched({"r", "another"}) == ({"r"}, {"r"})
    assert bench.store.gets[0][2].cancelled


def test_a_fetch_that_cannot_start_is_reported_too(bench: Bench) -> None:
    bench.handle.store = None
    bench.run(bench.plan(fetches=[Fetch("r", pages([b"a"], [5]))]))
    assert bench.side.take_fetched(set()) == ({"r"}, {"r"})


def test_closing_ends_saves_within_its_time() -> None:
    bench = Bench(shutdown_ms=1)
    bench.run(bench.plan(save=([b"a"], [3])))
    bench.side.close()
    assert bench.store.puts[0][3].cancelled


def counter(address: np.uint64) -> int:
    return ctypes.c_uint64.from_address(int(address)).value
