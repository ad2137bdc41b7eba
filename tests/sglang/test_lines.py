"""Addresses by arithmetic are those that SGLang gives, or SGLang is asked."""

from __future__ import annotations

import numpy as np

from tent_sglang.lines import Lines

ENTRIES, PARTS = 4, 3


def vector(first: int, count: int) -> np.ndarray:
    return np.arange(first, first + count)


class Pool:
    """Pages of four slots and three parts; counts the pages that it was asked about."""

    def __init__(self) -> None:
        self.base, self.asked = 10_000, 0

    def meta(self, indices):
        first = [int(i) for i in indices][::ENTRIES]
        self.asked += len(first)
        return [self.base + part * 4096 + slot * 32 for slot in first for part in range(PARTS)], [128] * (
            len(first) * PARTS
        )


def addresses(pool: Pool, pages: list[int]):
    return np.array(pool.meta(np.concatenate([vector(p * ENTRIES, ENTRIES) for p in pages]))[0]).reshape(
        -1, PARTS
    )


def test_they_agree_and_only_two_pages_are_asked_about():
    pool = Pool()
    lines = Lines.find(pool.meta, ENTRIES, PARTS, vector)
    assert lines is not None
    pages = [7, 0, 900, 3]
    wanted, pool.asked = addresses(pool, pages), 0
    indices = np.concatenate([vector(p * ENTRIES, ENTRIES) for p in pages])
    assert (lines.addresses(indices, ENTRIES, pool.meta) == wanted).all()
    assert pool.asked == 2


def test_a_pool_that_has_moved_is_noticed():
    pool = Pool()
    lines = Lines.find(pool.meta, ENTRIES, PARTS, vector)
    pool.base += 64
    assert lines.addresses(vector(0, ENTRIES), ENTRIES, pool.meta) is None


def test_a_pool_that_has_no_second_page_or_steps_unevenly_has_no_line():
    def short(indices):
        raise ValueError("out of range")

    assert Lines.find(short, ENTRIES, PARTS, vector) is None
    assert Lines.find(lambda indices: ([0, 0, 0, 33, 32, 32], [1] * 6), ENTRIES, PARTS, vector) is None
