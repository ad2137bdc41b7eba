"""Which prefixes can be restored, against a definition written the slow way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tent_sglang.policy import boundary, leading, restorable_all, restorable_trailing

PATTERNS = [np.array(bits, dtype=np.bool_) for n in range(7) for bits in itertools.product((0, 1), repeat=n)]


def test_leading_counts_up_to_the_first_gap():
    for present in PATTERNS:
        expected = list(present).index(False) if False in list(present) else len(present)
        assert leading(present) == expected


def test_all_pages_needs_every_page_of_the_prefix():
    for present in PATTERNS:
        expected = [bool(all(present[:n])) for n in range(1, len(present) + 1)]
        assert restorable_all(present).tolist() == expected


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_trailing_pages_needs_the_last_ones_only(window):
    for present in PATTERNS:
        expected = [bool(all(present[max(0, n - window) : n])) for n in range(1, len(present) + 1)]
        assert restorable_trailing(present, window).tolist() == expected


def test_a_window_has_at_least_one_page():
    with pytest.raises(ValueError, match="at least one page"):
        restorable_trailing(np.ones(3, dtype=np.bool_), 0)


def test_boundary_is_the_longest_restorable_prefix():
    assert boundary(np.array([], dtype=np.bool_)) == 0
    assert boundary(np.array([False, False])) == 0
    assert boundary(np.array([True, False, True, False])) == 3
