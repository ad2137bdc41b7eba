"""Pages of every kind of pool go through TENT and come back byte for byte, in SGLang's real caches.

The kit's configurations: full attention, sliding window beside it, Mamba state beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support import sglang_kit
from support.sglang_kit import FULL, MAMBA, SWA, CacheConfig

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

    def make(name: str, layout: str = "layer_first") -> sglang_kit.Kit:
        kit = sglang_kit.Kit(CONFIGS[name], STORE, layout)
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
