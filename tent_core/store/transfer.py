"""Puts and gets that run beside the caller: a handle, a bounded queue and a few threads."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from tent_core.errors import TentError
from tent_core.store.batch import Statuses
from tent_core.store.reason import PageStatus, status_of_code

__all__ = ["Control", "StoreTransfer", "Workers"]

log = logging.getLogger("tent.store")
_QUEUE = 256  # operations that wait; one more is REFUSED
_LAST_WAIT_S = 60.0  # far beyond every fence
_MOVED = (PageStatus.HIT, PageStatus.STORED, PageStatus.PRESENT)


class Running(Protocol):
    def cancel(self) -> bool: ...
    @property
    def released(self) -> bool: ...
    def wait_released(self, timeout: float | None = None) -> bool: ...


class Control:
    """Passes a cancellation on to the engine transfers of a running operation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[Running] = []
        self.cancelled = False

    def add(self, transfer: Running) -> None:
        with self._lock:
            self._running.append(transfer)
            cancelled = self.cancelled
        if cancelled:
            transfer.cancel()

    def cancel(self) -> None:
        with self._lock:
            self.cancelled = True
            running = list(self._running)
        for transfer in running:
            transfer.cancel()

    @property
    def released(self) -> bool:
        """Nothing of it touches memory any more."""
        with self._lock:
            return all(transfer.released for transfer in self._running)

    def wait_released(self, timeout: float) -> bool:
        """Waits up to ``timeout`` seconds for each of its engine transfers."""
        with self._lock:
            running = list(self._running)
        return all([transfer.wait_released(timeout) for transfer in running])


class StoreTransfer:
    """A submitted put or get. Keeps nothing of the caller's alive: the memory must stay until ``wait_released``."""

    def __init__(self, count: int, let_go: Callable[[], None]) -> None:
        """``let_go`` is called once, when nothing of it touches memory any more."""
        self._status: Statuses = np.full(count, PageStatus.PENDING, dtype=np.uint8)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._free = threading.Event()
        self._let_go = let_go
        self._callbacks: list[Callable[[StoreTransfer], None]] = []
        self._control = Control()
        self._started = False

    @property
    def done(self) -> bool:
        """Every page has its status."""
        return self._ended.is_set()

    @property
    def status(self) -> Statuses:
        """PageStatus per page, PENDING until decided. A copy."""
        with self._lock:
            return self._status.copy()

    @property
    def prefix(self) -> int:
        """How many pages from the front are in place."""
        moved = np.isin(self.status, _MOVED)
        return len(moved) if moved.all() else int(np.argmin(moved))

    @property
    def released(self) -> bool:
        """Nothing of it touches the caller's memory any more."""
        return self._free.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until done or ``timeout`` (seconds; None: as long as it takes). A time-out ends nothing."""
        return self._ended.wait(timeout)

    def wait_released(self, timeout: float | None = None) -> bool:
        return self._free.wait(timeout)

    def cancel(self) -> bool:
        """Gives up what is not done. True unless it had ended. Idempotent; a completion wins the race."""
        if self.done:
            return False
        self._control.cancel()
        with self._lock:
            if self._started:
                return True
            self._started = True
        self._finish(np.full(len(self._status), PageStatus.CANCELLED, dtype=np.uint8))
        self._release()
        return True

    def add_done_callback(self, callback: Callable[[StoreTransfer], None]) -> None:
        """Calls ``callback(transfer)`` once done, on one of the store's threads (at once if it is done already)."""
        with self._lock:
            if not self.done:
                self._callbacks.append(callback)
                return
        _call(callback, self)

    def _release(self) -> None:
        self._let_go()
        self._free.set()

    def _begin(self) -> bool:
        with self._lock:
            if self._started:
                return False
            self._started = True
            return True

    def _finish(self, status: Statuses) -> None:
        with self._lock:
            self._status = status
            callbacks, self._callbacks = self._callbacks, []
            self._ended.set()
        for callback in callbacks:
            _call(callback, self)

    def __repr__(self) -> str:
        return f"<StoreTransfer {len(self._status)} pages, {'done' if self.done else 'pending'}>"


def _call(callback: Callable[[StoreTransfer], None], transfer: StoreTransfer) -> None:
    try:
        callback(transfer)
    except Exception:
        log.exception("a done callback of %r failed", transfer)


Operation = Callable[[Control], Statuses]


class Workers:
    """Threads that run submitted operations in order of submission. Joined by ``close``."""

    def __init__(self, count: int, name: str) -> None:
        self._queue: queue.Queue[tuple[StoreTransfer, Operation] | None] = queue.Queue(_QUEUE)
        self._lock = threading.Lock()
        self._closed = False
        self._live: set[StoreTransfer] = set()
        self._threads = [
            threading.Thread(target=self._work, name=f"tent-{name}-{i}", daemon=True) for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, count: int, operation: Operation, let_go: Callable[[], None] = lambda: None
    ) -> StoreTransfer:
        """Never blocks: with a full queue, or after ``close``, the transfer has ended with REFUSED or CLOSED."""
        transfer = StoreTransfer(count, let_go)
        refused = PageStatus.CLOSED
        with self._lock:
            if not self._closed:
                try:
                    self._queue.put_nowait((transfer, operation))
                    self._live.add(transfer)
                    return transfer
                except queue.Full:
                    refused = PageStatus.REFUSED
        transfer._finish(np.full(count, refused, dtype=np.uint8))
        transfer._release()
        return transfer

    def close(self) -> None:
        """Cancels what has not ended, and joins the threads."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            live = list(self._live)
        for transfer in live:
            transfer.cancel()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            transfer, operation = item
            if transfer._begin():
                self._run(transfer, operation)
            with self._lock:
                self._live.discard(transfer)
            del item, transfer, operation

    def _run(self, transfer: StoreTransfer, operation: Operation) -> None:
        status: Any
        try:
            status = operation(transfer._control)
        except TentError as error:  # most of the caller's mistakes were raised at submit already
            log.warning("a submitted operation was refused: %s", str(error))
            status = np.full(len(transfer._status), status_of_code(error.code), dtype=np.uint8)
        except Exception:
            log.exception("a submitted operation failed")
            status = np.full(len(transfer._status), PageStatus.INTERNAL, dtype=np.uint8)
        # An operation waits for its engine transfers to be released, but not for ever.
        if transfer._control.released:
            transfer._release()
            transfer._finish(status)
            return
        transfer._finish(status)
        if transfer._control.wait_released(_LAST_WAIT_S):
            transfer._release()
        else:
            log.critical("%r is not released: its memory must not be used again", transfer)
