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
from tent_vllm.plan import StepPlan
from tent_vllm.settings import Settings
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
        self.released = True
        return True


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


class Bench:
    def __init__(self, **settings: int) -> None:
        self.cache = np.zeros((BLOCKS, 4, 16), dtype=np.float32)
        self.store = Store()
        self.handle: Any = SimpleNamespace(store=self.store, guard=Guard())
        self.layout = page_layout({"layer.0": Tensor(self.cache)})
        self.side = WorkerSide(self.handle, self.layout, {"model": "m"}, Settings(**settings))
        self.step = 0

    def plan(self, **fields: Any) -> StepPlan:
        self.step += 1
        arrays = {
            k: np.array(v, dtype=np.int64) for k, v in fields.items() if k.endswith("blocks") or k == "reused"
        }
        return StepPlan(step=self.step, **{**fields, **arrays})

    def run(self, plan: StepPlan) -> set[int]:
        """A step as vLLM's worker makes it; the blocks that failed."""
        self.side.prepare(plan)
        if len(plan.load_blocks):
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
    plan = bench.plan(load_keys=[b"a", b"b"], load_blocks=[5, 2], report=True)
    assert bench.run(plan) == set()
    keys, addresses, _ = bench.store.gets[0]
    assert keys == [b"a", b"b"]
    assert addresses[:, 0].tolist() == [bench.cache[5].ctypes.data, bench.cache[2].ctypes.data]
    report = bench.side.take_report()
    assert report is not None and (report.step, report.failed) == (plan.step, False)
    assert bench.side.take_report() is None


def test_pages_that_do_not_come_are_reported_once(bench: Bench) -> None:
    bench.store.answer = [PageStatus.HIT, PageStatus.CHECK_FAILED]
    assert bench.run(bench.plan(load_keys=[b"a", b"b"], load_blocks=[5, 2])) == {2}
    assert bench.side.take_failed() == set()
    assert bench.counts()["load.check_failed"] == 1


def test_a_load_that_takes_too_long_is_fenced_before_its_blocks_are_given_back(bench: Bench) -> None:
    assert bench.run(bench.plan(load_keys=[b"a"], load_blocks=[5])) == {5}
    _, _, transfer = bench.store.gets[0]
    assert transfer.cancelled and transfer.released


def test_a_clear_that_the_scheduler_saw_counts_for_what_is_stored_after_it(bench: Bench) -> None:
    digest = bench.store.namespace({"model": "m"}).digest
    bench.run(bench.plan(save_keys=[b"a"], save_blocks=[1], generations={digest: 3, b"another": 9}))
    assert bench.store.known == 3
    bench.run(bench.plan(save_keys=[b"b"], save_blocks=[2]))
    assert len(bench.store.puts) == 2


@pytest.mark.protects("guard")
def test_invariant_7_a_store_that_raises_is_a_miss(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.store, "submit_get", lambda *a, **k: 1 / 0)
    monkeypatch.setattr(bench.store, "submit_put", lambda *a, **k: 1 / 0)
    plan = bench.plan(load_keys=[b"a"], load_blocks=[5], save_keys=[b"b"], save_blocks=[6], epoch=1)
    assert bench.run(plan) == {5}
    bench.run(bench.plan(save_keys=[b"b"], save_blocks=[6], epoch=2))
    assert bench.counts()["load.faults"] == 1
    assert bench.counts()["save.faults"] == 1


def test_without_a_store_every_load_fails_and_saves_are_counted(bench: Bench) -> None:
    bench.handle.store = None
    assert bench.run(bench.plan(load_keys=[b"a"], load_blocks=[5])) == {5}
    bench.run(bench.plan(save_keys=[b"b"], save_blocks=[6], epoch=1))
    assert bench.counts()["save.not_ready"] == 1


def test_nothing_computed_on_a_failed_load_is_saved(bench: Bench) -> None:
    bench.store.answer = [PageStatus.ABSENT]
    bench.run(bench.plan(load_keys=[b"a"], load_blocks=[5], save_keys=[b"b"], save_blocks=[6], epoch=3))
    # Planned before the scheduler knew: still of the spoiled epoch.
    bench.run(bench.plan(save_keys=[b"c"], save_blocks=[7], epoch=3))
    assert bench.store.puts == []
    assert bench.counts()["save.dropped_after_failed_load"] == 2
    bench.run(bench.plan(save_keys=[b"d"], save_blocks=[6], epoch=4))
    assert [put[0] for put in bench.store.puts] == [[b"d"]]


def test_what_a_broken_forward_pass_left_is_not_saved(bench: Bench) -> None:
    """vLLM calls wait_for_save in the finally clause of the step."""
    plan = bench.plan(save_keys=[b"a"], save_blocks=[3])
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
    bench.run(bench.plan(save_keys=[b"a", b"b"], save_blocks=[3, 4]))
    bench.run(bench.plan(save_keys=[b"c"], save_blocks=[5]))
    _, _, token, shared = bench.store.puts[0]
    other = bench.store.puts[1][3]
    before = [counter(address) for address in token]
    bench.side.prepare(bench.plan(reused=[4, 6]))
    assert shared.cancelled and not other.cancelled
    assert [counter(address) for address in token] == [before[0], before[1] + 1]


def test_a_save_that_ends_in_time_is_kept(bench: Bench) -> None:
    bench.run(bench.plan(save_keys=[b"a"], save_blocks=[3]))
    transfer = bench.store.puts[0][3].end(PageStatus.STORED)
    bench.side.prepare(bench.plan(reused=[3]))
    assert not transfer.cancelled
    assert bench.counts()["save.stored"] == 1


def test_more_saves_than_the_queue_takes_are_dropped() -> None:
    bench = Bench(save_queue_steps=2)
    for block in range(3):
        bench.run(bench.plan(save_keys=[b"k%d" % block], save_blocks=[block]))
    assert len(bench.store.puts) == 2
    assert bench.counts()["save.dropped_queue_full"] == 1


def test_closing_ends_saves_within_its_time() -> None:
    bench = Bench(shutdown_ms=1)
    bench.run(bench.plan(save_keys=[b"a"], save_blocks=[3]))
    bench.side.close()
    assert bench.store.puts[0][3].cancelled


def counter(address: np.uint64) -> int:
    return ctypes.c_uint64.from_address(int(address)).value
