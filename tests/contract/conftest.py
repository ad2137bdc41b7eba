"""One suite over every way to reach memory. The ways come from the engine's own table of capabilities."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.reach import World, reaches


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        ways = reaches()
        metafunc.parametrize("world", ways, ids=[reach.name for reach in ways], indirect=True, scope="module")


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(request.param)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def w(world: World) -> Iterator[World]:
    """The world of this module, tidied after each test."""
    yield world
    world.tidy()
