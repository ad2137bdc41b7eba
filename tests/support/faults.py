"""Fault plans before the engines of a test: in test builds only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tent_core import _native
from tent_core.faults import FaultPlan

__all__ = ["can_inject", "injected"]


def can_inject() -> bool:
    return _native.TEST_SWITCHES


@contextmanager
def injected(plan: FaultPlan | Mapping[str, Any] | None) -> Iterator[None]:
    """Engines made inside are given the plan; None: none."""
    if plan is None:
        yield
        return
    assert can_inject(), "this build injects no faults: build with -DTENT_TEST_SWITCHES=ON"
    faults = FaultPlan.load(plan).native()
    made = _native.NativeEngine

    def make(settings: dict[str, Any]) -> _native.NativeEngine:
        return made({**settings, "test.faults": faults})

    _native.NativeEngine = make  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        _native.NativeEngine = made  # type: ignore[misc]
