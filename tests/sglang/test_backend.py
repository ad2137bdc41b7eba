"""The backend over real page stores: two of them, each with host memory of its own, as two servers would be."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import types

import numpy as np
import pytest

from tent_core.config import load_config
from tent_core.errors import ConfigError, Unsupported
from tent_core.store import PageStore
from tent_sglang.backend import TentHiCacheStorage

PAGE, LAYERS, ROW = 16, 3, 256
SLOTS = 16 * PAGE
# The time-out of the directory is generous: what is tested here is not how busy the machine is.
STORE = {
    "store": {"capacity": "32MiB", "extent": "4MiB", "prefault": False},
    "directory": {"timeout_ms": 5000},
}


class Memory:
    """A host buffer with the two calls of a tensor that the backend makes on one."""

    def __init__(self, nbytes: int) -> None:
        self.array = np.zeros(nbytes, np.uint8)

    def untyped_storage(self):
        return types.SimpleNamespace(data_ptr=lambda: self.array.ctypes.data, nbytes=lambda: len(self.array))


class MHAPool:
    """SGLang's multi-head host pool: K, then V, each in the order that the layout says."""

    dtype, head_num, head_dim, start_layer, end_layer, layer_num = "torch.float32", 2, 32, 0, LAYERS, LAYERS

    def __init__(self, layout: str = "page_first", seed: int = 0) -> None:
        self.layout, self.page_size = layout, PAGE
        self.kv_buffer = Memory(2 * LAYERS * SLOTS * ROW)
        if seed:
            self.kv_buffer.array[:] = np.random.default_rng(seed).integers(0, 256, len(self.kv_buffer.array))

    def get_page_buffer_meta(self, indices):
        base, half = self.kv_buffer.array.ctypes.data, LAYERS * SLOTS * ROW
        first = [int(i) for i in indices][::PAGE]
        if self.layout == "page_first":
            pointers = [base + v * half + i * LAYERS * ROW for i in first for v in (0, 1)]
            return pointers, [PAGE * LAYERS * ROW] * len(pointers)
        pointers = [
            base + v * half + (layer * SLOTS + i) * ROW
            for i in first
            for layer in range(LAYERS)
            for v in (0, 1)
        ]
        return pointers, [PAGE * ROW] * len(pointers)

    def page(self, page: int) -> bytes:
        """All bytes of one page, in the order of its parts."""
        pointers, sizes = self.get_page_buffer_meta(range(page * PAGE, (page + 1) * PAGE))
        base, array = self.kv_buffer.array.ctypes.data, self.kv_buffer.array
        return b"".join(
            array[p - base : p - base + n].tobytes() for p, n in zip(pointers, sizes, strict=True)
        )


class LogicalPool(MHAPool):
    """A pool that names pages but has no memory of its own."""

    def get_page_buffer_meta(self, indices):
        return None


@dataclasses.dataclass
class Config:
    extra_config: dict | None = None
    model_name: str | None = "m"
    tp_rank: int = 0
    tp_size: int = 1
    pp_rank: int = 0
    pp_size: int = 1
    is_mla_model: bool = False
    tp_lcm_size: int | None = None


def indices(*pages: int) -> np.ndarray:
    """Host indices of whole pages, as SGLang passes them: one a token slot."""
    return np.concatenate([np.arange(p * PAGE, (p + 1) * PAGE) for p in pages])


def keys(*numbers: int) -> list[str]:
    return [f"{n:064x}" for n in numbers]


@pytest.fixture
def stores():
    """Two of them, as two servers would have. The list is emptied at the end: memory goes with the last reference."""
    opened = [PageStore.open(load_config(STORE)) for _ in range(2)]
    yield opened
    while opened:
        opened.pop().close()


@pytest.fixture
def attach(stores):
    """attach(store number, pool, config) -> an attached backend; detached at the end."""
    made = []

    def make(number: int = 0, pool=None, config=None) -> TentHiCacheStorage:
        backend = TentHiCacheStorage(config or Config(), {}, store=stores[number])
        made.append(backend)
        backend.register_mem_pool_host(pool if pool is not None else MHAPool())
        backend.on_host_pools_registered()
        return backend

    yield make
    for backend in made:
        backend.close()


@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_pages_of_one_server_are_read_by_another(attach, layout):
    source, target = MHAPool(layout, seed=1), MHAPool(layout)
    writer, reader = attach(0, source), attach(1, target)
    assert writer.batch_set_v1(keys(1, 2, 3), indices(4, 0, 9)) == [True] * 3
    assert reader.batch_exists(keys(1, 2, 3, 4)) == 3
    assert reader.batch_get_v1(keys(1, 2, 3), indices(7, 8, 2)) == [True] * 3
    assert [target.page(p) for p in (7, 8, 2)] == [source.page(p) for p in (4, 0, 9)]
    untouched = [p for p in range(16) if p not in (7, 8, 2)]
    assert all(target.page(p) == bytes(len(target.page(p))) for p in untouched)


