"""The scheduler's side over a scheduler's worth of plain objects: promises, saves, and what failures take back."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tent_core.store.reason import PageStatus
from tent_vllm.groups import Group, Groups
from tent_vllm.guard import Guard
from tent_vllm.lookups import LookupService
from tent_vllm.plan import StepPlan, StepReport, WorkerTold
from tent_vllm.rank_lookup import Answer
from tent_vllm.scheduler import SchedulerSide
from tent_vllm.settings import Settings

BLOCK = 4
GROUPS = Groups(BLOCK, (Group("FullAttentionSpec", BLOCK),))
SETTINGS = Settings(lookup_wait_ms=200, pin_ms=5000, failed_page_ms=5000)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Pin:
    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


class Directory:
    """What `LookupService` asks: the pages there are, answered when the test lets it."""

    def __init__(self) -> None:
        self.pages: set[bytes] = set()
        self.open = threading.Event()
        self.open.set()
        self.answered = threading.Semaphore(0)
        self.pins: list[Pin] = []
        self.miss = PageStatus.ABSENT

    def __call__(self, keys: list[bytes]) -> Answer:
        assert self.open.wait(10)
        status = [PageStatus.HIT if key in self.pages else self.miss for key in keys]
        self.pins.append(Pin())
        answer = Answer()
        answer.add(0, np.array(status, dtype=np.uint8), self.pins[-1])
        return answer


@dataclass
class Request:
    request_id: str
    num_tokens: int
    skip_reading_prefix_cache: bool = False

    @property
    def block_hashes(self) -> list[bytes]:
        return [f"{self.request_id[0]}{i}".encode() for i in range(self.num_tokens // BLOCK)]


@dataclass
class Blocks:
    ids: list[int]

    def get_block_ids(self) -> tuple[list[int]]:
        return (self.ids,)


@dataclass
class Cached:
    req_ids: list[str] = field(default_factory=list)
    num_computed_tokens: list[int] = field(default_factory=list)
    new_block_ids: list[Any] = field(default_factory=list)


@dataclass
class New:
    req_id: str
    num_computed_tokens: int


@dataclass
class Output:
    scheduled_new_reqs: list[New] = field(default_factory=list)
    scheduled_cached_reqs: Cached = field(default_factory=Cached)
    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)


def told(plan: StepPlan, *, failed: bool) -> WorkerTold:
    return WorkerTold(report=StepReport(plan.step, failed))


class Bench:
    """A scheduler's side, a directory, and block tables."""

    def __init__(self, **kwargs: Any) -> None:
        self.clock = Clock()
        self.directory = Directory()
        self.guard = Guard()
        self.tables: dict[str, list[int]] = {}
        self.evicted: set[int] = set()
        options: dict[str, Any] = {"loads": True, "saves": True, "ranks": 1} | kwargs
        self.side = SchedulerSide(GROUPS, SETTINGS, self.guard, clock=self.clock, **options)
        self.lookups = LookupService(
            self.directory, self.guard, GROUPS, pause=1.0, failed_for=5.0, clock=self.clock
        )
        self.side.serve(self.lookups)
        self.side.bind_manager(self)

    def get_block_ids(self, req_id: str) -> tuple[list[int]]:
        return (self.tables.get(req_id, []),)

    def evict_blocks(self, blocks: set[int]) -> None:
        self.evicted |= blocks

    def match(self, request: Request, local: int = 0) -> int | None:
        """Ask until there is an answer, as vLLM does; None when the clock must move for one."""
        for _ in range(10_000):
            tokens, later = self.side.matched_tokens(request, local)
            assert later is False
            if tokens is not None:
                return tokens
            if not self.directory.open.is_set():
                return None
            threading.Event().wait(0.001)
        raise AssertionError("no answer")

    def admit(self, request: Request, blocks: list[int], external: int) -> None:
        self.tables[request.request_id] = blocks
        self.side.allocated(request, Blocks(blocks), external)

    def step_new(self, request: Request, computed: int, scheduled: int) -> StepPlan:
        return self.side.build_plan(
            Output([New(request.request_id, computed)], Cached(), {request.request_id: scheduled})
        )

    def step_old(
        self, request: Request, computed: int, scheduled: int, fresh: list[int] | None = None
    ) -> StepPlan:
        blocks = None if fresh is None else (fresh,)
        return self.side.build_plan(
            Output([], Cached([request.request_id], [computed], [blocks]), {request.request_id: scheduled})
        )


