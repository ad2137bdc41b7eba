"""Pages of every kind of pool go through TENT and come back byte for byte, in SGLang's real caches.

The kit's configurations: full attention, sliding window beside it, Mamba state beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from support import sglang_kit
from support.peers import until
from support.sglang_kit import FULL, MAMBA, SWA, CacheConfig, HiCacheStorageConfig, torch
from tent_core.config import load_config
from tent_core.explain import rings
from tent_core.store import PageStore
from tent_sglang.backend import TentHiCacheStorage

CONFIGS = {
    "full": CacheConfig(page_size=4, components=(FULL,), num_layers=4),
    "swa": CacheConfig(
        page_size=4,
        components=(FULL, SWA),
        sliding_window_size=8,
        num_layers=4,
        full_attention_layer_ids=(1, 3),
    ),
    "mamba": CacheConfig(
        page_size=4,
        components=(FULL, MAMBA),
        num_layers=4,
        full_attention_layer_ids=(1, 3),
        enable_mamba_extra_buffer=True,
        mamba_cache_size=60,
    ),
}
LAYOUTS = ("layer_first", "page_first", "page_first_direct")
# SGLang's host pool of Mamba states knows page-first layouts only.
WAYS = [
    (name, layout) for name in CONFIGS for layout in LAYOUTS if (name, layout) != ("mamba", "layer_first")
]
STORE = {
    "store": {"capacity": "32MiB", "extent": "4MiB", "prefault": False},
    "directory": {"timeout_ms": 5000},
}


@pytest.fixture
def make_kit() -> Iterator[Callable[..., sglang_kit.Kit]]:
    made: list[sglang_kit.Kit] = []

    def make(name: str, layout: str = "layer_first", mla: bool = False) -> sglang_kit.Kit:
        kit = sglang_kit.Kit(CONFIGS[name], STORE, layout, mla=mla)
        made.append(kit)
        return kit

    yield make
    for kit in made:
        kit.doCleanups()


@pytest.mark.parametrize(("name", "layout"), WAYS)
def test_what_one_cache_stores_another_loads_byte_for_byte(make_kit, name, layout):
    kit = make_kit(name, layout)
    writer, reader = kit.side(), kit.side()
    tokens = kit._make_seq(1, 6)
    stored = kit.store(writer, tokens, seed=7)
    loaded = kit.load(reader, tokens)
    assert {component for component, _ in loaded} == set(kit.cfg.components)
    assert [key for component, key in loaded if component is FULL] == [
        key for component, key in stored if component is FULL
    ]
    for page, content in loaded.items():
        assert content == stored[page], page
    assert all(any(content) for content in loaded.values())


@pytest.mark.parametrize("layout", ["layer_first", "page_first"])
def test_latent_attention(make_kit, layout):
    kit = make_kit("full", layout, mla=True)
    writer, reader = kit.side(), kit.side()
    tokens = kit._make_seq(1, 6)
    stored = kit.store(writer, tokens, seed=8)
    assert writer.backend._pools["kv"].namespace == reader.backend._pools["kv"].namespace
    assert "MLA" in type(writer.host_pool).__name__
    assert kit.load(reader, tokens) == stored


def forget(side: sglang_kit.Side, pool: str, keys: list[str]) -> None:
    """Takes pages of one pool out of the store, as an eviction does."""
    host = side.backend._pools[pool]
    side.backend._store.remove(host.namespace, host.names(keys))


def test_a_prompt_ends_at_its_first_page_that_is_not_there(make_kit):
    kit = make_kit("full")
    writer, reader = kit.side(), kit.side()
    tokens = kit._make_seq(1, 6)
    stored = kit.store(writer, tokens, seed=9)
    keys = [key for _, key in stored]
    forget(writer, "kv", [keys[4]])
    loaded = kit.load(reader, tokens)
    assert [key for _, key in loaded] == keys[:4]
    assert all(stored[page] == content for page, content in loaded.items())
    told = [r for f in rings() if f.about["node"] == reader.backend._store.node_name for r in f.records]
    look = next(record for record in told if record["did"] == "look")
    assert (look["page"], look["pool"], look["why"], look["key"]) == (4, "kv", "ABSENT", keys[4])


@pytest.mark.parametrize("name", ["swa", "mamba"])
def test_pages_without_their_sidecar_are_no_hit(make_kit, name):
    kit = make_kit(name, "page_first")
    writer, reader = kit.side(), kit.side()
    tokens = kit._make_seq(1, 6)
    stored = kit.store(writer, tokens, seed=10)
    sidecar = {"swa": SWA, "mamba": MAMBA}[name]
    forget(writer, name, [key for component, key in stored if component is sidecar])
    assert kit.load(reader, tokens) == {}
    assert reader.backend.batch_exists([key for component, key in stored if component is FULL]) == 6


def test_addresses_are_those_that_sglang_gives(make_kit):
    for layout in LAYOUTS:
        for mla in (False, True):
            kit = make_kit("full", layout, mla=mla)
            side = kit.side()
            host, pool = side.backend._pools["kv"], side.host_pool
            pages = pool.size // pool.page_size
            indices = torch.arange(pages * pool.page_size)
            wanted = np.array(pool.get_page_buffer_meta(indices)[0], np.uint64).reshape(pages, -1)
            assert (host.locate(indices, pages) == wanted).all()
            assert host._lines is not None, "computed, not asked for one by one"
            kit.doCleanups()


@pytest.fixture
def stores() -> Iterator[list[PageStore]]:
    opened = [PageStore.open(load_config(STORE)) for _ in range(2)]
    yield opened
    while opened:
        opened.pop().close()


def ranks(kit: sglang_kit.Kit, store: PageStore, size: int, of: int) -> list[TentHiCacheStorage]:
    """The backends of all ranks of a server of this tensor-parallel size, each over a real host pool."""
    made = []
    for rank in range(size):
        cfg = dataclasses.replace(kit.cfg, head_num=HEADS // size)
        pool = kit.side(backend=None, cfg=cfg).host_pool
        config = HiCacheStorageConfig(
            tp_rank=rank, tp_size=size, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
            is_mla_model=False, enable_storage_metrics=False, is_page_first_layout=False, model_name="m",
            tp_lcm_size=of, should_split_heads=of > size,
        )  # fmt: skip
        backend = TentHiCacheStorage(config, {}, store=store)
        backend.register_mem_pool_host(pool)
        kit.addCleanup(backend.close)
        made.append(backend)
    return made


HEADS = 8


def whole(backends: list[TentHiCacheStorage], page: int) -> bytes:
    """Keys and values of a page with the heads of all ranks in their order."""
    pools = [backend.mem_pool_host for backend in backends]
    return b"".join(
        torch.cat([side[page].view(torch.uint8) for side in buffers]).contiguous().numpy().tobytes()
        for buffers in ([p.k_buffer for p in pools], [p.v_buffer for p in pools])
    )


@pytest.mark.parametrize("size", [1, 4])
def test_pages_written_by_two_ranks_serve_one_and_four(make_kit, stores, size):
    kit = make_kit("full", "page_head")
    writers, readers = ranks(kit, stores[0], 2, 4), ranks(kit, stores[1], size, 4)
    keys = [f"{n:064x}" for n in range(3)]
    indices = torch.arange(3 * kit.cfg.page_size)
    for number, writer in enumerate(writers):
        draw = torch.Generator().manual_seed(number)
        buffer = writer.mem_pool_host.kv_buffer
        buffer.copy_(torch.randn(buffer.shape, generator=draw))
        if number:
            assert readers[0].batch_exists(keys) == (0 if size == 1 else 3), "half of the heads"
        assert writer.batch_set_v1(keys, indices) == [True] * 3
    for reader in readers:
        assert reader.batch_exists(keys) == 3
        assert reader.batch_get_v1(keys, indices) == [True] * 3
    for page in range(3):
        assert whole(readers, page) == whole(writers, page)


def test_the_linker_moves_device_pages_without_a_host_pool(make_kit, stores):
    """Driven as SGLang's tree does it: offload, look up, load into other slots, wait for the layers."""
    for name, mla in (("full", False), ("full", True), ("swa", False)):
        kit = make_kit(name, mla=mla)
        (writer, source), (reader, target) = (kit.linked(store) for store in stores)
        keys = [f"{name}{mla}{n}" for n in range(3)]
        transfers, moved = kit.transfers(source, keys, seed=5), kit.transfers(target, keys, seed=None)
        assert writer.offload(transfers)
        until(lambda w=writer: w.num_completed_offloads() == 1, "the offload has ended")
        assert writer.pop_completed_offload() is True
        asked = [dataclasses.replace(t, device_indices=None) for t in transfers]
        assert reader.lookup("r", asked)[-1] == 3
        assert reader.load("r", moved)
        index = reader.start_layer_wise_loading()
        reader.layer_done_counter.set_consumer(index)
        for layer in range(kit.cfg.num_layers if name == "full" else 1):
            reader.layer_done_counter.wait_until(layer)
        assert reader.finish_layer_wise_loading(index) is True
        for stored, loaded in zip(transfers, moved, strict=True):
            assert target.bytes_at(loaded) == source.bytes_at(stored)
        gone = [dataclasses.replace(t, keys=[key + "?" for key in t.keys]) for t in moved]
        assert reader.lookup("s", asked[:1])[-1:] in ([3], []) and reader.load("s", gone)
        index = reader.start_layer_wise_loading()
        assert reader.finish_layer_wise_loading(index) is False, "SGLang is told, and aborts that request"
        assert reader.start_layer_wise_loading() == -1
        reader.reset()
        kit.doCleanups()
