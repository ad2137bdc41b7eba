"""Test beds for tests: root is needed, and in CI it is there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tent_core.testbed import Testbed

__all__ = ["OWNER", "MakeBed", "make_bed"]

MakeBed = Callable[..., Testbed]
_numbers = itertools.count()

# An owner as a program: its arguments are settings and a size; it prints its descriptor and ends with its input.
OWNER = """
import base64, json, sys
from tent_core import Engine
with Engine(json.loads(sys.argv[1]), name="owner") as engine:
    segment = engine.allocate(int(sys.argv[2]), name="kv")
    print(base64.b64encode(engine.descriptor()).decode(), flush=True)
    sys.stdin.read()
"""


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
