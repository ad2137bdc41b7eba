"""Pages cut by groups of heads: what ranks of different tensor-parallel sizes call the same bytes."""

from __future__ import annotations

import dataclasses
import types

import pytest

from tent_core.errors import Unsupported
from tent_sglang.heads import HeadGroups, head_groups
from tent_sglang.identity import namespace_fields


@dataclasses.dataclass
class Config:
    tp_rank: int
    tp_size: int
    tp_lcm_size: int | None = 4
    is_mla_model: bool = False
    model_name: str = "m"
    pp_rank: int = 0
    pp_size: int = 1


def pool(heads: int, layout: str = "page_head"):
    return types.SimpleNamespace(
        layout=layout, head_num=heads, get_split_heads_page_buffer_meta=lambda indices, count: None
    )


def test_each_rank_has_its_share_of_all_groups():
    assert head_groups(Config(0, 1), pool(8)) == HeadGroups(0, 4, 4)
    assert head_groups(Config(1, 2), pool(4)) == HeadGroups(2, 2, 4)
    assert head_groups(Config(3, 4), pool(2)) == HeadGroups(3, 1, 4)
    assert HeadGroups(2, 2, 4).names("page") == [b"page/2", b"page/3"]


def test_whole_pages_where_nothing_asks_for_a_cut_or_nothing_can_be_cut():
    assert head_groups(Config(0, 2, tp_lcm_size=None), pool(4)) is None
    assert head_groups(Config(0, 2, is_mla_model=True), pool(4)) is None
    assert head_groups(Config(0, 2), pool(4, "page_first")) is None
    assert head_groups(Config(0, 2), types.SimpleNamespace(layout="page_head", head_num=4)) is None


def test_heads_that_do_not_divide_are_refused_by_number():
    with pytest.raises(Unsupported, match="2 ranks has 1 key/value heads, which do not divide into 2"):
        head_groups(Config(0, 2), pool(1))
    with pytest.raises(Unsupported, match="no multiple"):
        head_groups(Config(0, 3), pool(4))


def test_the_group_decides_and_the_rank_does_not():
    def fields(rank: int, size: int, heads: int):
        config, cut = Config(rank, size), pool(heads)
        return namespace_fields(config, cut, "kv", "parts", [64, 64], {}, head_groups(config, cut))

    assert fields(0, 1, 8) == fields(1, 2, 4) == fields(3, 4, 2)
    assert fields(0, 1, 8) != fields(0, 1, 4), "a model with fewer heads"
    whole = namespace_fields(Config(0, 1, tp_lcm_size=None), pool(8), "kv", "parts", [64, 64], {})
    assert whole["tp"] == "0/1" and fields(0, 1, 8)["tp"] == "heads/4"
