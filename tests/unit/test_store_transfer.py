"""A submitted store operation: done is one thing, released another."""

from __future__ import annotations

import threading

import numpy as np

from tent_core.store.reason import PageStatus
from tent_core.store.transfer import Control, Workers


class Stuck:
    """An engine transfer that was cancelled and whose last attempt is not fenced yet."""

    def __init__(self) -> None:
        self.fenced = threading.Event()

    def cancel(self) -> bool:
        return True

    @property
    def released(self) -> bool:
        return self.fenced.is_set()

    def wait_released(self, timeout: float | None = None) -> bool:
        return self.fenced.wait(timeout)


def test_memory_is_given_back_only_when_every_attempt_is_fenced() -> None:
    workers, stuck = Workers(1, "test"), Stuck()

    def operation(control: Control) -> np.ndarray:
        control.add(stuck)
        return np.full(2, PageStatus.DEADLINE, dtype=np.uint8)

    transfer = workers.submit(2, operation)
    try:
        assert transfer.wait(10)
        assert transfer.status.tolist() == [PageStatus.DEADLINE] * 2
        assert not transfer.released
        stuck.fenced.set()
        assert transfer.wait_released(10)
    finally:
        stuck.fenced.set()
        workers.close()
