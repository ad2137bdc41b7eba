"""vLLM's real scheduler under random schedules, without a model: no wrong byte, no leaked block, no request for ever.

TENT_TEST_SCHEDULES=N runs N schedules of each kind instead of the few of CI.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
from vllm.version import __version__ as vllm_version

import support.vllm_sibling  # noqa: F401  registers it
from support.vllm_bench import Shape, VllmBench, generate, tent, write_model
from tent_vllm.versions import NEWEST, differences

SCHEDULES = int(os.environ.get("TENT_TEST_SCHEDULES", "12"))
ALWAYS = {"load_when_faster": False, "failed_page_ms": 5}
BESIDE = {**ALWAYS, "async_load_bytes": 1}

BEHIND_A_SIBLING = {
    "kv_connector": "MultiConnector",
    "kv_connector_extra_config": {
        "connectors": [
            {"kv_connector": "Sibling", "kv_role": "kv_both"},
            {
                "kv_connector": "TentConnector",
                "kv_role": "kv_both",
                "kv_connector_extra_config": {"vllm": ALWAYS},
            },
        ]
    },
}

SHAPES = {
    "full attention": Shape(settings=ALWAYS),
    "full attention, beside": Shape(settings=BESIDE),
    "few blocks": Shape(blocks=16, settings=BESIDE),
    "no prefix caching": Shape(prefix_caching=False, settings=ALWAYS),
    "window": Shape(groups=((16, 40),), settings=ALWAYS),
    "hybrid": Shape(groups=((16, 0), (16, 40), (16, 64)), blocks=70, settings=ALWAYS),
    "hybrid of two block sizes": Shape(groups=((32, 0), (16, 48)), blocks=60, settings=ALWAYS),
    "weights that change": Shape(settings=ALWAYS),
    "weights that change, beside": Shape(settings=BESIDE),
    "behind a sibling": Shape(connector=BEHIND_A_SIBLING),
    "requests that fail": Shape(policy="fail", settings={**ALWAYS, "keep_failure_policy": True}),
    "requests that fail, beside": Shape(policy="fail", settings={**BESIDE, "keep_failure_policy": True}),
}


@pytest.fixture(scope="session")
def bare_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def prompt(family: int, length: int) -> list[int]:
    """Prompts of one family are prefixes of each other."""
    return [5 + (family * 131 + i * (i + 7)) % 900 for i in range(length)]


ADD = st.tuples(st.just("add"), st.integers(0, 2), st.integers(16, 170), st.integers(1, 20))
STEP = st.tuples(st.just("step"), st.integers(1, 6))
FORGET = st.tuples(st.just("forget"))
OPERATIONS = st.one_of(
    ADD, ADD, ADD, STEP, STEP, STEP, FORGET, FORGET,
    st.tuples(st.just("abort"), st.integers(0, 9)),
    st.tuples(st.just("preempt")),
    st.tuples(st.just("lose"), st.integers(1, 3)),
    st.tuples(st.just("evict"), st.integers(0, 9)),
    st.tuples(st.just("slow"), st.integers(0, 5)),
    st.tuples(st.just("stubborn"), st.integers(0, 1)),
)  # fmt: skip
# A change makes all that is in the pool useless: it must come back to be loaded in between.
WITH_WEIGHTS = st.one_of(*[OPERATIONS] * 9, FORGET, FORGET, ADD, ADD, st.tuples(st.just("weights")))


class Run:
    """One schedule on one bench, whose pool knows the prompts of two families of three from the start."""

    def __init__(self, bench: VllmBench) -> None:
        self.bench = bench
        self.asked: dict[str, tuple[list[int], int]] = {}
        for family in (0, 1):
            self.do("add", family, 170, 1)
        bench.drain()
        bench.forget_local()

    def do(self, what: str, *args: int) -> None:
        bench = self.bench
        if what == "add":
            name, tokens = f"r{len(self.asked)}", prompt(args[0], args[1])
            self.asked[name] = (tokens, args[2])
            bench.add(name, tokens, args[2])
        elif what == "step":
            for _ in range(args[0]):
                bench.step()
        elif what == "abort" and bench.requests:
            bench.abort(sorted(bench.requests)[args[0] % len(bench.requests)])
        elif what == "preempt":
            bench.preempt_all()
        elif what == "forget":
            bench.forget_local()
        elif what == "lose":
            bench.store.lose = args[0]
        elif what == "evict":
            for key in sorted(bench.store.pages)[args[0] :: 3]:
                del bench.store.pages[key]
        elif what == "slow":
            bench.store.patience = args[0]
        elif what == "weights":
            bench.change_weights()
        elif what == "stubborn":
            bench.store.stubborn = bool(args[0])

    def finish(self) -> None:
        self.bench.drain()
        assert self.bench.wrong == []
        for name, answer in self.bench.finished.items():
            tokens, count = self.asked[name]
            if name in self.bench.failed:
                # By the policy "fail" it ends in an error; what it had said before is right.
                assert answer == generate(tokens, len(answer)), f"{name} was answered wrong"
                continue
            assert answer == generate(tokens, count), f"{name} was answered wrong"
        self.bench.check_pages([tokens + generate(tokens, count) for tokens, count in self.asked.values()])
        self.bench.check_accounts()


@pytest.mark.parametrize("kind", SHAPES)
def test_random_schedules(kind: str, bare_model: Path) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=SCHEDULES * (2 if "weights" in kind else 1),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        phases=[Phase.generate],
        derandomize="TENT_TEST_SCHEDULES" not in os.environ,
    )
    @given(st.lists(WITH_WEIGHTS if "weights" in kind else OPERATIONS, min_size=25, max_size=40))
    def check(operations: list[tuple[Any, ...]]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            bench = VllmBench(bare_model, SHAPES[kind], patch)
            try:
                run = Run(bench)
                for operation in operations:
                    run.do(*operation)
                run.finish()
            finally:
                seen.update(bench.store.moved)
                seen.update(bench.counts())
                seen["preempted"] += bench.preempted
                seen["failed"] += len(bench.failed)
                bench.close()

    check()
    print(kind, dict(seen))
    # Schedules in which nothing happens prove nothing.
    shape = SHAPES[kind]
    beside = (
        "beside" in kind or shape == SHAPES["few blocks"] or len(shape.groups) > 1 or shape.groups[0][1] > 0
    )
    failed = "load.failed_fetches" if beside else "load.failed_steps"
    changed = ["load.other_weights", "save.other_weights", "save.stale_weights"] * ("weights" in kind)
    ended = ["failed"] * (shape.policy == "fail")
    for event in ["get", "put", "lost", "preempted", failed, *changed, *ended]:
        assert seen[event] > 0, f"no {event} in {SCHEDULES} schedules"


def loaded(bench: VllmBench, tokens: list[int], name: str = "again") -> int:
    """Runs a prompt that was computed and forgotten before; pages that came from the store."""
    before = bench.store.moved["get"]
    bench.forget_local()
    bench.add(name, tokens, 4)
    bench.drain()
    assert bench.finished[name] == generate(tokens, 4)
    return bench.store.moved["get"] - before


@pytest.mark.parametrize(
    ("kind", "pages"),
    [
        ("full attention", 9),
        ("full attention, beside", 9),
        # The window of the last 40 tokens reaches into three blocks.
        ("window", 3),
        # 9 of full attention, 3 and 4 of the windows'.
        ("hybrid", 16),
        # 144 tokens are no whole number of the larger blocks: 128 are, which is 4, and 3 for the window of 48.
        ("hybrid of two block sizes", 7),
    ],
)
def test_only_what_attention_looks_at_is_loaded(
    kind: str, pages: int, bare_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = VllmBench(bare_model, SHAPES[kind], monkeypatch)
    tokens = prompt(0, 150)
    bench.add("first", tokens, 4)
    bench.drain()
    bench.add("busy", prompt(1, 20), 40)
    assert loaded(bench, tokens) == pages
    bench.drain()
    bench.check_accounts()
    bench.close()


@pytest.mark.parametrize("gone", ["abort", "preempt"])
def test_rubbish_of_a_failed_load_is_never_found_in_the_local_cache(
    gone: str, bare_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request whose load failed goes before it has computed the lost blocks anew."""
    bench = VllmBench(bare_model, SHAPES["full attention"], monkeypatch)
    tokens = prompt(0, 150)
    bench.add("first", tokens, 4)
    bench.drain()
    bench.forget_local()
    bench.store.lose = 9
    bench.add("fails", tokens, 4)
    bench.step()
    if gone == "abort":
        bench.abort("fails")
    else:
        running = bench.scheduler.running.pop()
        bench.scheduler._preempt_request(running, 0.0)
    bench.add("next", tokens, 4)
    bench.drain()
    assert bench.finished["next"] == generate(tokens, 4)
    bench.check_accounts()
    bench.close()


