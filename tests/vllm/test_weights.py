"""Weights that change under a running server: pages of one version never serve another."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tent_core.errors import InvalidArgument
from tent_core.handoff import Ticket
from tent_core.store.reason import PageStatus
from tent_vllm import handle as handles
from tent_vllm.freshness import Freshness
from tent_vllm.groups import Group, Groups
from tent_vllm.guard import Guard
from tent_vllm.handoff_plan import Endpoint, form_under
from tent_vllm.handoff_scheduler import HandoffScheduler
from tent_vllm.plan import Fetch, GroupPages, Pages, RankPages, StepPlan, WorkerTold
from tent_vllm.rank_lookup import RankLookup
from tent_vllm.settings import Settings
from tent_vllm.store_pages import StorePages
from tent_vllm.weights import TentWeights
from tent_vllm.worker import WorkerSide

BLOCKS = 8


class Transfer:
    """Done when the test says."""

    def __init__(self, count: int) -> None:
        self.status = np.full(count, PageStatus.PENDING, dtype=np.uint8)

    @property
    def done(self) -> bool:
        return bool((self.status != PageStatus.PENDING).all())

    def wait(self, timeout: float | None = None) -> bool:
        return self.done

    def wait_released(self, timeout: float | None = None) -> bool:
        return self.done

    def cancel(self) -> bool:
        self.status[:] = PageStatus.CANCELLED
        return True


class Store:
    """Remembers under which namespace pages were asked for and stored."""

    def __init__(self) -> None:
        self.moves: list[tuple[str, dict[str, str], Transfer]] = []

    def namespace(self, fields: dict[str, str], *, model: str = "") -> Any:
        return SimpleNamespace(digest=repr(sorted(fields.items())).encode(), fields=fields)

    def register(self, region: Any) -> Any:
        return SimpleNamespace(close=lambda: None)

    def saw_generation(self, namespace: Any, generation: int) -> None: ...

    def generation(self, namespace: Any) -> int:
        return 0

    def predict_get(self, found: Any) -> float:
        return 0.0

    def lookup(self, namespace: Any, keys: list[bytes], **_: Any) -> Any:
        self.moves.append(("lookup", namespace.fields, Transfer(len(keys))))
        return SimpleNamespace(status=np.full(len(keys), PageStatus.ABSENT, dtype=np.uint8))

    def submit_get(self, namespace: Any, keys: list[bytes], *_: Any, **__: Any) -> Transfer:
        self.moves.append(("get", namespace.fields, Transfer(len(keys))))
        return self.moves[-1][2]

    def submit_put(self, namespace: Any, keys: list[bytes], *_: Any, **__: Any) -> Transfer:
        self.moves.append(("put", namespace.fields, Transfer(len(keys))))
        return self.moves[-1][2]


class Layout:
    blocks, page_bytes, regions = BLOCKS, 64, ((4096, 64 * BLOCKS),)
    lengths = np.array([64], dtype=np.uint64)

    def addresses(self, blocks: Any) -> Any:
        return blocks[:, None].astype(np.uint64) * np.uint64(64) + np.uint64(4096)


class Bench:
    def __init__(self) -> None:
        self.store = Store()
        self.handle: Any = SimpleNamespace(store=self.store, guard=Guard(), weights="")
        layout: Any = Layout()
        named = [GroupPages({"model": "m"}, 64)]
        self.side = WorkerSide(StorePages(self.handle, [layout], named), self.handle.guard, Settings())
        self.step = 0

    def plan(self, **fields: Any) -> StepPlan:
        self.step += 1
        plan = StepPlan(step=self.step, **fields)
        self.side.prepare(plan)
        return plan

    def moved(self) -> list[tuple[str, str]]:
        return [(what, fields.get("weights_version", "")) for what, fields, _ in self.store.moves]


def pages(*blocks: int) -> Pages:
    return Pages([bytes([block]) for block in blocks], np.array(blocks, dtype=np.int64))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_page_is_of_the_version_of_its_step(bench: Bench) -> None:
    bench.side.save(bench.plan(save=pages(1)))
    bench.handle.weights = "two"
    bench.side.save(bench.plan(save=pages(2), weights="two"))
    assert bench.moved() == [("put", ""), ("put", "two")]
    assert "weights_version" not in bench.store.moves[0][1]


def test_what_was_planned_under_other_weights_is_neither_stored_nor_loaded(bench: Bench) -> None:
    bench.handle.weights = "two"
    plan = bench.plan(load=pages(1), save=pages(2), fetches=[Fetch("r", pages(3))])
    bench.side.load(plan)
    bench.side.save(plan)
    assert bench.store.moves == []
    assert bench.side.take_failed() == {1}
    assert bench.side.take_fetched(set()) == ({"r"}, {"r"})
    told = bench.side.take_told()
    assert told is not None and told.weights == {"two"}


def test_weights_that_change_during_the_forward_pass(bench: Bench) -> None:
    plan = bench.plan(save=pages(2))
    bench.handle.weights = "two"
    bench.side.save(plan)
    assert bench.store.moves == []


def test_a_fetch_that_arrives_under_other_weights_has_failed(bench: Bench) -> None:
    bench.plan(fetches=[Fetch("r", pages(3))])
    bench.handle.weights = "two"
    bench.store.moves[0][2].status[:] = PageStatus.HIT
    bench.plan(weights="two")
    assert bench.side.take_fetched(set()) == ({"r"}, {"r"})


def test_ranks_that_differ_are_all_named() -> None:
    told = WorkerTold(weights=frozenset({"a"})).merged(WorkerTold(weights=frozenset({"b"})))
    assert told.weights == {"a", "b"}


def test_look_ups_are_of_one_version_and_pages_without_any_have_no_field() -> None:
    store = Store()
    groups = Groups(4, (Group("FullAttentionSpec", 4),))
    named = RankPages((GroupPages({"model": "m"}, 64),))
    lookup = RankLookup(SimpleNamespace(store=store), groups, [named], 5000)  # type: ignore[arg-type]
    lookup([b"k"])
    lookup.use("two")
    lookup([b"k"])
    lookup([b"k"])
    assert [fields for _, fields, _ in store.moves] == [
        {"model": "m"},
        *[{"model": "m", "weights_version": "two"}] * 2,
    ]


def test_blocks_that_stand_on_older_ones_are_older() -> None:
    fresh = Freshness()
    assert not fresh.stale([1, 2, 3])
    fresh.weights_changed()
    assert fresh.stale([1]) and not fresh.stale([]) and not fresh.stale([0])
    fresh.owned([1, 2], stale=False)
    assert not fresh.stale([0, 1, 2])
    # Computed again by a request whose prefix is older.
    fresh.owned([2], stale=True)
    assert fresh.stale([1, 2])
    fresh.weights_changed()
    assert fresh.stale([1])


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made = SimpleNamespace(weights="")
    monkeypatch.setattr(handles, "_handles", {"engine": made})
    yield made


def test_the_call_that_changes_the_version(held: Any) -> None:
    worker = TentWeights()
    worker.vllm_config = SimpleNamespace(kv_transfer_config=SimpleNamespace(engine_id="engine"))
    worker.tent_weights_version("step 7")
    assert held.weights == "step 7"
    worker.vllm_config = SimpleNamespace(kv_transfer_config=SimpleNamespace(engine_id="another"))
    with pytest.raises(InvalidArgument, match="--kv-transfer-config"):
        worker.tent_weights_version("step 8")


def test_hand_offs_name_the_weights() -> None:
    """What is offered under one version is taken under no other: both ends must name the same form."""
    version = [""]
    side = HandoffScheduler(
        4, Guard(), engine_id="e", produces=True, consumes=True, weights=lambda: version[0]
    )
    side.serve([Endpoint(b"descriptor", b"form")], "secret")
    forms = []
    for version[0] in ("", "two"):
        request = SimpleNamespace(
            request_id="r",
            kv_transfer_params={"do_remote_decode": True},
            num_computed_tokens=8,
            status=SimpleNamespace(name="FINISHED_LENGTH_CAPPED"),
        )
        held, answer = side.finished(request, [1, 2])
        assert held and answer is not None
        forms.append(Ticket.unseal(answer["tent"]["tickets"][0], "secret").form)
    assert forms == [b"form", form_under(b"form", "two")]
    assert forms[0] != forms[1]