@pytest.fixture
def bench() -> Any:
    made = Bench()
    yield made
    made.directory.open.set()
    made.side.close(10)


def test_a_cold_prompt_is_saved_as_its_blocks_fill(bench: Bench) -> None:
    request = Request("a", 10)
    bench.side.on_new_request(request)
    assert bench.match(request) == 0
    bench.admit(request, [5, 6, 7], 0)
    plan = bench.step_new(request, 0, 6)
    assert (plan.save.keys, plan.save.blocks.tolist()) == ([b"a0"], [5])
    assert set(plan.reused.tolist()) == {5, 6, 7}
    plan = bench.step_old(request, 6, 4)
    assert (plan.save.keys, plan.save.blocks.tolist()) == ([b"a1"], [6])
    # Decoding fills the third block with tokens that are known by then.
    request.num_tokens = 12
    assert bench.step_old(request, 10, 1).save.keys == []
    plan = bench.step_old(request, 11, 1)
    assert (plan.save.keys, plan.save.blocks.tolist()) == ([b"a2"], [7])


def test_draft_tokens_do_not_fill_a_block(bench: Bench) -> None:
    request = Request("a", 6)
    bench.match(request)
    bench.admit(request, [5, 6], 0)
    # Six known tokens and two drafts are scheduled: the second block is full of guesses.
    assert bench.step_new(request, 0, 8).save.keys == [b"a0"]


def test_a_hit_is_loaded_after_the_local_tokens_and_leaves_one_to_compute(bench: Bench) -> None:
    request = Request("a", 12)
    bench.directory.pages = {b"a0", b"a1", b"a2"}
    bench.side.on_new_request(request)
    # The last block would leave nothing to compute.
    assert bench.match(request, local=4) == 4
    bench.admit(request, [3, 8, 9], 4)
    plan = bench.step_new(request, 8, 4)
    assert (plan.load.keys, plan.load.blocks.tolist()) == ([b"a1"], [8])
    assert plan.report
    # What was loaded is not saved again; what was computed is.
    assert (plan.save.keys, plan.save.blocks.tolist()) == ([b"a2"], [9])
    # Local hits keep their owner.
    assert 3 not in plan.reused


def test_a_hole_ends_the_hit(bench: Bench) -> None:
    request = Request("a", 20)
    bench.directory.pages = {b"a0", b"a2", b"a3"}
    assert bench.match(request) == 4
    assert bench.match(request, local=8) == 8
    assert bench.match(request, local=4) == 0


def test_a_slow_lookup_is_not_waited_for_longer_than_said(bench: Bench) -> None:
    request = Request("a", 12)
    bench.directory.pages = {b"a0"}
    bench.directory.open.clear()
    bench.side.on_new_request(request)
    assert bench.match(request) is None
    bench.clock.now += 0.199
    assert bench.match(request) is None
    bench.clock.now += 0.001
    assert bench.match(request) == 0
    assert bench.guard.counts()["lookup.too_slow"] == 1


def test_while_the_directory_is_down_nobody_waits(bench: Bench) -> None:
    bench.directory.miss = PageStatus.DIRECTORY_DOWN
    assert bench.match(Request("a", 12)) == 0
    bench.directory.open.clear()
    assert bench.match(Request("b", 12)) == 0
    bench.clock.now += 1.1
    assert bench.match(Request("c", 12)) is None


def test_requests_that_may_not_read_are_not_looked_up(bench: Bench) -> None:
    request = Request("a", 12, skip_reading_prefix_cache=True)
    bench.directory.pages = {b"a0"}
    bench.side.on_new_request(request)
    assert bench.match(request) == 0
    assert bench.directory.pins == []


@pytest.mark.parametrize(("loads", "saves"), [(True, False), (False, True)])
def test_roles(loads: bool, saves: bool) -> None:
    bench = Bench(loads=loads, saves=saves)
    bench.directory.pages = {b"a0"}
    request = Request("a", 12)
    external = bench.match(request)
    assert external == (4 if loads else 0)
    bench.admit(request, [1, 2, 3], external or 0)
    assert bool(bench.step_new(request, external or 0, 12 - (external or 0)).save.keys) == saves
    bench.side.close(10)