def test_inside_multi_connector_behind_a_sibling(bare_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM passes on the hand-shake of the first connector only."""
    bench = VllmBench(bare_model, SHAPES["behind a sibling"], monkeypatch)
    assert not bench.shaken
    tokens = prompt(0, 150)
    bench.add("first", tokens, 4)
    bench.drain()
    assert loaded(bench, tokens) == 9
    bench.check_accounts()
    bench.close()


def test_pages_of_older_weights_are_not_loaded(bare_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = VllmBench(bare_model, SHAPES["full attention"], monkeypatch)
    tokens = prompt(0, 150)
    bench.add("first", tokens, 4)
    bench.drain()
    assert loaded(bench, tokens) == 9
    bench.change_weights()
    assert loaded(bench, tokens, "other weights") == 0
    # The scheduler has heard of it by now: what it computes is stored under the new version, and found.
    bench.forget_local()
    bench.add("stored", tokens, 4)
    bench.drain()
    assert loaded(bench, tokens, "found") == 9
    bench.check_pages([tokens + generate(tokens, 4)])
    assert tent(bench.scheduler.get_kv_connector())._scheduler.weights
    bench.check_accounts()
    bench.close()


@pytest.mark.parametrize("older", ["local prefix", "running request", "prefix computed again"])
def test_what_stands_on_older_blocks_is_not_stored(
    older: str, bare_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = VllmBench(bare_model, SHAPES["full attention"], monkeypatch)
    asked = {name: prompt(0, length) for name, length in (("short", 80), ("long", 150), ("longest", 190))}
    asked["other"] = prompt(1, 40)

    def ask(name: str) -> None:
        bench.add(name, asked[name], 4)
        bench.drain()

    if older == "running request":
        bench.add("long", asked["long"], 4)
        bench.step()  # a part of its prompt
        bench.change_weights()
        bench.drain()
    else:
        ask("short")
        bench.change_weights()
        ask("other")
        ask("long")
        if older == "prefix computed again":
            # The blocks of the short prompt are of the new weights now, those of the long one after it are not.
            pool = bench.scheduler.kv_cache_manager.block_pool
            bench.scheduler.kv_cache_manager.evict_blocks(
                {pool.get_cached_block(key, [0])[0].block_id for key in bench.hashes(asked["short"])}
            )
            ask("short")
            ask("longest")
    bench.check_pages([tokens + generate(tokens, 4) for tokens in asked.values()])
    assert bench.counts()["save.stale_weights" if older == "local prefix" else "weights.changed"] > 0
    bench.check_accounts()
    bench.close()


def test_every_call_of_this_vllm_is_known() -> None:
    assert differences(KVConnectorBase_V1, vllm_version) is None
    if vllm_version.startswith(".".join(str(part) for part in NEWEST)):
        later = differences(KVConnectorBase_V1, "99.0")
        assert later is not None and later.endswith("the same calls")


def test_what_goes_into_the_pool_is_told_to_routers(
    bare_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = VllmBench(bare_model, SHAPES["full attention"], monkeypatch, events=True)
    published: list[Any] = []
    tokens = prompt(0, 150)
    bench.add("first", tokens, 4)
    while bench.scheduler.has_requests() or bench.store.running:
        bench.step()
        published += bench.events
    bench.add("another", prompt(1, 20), 2)
    bench.drain()
    published += bench.events
    hashes = [one for event in published if event.medium == "TENT" for one in event.block_hashes]
    assert hashes[:9] == [maybe_convert_block_hash(key) for key in bench.hashes(tokens)]
    bench.close()


def test_a_block_that_changes_hands_in_mid_save_is_never_published(
    bare_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save cannot be stopped any more when its blocks get another owner."""
    bench = VllmBench(bare_model, SHAPES["few blocks"], monkeypatch)
    bench.store.stubborn, bench.store.patience = True, 30
    first, second = prompt(0, 150), prompt(1, 200)
    bench.add("first", first, 2)
    while bench.requests:
        bench.step()
    bench.forget_local()
    bench.add("second", second, 2)
    bench.drain()
    bench.check_pages([first + generate(first, 2), second + generate(second, 2)])
    assert bench.store.moved["unstable"] > 0
    bench.check_accounts()
    bench.close()
