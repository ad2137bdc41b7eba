"""Intents, and the transfers that they become."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tent_core.errors import TentError, error_for_code
from tent_core.segments import RemoteSegment

if TYPE_CHECKING:
    from tent_core.engine import Engine, Peer

__all__ = ["Indices", "Intent", "Transfer", "TransferResult"]

Indices = int | Sequence[int] | npt.NDArray[Any]


@dataclass
class Intent:
    """What bytes you want where: an ordered list of ranges, served in that order.

    Shapes: ``local`` (absolute addresses inside registered segments) and ``remote_offset`` have N entries;
    ``remote_segment`` and ``length`` one or N; ``group``, ``checks`` and ``epoch`` N, if given. Units: bytes;
    ``deadline`` in seconds from now (default: ``engine.deadline_ms``). For a read the local side is the destination.
    """

    op: str
    peer: Peer
    local: Indices
    remote_segment: Indices | RemoteSegment
    remote_offset: Indices
    length: Indices
    group: Indices | None = None
    checks: Indices | None = None
    epoch: Indices | None = None
    alternatives: Any = None
    priority: str = "normal"
    deadline: float | None = None
    notify: bytes | None = None


class TransferResult(NamedTuple):
    """What a transfer that succeeded did: bytes moved, seconds it took, ranges (all of them complete)."""

    bytes: int
    seconds: float
    prefix: int


class Transfer:
    """A submitted intent. Keeps its memory registered until it is released, whatever you drop."""

    def __init__(self, engine: Engine, native: Any) -> None:
        self._engine = engine
        self._native = native

    @property
    def done(self) -> bool:
        """The result is known. The memory may still be in use by attempts that were given up: see ``released``."""
        return bool(self._native.done)

    def poll(self) -> bool:
        return self.done

    @property
    def released(self) -> bool:
        """Nothing of this transfer touches memory any more, at either end."""
        return bool(self._native.released)

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """Per range: 0 pending, 1 ok, 2 failed, 3 cancelled."""
        array: npt.NDArray[np.uint8] = self._native.status
        return array

    @property
    def errors(self) -> dict[int, TentError]:
        return {index: error_for_code(code, message) for index, code, message in self._native.errors}

    @property
    def prefix(self) -> int:
        """How many ranges are complete from the front."""
        return int(self._native.prefix)

    @property
    def groups_done(self) -> npt.NDArray[np.bool_]:
        array: npt.NDArray[np.bool_] = self._native.groups_done
        return array

    @property
    def bytes(self) -> int:
        return int(self._native.bytes)

    @property
    def seconds(self) -> float:
        return float(self._native.seconds)

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until done or ``timeout``. A time-out ends nothing: only ``cancel()`` or the deadline does."""
        return bool(self._native.wait(timeout))

    def wait_released(self, timeout: float | None = None) -> bool:
        return bool(self._native.wait_released(timeout))

    def result(self, timeout: float | None = None) -> TransferResult:
        """Waits, then returns what was done or raises the first error."""
        if not self.wait(timeout):
            raise error_for_code("deadline", "the transfer is not done yet (result() timed out; it goes on)")
        code, message = self._native.result
        if code != "ok":
            raise error_for_code(code, message)
        return TransferResult(self.bytes, self.seconds, self.prefix)

    def cancel(self) -> bool:
        """Gives up what is not done yet. True if this call ended it; a completion wins the race."""
        return bool(self._native.cancel())

    def set_priority(self, priority: str) -> None:
        self._native.set_priority(priority)

    def fileno(self) -> int:
        """An eventfd that is readable once the transfer is done. Owned by the transfer."""
        return int(self._native.fileno())

    def add_done_callback(self, callback: Callable[[Transfer], None]) -> None:
        """Calls ``callback(transfer)`` on the engine's notifier thread once done (at once if it is already)."""
        self._engine._add_callback(self, callback)

    def __await__(self) -> Generator[Any, None, TransferResult]:
        if not self.done:
            loop = asyncio.get_running_loop()
            ready: asyncio.Future[None] = loop.create_future()
            descriptor = self.fileno()

            def wake() -> None:
                loop.remove_reader(descriptor)
                if not ready.done():
                    ready.set_result(None)

            loop.add_reader(descriptor, wake)
            try:
                yield from ready.__await__()
            finally:
                loop.remove_reader(descriptor)
        return self.result(0)

    def __repr__(self) -> str:
        state = "released" if self.released else "done" if self.done else "pending"
        return f"<Transfer {self._native.id} {self.bytes} bytes {state}>"
