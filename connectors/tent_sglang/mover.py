"""Batches of pages between SGLang's memory and the store, within the time that SGLang gives them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tent_core.store import PageStatus

from .guard import Guard
from .rates import Rates
from .settings import Settings

# How often a waiting transfer looks whether SGLang wants its thread back, seconds.
_STOP_POLL = 0.05

Op = Literal["get", "set"]


class Mover:
    """Runs one store transfer a call and accounts for it. Thread-safe; raises what the store raises."""

    def __init__(self, store: Any, settings: Settings, guard: Guard) -> None:
        self._store: Any = store
        self._timeout = {"get": settings.get_timeout_ms / 1000, "set": settings.put_timeout_ms / 1000}
        self._guard = guard
        self._stop: threading.Event | None = None
        self.reads, self.writes = Rates(), Rates()

    def follow(self, stop: threading.Event) -> None:
        """While `stop` is set, transfers are cut short and new ones are misses."""
        self._stop = stop

    def release(self) -> None:
        """Lets go of the store, which is closed."""
        self._store = None

    def present(self, namespace: Any, keys: Sequence[str], page_bytes: int) -> npt.NDArray[np.bool_]:
        """Per key, whether a page of this length is in the store."""
        if not keys or self._stopping():
            return np.zeros(len(keys), dtype=np.bool_)
        lookup = self._store.lookup(namespace, encode(keys), lengths=page_bytes)
        try:
            found: npt.NDArray[np.bool_] = np.asarray(lookup.status) == PageStatus.HIT
        finally:
            lookup.release()
        self._guard.count("exists.pages_found", int(found.sum()))
        self._guard.count("exists.pages_asked", len(keys))
        return found

    def move(
        self, op: Op, namespace: Any, keys: Sequence[str], addresses: npt.NDArray[np.uint64], lengths: Any
    ) -> list[bool]:
        """One batch read ("get") or write ("set"). Per page whether it worked; a page stored already did.

        `addresses`: [pages, parts] or [pages], in registered memory. `lengths`: bytes of each part. On return no
        attempt of this batch touches that memory any more, whatever the outcome.
        """
        if self._stopping():
            self._guard.count(f"{op}.pages_stopped", len(keys))
            return [False] * len(keys)
        submit = self._store.submit_get if op == "get" else self._store.submit_put
        started = time.monotonic()
        transfer = submit(namespace, encode(keys), addresses, lengths, timeout=self._timeout[op])
        while not transfer.wait(_STOP_POLL):
            if self._stopping():
                transfer.cancel()
        transfer.wait_released(None)
        seconds = time.monotonic() - started
        return self._account(op, np.asarray(transfer.status), int(np.sum(lengths)), seconds)

    def _account(self, op: Op, status: npt.NDArray[np.uint8], page_bytes: int, seconds: float) -> list[bool]:
        wanted = PageStatus.HIT if op == "get" else PageStatus.STORED
        moved = int(np.count_nonzero(status == wanted))
        (self.reads if op == "get" else self.writes).add(moved, moved * page_bytes, seconds)
        self._guard.count(f"{op}.pages", moved)
        self._guard.count(f"{op}.bytes", moved * page_bytes)
        done = status == wanted
        if op == "set":
            present = status == PageStatus.PRESENT
            self._guard.count("set.pages_present", int(np.count_nonzero(present)))
            done |= present
        if not done.all():
            self._explain(op, status[~done], len(done))
        return [bool(ok) for ok in done.tolist()]

    def _explain(self, op: Op, missed: npt.NDArray[np.uint8], of: int) -> None:
        codes, numbers = np.unique(missed, return_counts=True)
        reasons = {_reason(int(code)): int(number) for code, number in zip(codes, numbers, strict=True)}
        for reason, number in reasons.items():
            self._guard.count(f"{op}.miss.{reason}", number)
        why = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
        self._guard.warn(f"{op}:{why}", "%s: %d of %d pages missed (%s)", op, len(missed), of, why)

    def _stopping(self) -> bool:
        return self._stop is not None and self._stop.is_set()


def encode(keys: Sequence[str]) -> list[bytes]:
    """SGLang's page hashes as the store's keys."""
    return [key.encode() for key in keys]


def _reason(code: int) -> str:
    try:
        return str(PageStatus(code).name)
    except ValueError:
        return f"reason {code}"
