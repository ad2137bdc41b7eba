"""Test beds for tests: root is needed, and in CI it is there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tent_core.testbed import Testbed

__all__ = ["MakeBed", "make_bed"]

MakeBed = Callable[..., Testbed]
_numbers = itertools.count()


@pytest.fixture
def make_bed() -> Iterator[MakeBed]:
    """Makes beds that are taken away after the test."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    beds: list[Testbed] = []

    def make(*rates: float, **options: int) -> Testbed:
        name = f"t{os.getpid() % 100000}n{next(_numbers)}"
        beds.append(Testbed.up(rates, name=name, **options))
        return beds[-1]

    yield make
    for bed in beds:
        bed.down()