def test_a_missing_page_is_false_in_its_place_and_the_ones_before_it_are_kept(attach):
    source, target = MHAPool(seed=2), MHAPool()
    writer, reader = attach(0, source), attach(1, target)
    writer.batch_set_v1(keys(1, 2, 4), indices(0, 1, 3))
    assert reader.batch_exists(keys(1, 2, 3, 4)) == 2
    answer = reader.batch_get_v1(keys(1, 2, 3), indices(0, 1, 2))
    assert answer[:2] == [True, True] and answer[2] is False
    assert reader.counters()["get.miss.ABSENT"] == 1
    assert [target.page(0), target.page(1)] == [source.page(0), source.page(1)]


def test_a_page_stored_twice_is_stored_once_and_both_succeed(attach):
    first, second, target = MHAPool(seed=3), MHAPool(seed=4), MHAPool()
    one, two = attach(0, first), attach(1, second)
    assert one.batch_set_v1(keys(5), indices(0)) == [True]
    assert two.batch_set_v1(keys(5), indices(0)) == [True]
    assert two.counters()["set.pages_present"] == 1
    assert attach(1, target).batch_get_v1(keys(5), indices(1)) == [True]
    assert target.page(1) == first.page(0), "the first publisher's bytes stay"


def test_other_layouts_models_and_ranks_do_not_see_the_page(attach):
    attach(0, MHAPool(seed=5)).batch_set_v1(keys(1), indices(0))
    strangers = [
        attach(1, MHAPool("layer_first")),
        attach(1, config=Config(model_name="other")),
        attach(1, config=Config(tp_rank=1, tp_size=2)),
    ]
    assert [stranger.batch_exists(keys(1)) for stranger in strangers] == [0, 0, 0]
    assert attach(1).batch_exists(keys(1)) == 1


def test_clear_forgets_this_model_on_all_nodes_and_no_other(attach):
    writer, other = attach(0, MHAPool(seed=6)), attach(0, MHAPool(seed=7), Config(model_name="other"))
    writer.batch_set_v1(keys(1), indices(0))
    other.batch_set_v1(keys(1), indices(0))
    attach(1).clear()
    assert writer.batch_exists(keys(1)) == 0
    assert other.batch_exists(keys(1)) == 1
    assert writer.batch_set_v1(keys(1), indices(0)) == [True]
    reader, deadline = attach(1), time.monotonic() + 30
    while reader.batch_exists(keys(1)) == 0:
        assert time.monotonic() < deadline, "a page stored after the clear does not appear"


def test_the_copying_calls_have_pages_of_their_own(attach):
    backend, reader = attach(0, MHAPool(seed=8)), attach(1)
    values = [np.full(640, n, np.float32) for n in (1, 2)]
    assert backend.batch_set(keys(1, 2), values) is True
    targets = [np.zeros(640, np.float32) for _ in range(3)]
    found = reader.batch_get(keys(1, 2, 3), targets)
    assert [page is not None for page in found] == [True, True, False]
    assert all((page == value).all() for page, value in zip(found, values, strict=False))
    assert (reader.get(keys(2)[0], np.zeros(640, np.float32)) == values[1]).all()
    assert reader.set(keys(9)[0], values[0]) is True
    assert reader.batch_exists(keys(1)) == 0, "not a page of the zero-copy calls"


@pytest.mark.protects("guard")
def test_invariant_7_nothing_is_raised_into_sglang_and_answers_keep_their_shape(attach, caplog):
    backend = attach()
    with caplog.at_level(logging.WARNING, logger="tent.sglang"):
        assert backend.batch_get_v1(keys(1, 2), indices(0)) == [False, False]
        assert backend.batch_set_v1(keys(1), np.arange(SLOTS * 9, SLOTS * 9 + PAGE)) == [False]
        assert backend.batch_get(keys(1, 2), [np.zeros(4), None]) == [None, None]
        assert backend.batch_set(keys(1), [np.zeros(0)]) is False
        assert backend.batch_get_v1([], indices(0)) == []
        transfer = types.SimpleNamespace(name="swa", keys=keys(1), host_indices=indices(0))
        assert backend.batch_get_v2([transfer]) == {"swa": [False]}
    assert "2 pages need 32 host indices, got 16" in caplog.text
    assert sum(n for name, n in backend.counters().items() if name.endswith("faults")) == 5


def test_a_detached_backend_only_misses(attach):
    pool = MHAPool(seed=9)
    backend = attach(0, pool)
    backend.batch_set_v1(keys(1), indices(0))
    backend.close()
    backend.close()
    assert backend.batch_exists(keys(1)) == 0
    assert backend.batch_get_v1(keys(1), indices(1)) == [False]
    assert attach(0, pool).batch_get_v1(keys(1), indices(1)) == [True], "attached again over the same memory"
    assert pool.page(1) == pool.page(0)


