"""How far a hit reaches when several KV-cache groups must each have what they look at."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tent_vllm.groups import Group, Groups

HYBRID = Groups(4, (Group("full", 8), Group("window", 4, window=10)))


def longest_by_hand(groups: Groups, hits: list[list[bool]], start: int, end: int) -> int:
    best = start
    for units in range(groups.step * (start // groups.step + 1), end + 1, groups.step):
        good = True
        for index, group in enumerate(groups.all):
            scale, tokens = groups.scale(index), units * groups.unit
            first = max(0, tokens - group.window + 1) // group.tokens if group.window else 0
            for block in range(max(first, start // scale), units // scale):
                good = good and block < len(hits[index]) and hits[index][block]
        best = units if good else best
    return best


@given(
    hits=st.integers(0, 12).flatmap(
        lambda n: st.tuples(
            st.lists(st.booleans(), min_size=n // 2, max_size=n // 2),
            st.lists(st.booleans(), min_size=n, max_size=n),
        )
    ),
    start=st.integers(0, 5),
    end=st.integers(0, 12),
)
def test_the_longest_prefix_that_every_group_can_serve(
    hits: tuple[list[bool], list[bool]], start: int, end: int
) -> None:
    arrays = [np.array(hit, dtype=bool) for hit in hits]
    expected = longest_by_hand(HYBRID, [list(hit) for hit in hits], start * 2, end)
    assert HYBRID.longest(arrays, start * 2, end) == max(start * 2, expected)


def test_a_block_is_named_by_the_hash_of_its_last_unit() -> None:
    hashes = [bytes([i]) for i in range(6)]
    assert HYBRID.keys(hashes, 0, 1, 3) == [b"\x03", b"\x05"]
    assert HYBRID.keys(hashes, 1, 1, 3) == [b"\x01", b"\x02"]


def test_a_window_needs_its_last_blocks_only() -> None:
    window = HYBRID.all[1]
    assert window.first_needed(np.array([0, 8, 9, 40])).tolist() == [0, 0, 0, 7]


def test_a_chunk_needs_what_its_chunk_has() -> None:
    chunk = Group("chunk", 4, chunk=12)
    assert chunk.first_needed(np.array([4, 12, 20, 24])).tolist() == [0, 3, 3, 6]


class Manager:
    def __init__(self, window: int, extra: int) -> None:
        self.window, self.extra = window, extra

    def get_num_skipped_tokens(self, computed: int) -> int:
        return max(0, computed - self.window + 1 - self.extra) if self.window else 0


def test_vllm_that_keeps_more_is_noticed() -> None:
    assert HYBRID.agrees_with([Manager(0, 0), Manager(10, 0)])
    assert not HYBRID.agrees_with([Manager(0, 0), Manager(10, 5)])