def test_a_failed_load_takes_back_what_was_saved_and_is_not_offered_again(bench: Bench) -> None:
    request = Request("a", 16)
    bench.directory.pages = {b"a0", b"a1"}
    assert bench.match(request) == 8
    bench.admit(request, [1, 2, 3, 4], 8)
    plan = bench.step_new(request, 8, 8)
    assert plan.save.keys == [b"a2", b"a3"]
    bench.side.outcome(told(plan, failed=True), {2})
    # What was made on it is not to be found in vLLM's own cache.
    assert bench.evicted == {2, 3, 4}
    # vLLM goes back to the first block that did not come; all from there on is saved when it is computed.
    again = bench.step_old(request, 4, 12)
    assert again.epoch > plan.epoch
    assert again.save.keys == [b"a1", b"a2", b"a3"]
    other = Request("a-other", 16)
    assert bench.match(other) == 4
    bench.clock.now += 5.1
    assert bench.match(Request("a-third", 16)) == 8


def test_pins_are_given_back(bench: Bench) -> None:
    bench.directory.pages = {b"a0"}
    loaded, missed, aborted = Request("a", 8), Request("b", 8), Request("a2", 8)
    assert bench.match(loaded) == 4
    assert bench.match(missed) == 0
    assert bench.match(aborted) == 4
    bench.admit(loaded, [1, 2], 4)
    bench.admit(missed, [3, 4], 0)
    assert [pin.released for pin in bench.directory.pins] == [0, 1, 0]
    plan = bench.step_new(loaded, 4, 4)
    bench.side.outcome(told(plan, failed=False), set())
    assert [pin.released for pin in bench.directory.pins] == [1, 1, 0]
    bench.side.finished(aborted)
    bench.side.finished(loaded)
    assert [pin.released for pin in bench.directory.pins] == [1, 1, 1]


def test_an_abort_before_the_answer_gives_the_pins_back_too(bench: Bench) -> None:
    bench.directory.open.clear()
    request = Request("a", 8)
    bench.side.on_new_request(request)
    bench.side.finished(request)
    bench.directory.open.set()
    bench.side.close(10)
    assert [pin.released for pin in bench.directory.pins] == [1]


def test_with_several_ranks_saves_wait_for_the_loads_outcome() -> None:
    bench = Bench(ranks=2)
    bench.directory.pages = {b"a0"}
    request = Request("a", 13)
    assert bench.match(request) == 4
    bench.admit(request, [1, 2, 3, 4], 4)
    plan = bench.step_new(request, 4, 9)
    assert plan.save.keys == []
    assert bench.step_old(request, 13, 1).save.keys == []
    bench.side.outcome(told(plan, failed=False), set())
    assert bench.step_old(request, 14, 1).save.keys == [b"a1", b"a2"]
    bench.side.close(10)


def test_what_somebody_else_loads_is_not_saved_before_its_outcome(bench: Bench) -> None:
    request = Request("a", 13)
    assert bench.match(request) == 0
    bench.admit(request, [1, 2, 3, 4], 0)
    # Eight tokens are computed already, and none of them came from here.
    plan = bench.step_new(request, 8, 5)
    assert plan.save.keys == []
    assert plan.report
    bench.side.outcome(told(plan, failed=False), set())
    assert bench.step_old(request, 13, 1).save.keys == [b"a0", b"a1", b"a2"]


def test_a_preempted_request_is_looked_up_and_saved_anew(bench: Bench) -> None:
    request = Request("a", 12)
    bench.match(request)
    bench.admit(request, [1, 2, 3], 0)
    bench.step_new(request, 0, 12)
    bench.directory.pages = {b"a0", b"a1", b"a2"}
    assert bench.match(request) == 8
    bench.admit(request, [7, 8, 9], 8)
    plan = bench.step_old(request, 8, 4, fresh=[7, 8, 9])
    assert (plan.load.keys, plan.load.blocks.tolist()) == ([b"a0", b"a1"], [7, 8])
    assert plan.save.blocks.tolist() == [9]


@pytest.mark.protects("guard")
def test_invariant_7_a_fault_in_planning_loses_saves_and_keeps_loads(bench: Bench) -> None:
    request = Request("a", 12)
    bench.directory.pages = {b"a0"}
    bench.match(request)
    bench.admit(request, [1, 2, 3], 4)
    plan = bench.side.build_plan(object())
    assert (plan.load.keys, plan.load.blocks.tolist()) == ([b"a0"], [1])
    assert bench.guard.counts()["plan.faults"] == 1