def test_while_sglang_stops_its_threads_every_call_is_a_miss_at_once(attach):
    backend, stop = attach(0, MHAPool(seed=10)), threading.Event()
    backend.follow_stop_event(stop)
    assert backend.batch_set_v1(keys(1), indices(0)) == [True]
    stop.set()
    assert backend.batch_exists(keys(1)) == 0
    assert backend.batch_get_v1(keys(1), indices(1)) == [False]
    stop.clear()
    assert backend.batch_get_v1(keys(1), indices(1)) == [True]


def sidecar(name, rule, pages, window=1):
    return types.SimpleNamespace(name=name, hit_policy=rule, keys=keys(*pages[-window:]), host_indices=None)


def test_a_page_whose_sidecar_is_missing_is_not_a_hit(attach):
    backend = attach(0, MHAPool(seed=11))
    for name in ("indexer", "swa"):
        backend.register_mem_host_pool_v2(MHAPool(seed=12), name)
    backend.batch_set_v1(keys(*range(8)), indices(*range(8)))
    store = types.SimpleNamespace
    backend.batch_set_v2(
        [store(name="indexer", keys=keys(0, 1, 2, 3, 4, 5), host_indices=indices(*range(6)))]
    )
    backend.batch_set_v2([store(name="swa", keys=keys(2, 3, 5), host_indices=indices(2, 3, 5))])
    pages = list(range(8))

    found = backend._restorable(keys(*pages), [sidecar("indexer", "all_pages", pages)])
    assert found == (6, {"kv": 8, "indexer": 6}, [1, 2, 3, 4, 5, 6])
    window = sidecar("swa", "trailing_pages", pages, window=2)
    assert backend._restorable(keys(*pages), [window]) == (4, {"kv": 8, "swa": 4}, [4])
    both = [sidecar("indexer", "all_pages", pages), sidecar("swa", "trailing_pages", pages)]
    assert backend._restorable(keys(*pages), both) == (6, {"kv": 8, "indexer": 6, "swa": 6}, [3, 4, 6])
    groups = sidecar("indexer", "block_groups", pages)
    assert backend._restorable(keys(*pages), [groups])[0] == 8
    with pytest.raises(Unsupported, match="hit policy 'next_years'"):
        backend._restorable(keys(*pages), [sidecar("swa", "next_years", pages)])


def test_sidecar_bytes_come_back_in_their_own_pool(attach):
    source, state, target = MHAPool(seed=13), MHAPool(seed=14), MHAPool()
    writer, reader = attach(0, source), attach(1)
    writer.register_mem_host_pool_v2(state, "swa")
    reader.register_mem_host_pool_v2(target, "swa")
    move = types.SimpleNamespace(name="swa", keys=keys(1, 2), host_indices=indices(3, 4))
    assert writer.batch_set_v2([move]) == {"swa": [True, True]}
    assert reader.batch_get_v2([move]) == {"swa": [True, True]}
    assert [target.page(3), target.page(4)] == [state.page(3), state.page(4)]
    assert reader.batch_exists(keys(1)) == 0, "not a page of the main pool"


def test_a_pool_without_addresses_is_refused_by_name(stores):
    backend = TentHiCacheStorage(Config(), {}, store=stores[0])
    try:
        with pytest.raises(Unsupported, match=r"'kv' \(LogicalPool\).*--hicache-mem-layout"):
            backend.register_mem_pool_host(LogicalPool())
        backend.register_mem_pool_host(MHAPool())
        backend.register_mem_host_pool_v2(LogicalPool(), "deepseek_v4_c4")
        with pytest.raises(Unsupported, match="deepseek_v4_c4"):
            backend.on_host_pools_registered()
    finally:
        backend.close()


def test_mistakes_are_named_at_attach():
    with pytest.raises(ConfigError, match="did you mean"):
        TentHiCacheStorage(Config({"directory": {"urll": "redis://x"}}))


def test_a_backend_opens_and_closes_a_store_of_its_own():
    backend = TentHiCacheStorage(Config({**STORE, "prefetch_threshold": 64}))
    pool = MHAPool(seed=15)
    backend.register_mem_pool_host(pool)
    assert backend.batch_set_v1(keys(1), indices(0)) == [True]
    backend.close()


def test_speeds_are_handed_out_once(attach):
    backend = attach(0, MHAPool(seed=16))
    backend.batch_set_v1(keys(1, 2), indices(0, 1))
    backend.batch_get_v1(keys(1, 2), indices(2, 3))
    pages, rates = backend._mover.reads.take()
    assert pages == [2] and rates[0] > 0
    assert backend._mover.writes.take()[0] == [2]
    assert backend._mover.reads.take() == ([], [])
    counters = backend.counters()
    assert counters["get.bytes"] == counters["set.bytes"] == 2 * len(MHAPool().page(0))
