"""Batches of pages between SGLang's memory and the store, within the time that SGLang gives them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
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
Statuses = npt.NDArray[np.uint8]
_DONE = {
    "get": np.array([PageStatus.HIT], np.uint8),
    "set": np.array([PageStatus.STORED, PageStatus.PRESENT], np.uint8),
}


class Mover:
    """Runs one store transfer a call and accounts for it. Thread-safe; raises what the store raises.

    A page may be stored in several pieces, each by a name of its own: then `pieces` consecutive names are a page, and
    the worst of their statuses is its status.
    """

    def __init__(self, store: Any, settings: Settings, guard: Guard) -> None:
        self._store: Any = store
        self._timeout = {"get": settings.get_timeout_ms / 1000, "set": settings.put_timeout_ms / 1000}
        self._guard = guard
        self._stop: threading.Event | None = None
        self.reads, self.writes = Rates(), Rates()
        self.tell: Callable[[dict[str, Any]], None] = lambda record: None
        """Hears of every batch that was read."""

    def follow(self, stop: threading.Event) -> None:
        """While `stop` is set, transfers are cut short and new ones are misses."""
        self._stop = stop

    def release(self) -> None:
        """Lets go of the store, which is closed."""
        self._store = None

    def find(
        self, namespace: Any, names: Sequence[bytes], piece_bytes: int, pieces: int = 1, *, pin_ms: int = 0
    ) -> tuple[Statuses, float]:
        """Per page whether it is in the store in this length (HIT, or why not); seconds that loading the hits takes.

        `pin_ms`: owners keep what was found for so long.
        """
        if not names or self._stopping():
            return np.full(len(names) // pieces, PageStatus.CANCELLED, dtype=np.uint8), 0.0
        lookup = self._store.lookup(namespace, names, lengths=piece_bytes, pin_ms=pin_ms)
        try:
            status = _pages(np.asarray(lookup.status), pieces)
            seconds = float(self._store.predict_get(lookup)) if (status == PageStatus.HIT).any() else 0.0
        finally:
            lookup.release()
        self._guard.count("exists.pages_found", int(np.count_nonzero(status == PageStatus.HIT)))
        self._guard.count("exists.pages_asked", len(status))
        for reason, number in _reasons(status[status != PageStatus.HIT]).items():
            self._guard.count(f"exists.miss.{reason}", number)
        return status, seconds

    def move(
        self,
        op: Op,
        namespace: Any,
        names: Sequence[bytes],
        addresses: npt.NDArray[np.uint64],
        lengths: Any,
        *,
        pieces: int = 1,
        within: float | None = None,
    ) -> list[bool]:
        """One batch read ("get") or write ("set"). Per page whether it worked; a page stored already did.

        `addresses`: [names, parts] or [names], in registered memory. `lengths`: bytes of each part. `within`: seconds,
        when that is less than the setting allows. On return no attempt of this batch touches that memory any more,
        whatever the outcome.
        """
        if self._stopping():
            self._guard.count(f"{op}.pages_stopped", len(names) // pieces)
            return [False] * (len(names) // pieces)
        started = time.monotonic()
        timeout = self._timeout[op] if within is None else min(within, self._timeout[op])
        if op == "get":
            status = self._run(self._store.submit_get, namespace, names, addresses, lengths, timeout)
        else:
            status = self._put(namespace, names, addresses, lengths, timeout)
        seconds = time.monotonic() - started
        return self._account(op, _pages(status, pieces), pieces * int(np.sum(lengths)), seconds)

    def _put(
        self, namespace: Any, names: Sequence[bytes], addresses: Any, lengths: Any, timeout: float
    ) -> Statuses:
        """What somebody has already is not copied to be thrown away."""
        status = np.asarray(self._store.held(namespace, names, lengths=int(np.sum(lengths)))).copy()
        missing = np.flatnonzero(status != PageStatus.PRESENT)
        if len(missing):
            some = names if len(missing) == len(names) else [names[row] for row in missing.tolist()]
            status[missing] = self._run(
                self._store.submit_put, namespace, some, addresses[missing], lengths, timeout
            )
        return status

    def _run(
        self,
        submit: Any,
        namespace: Any,
        names: Sequence[bytes],
        addresses: Any,
        lengths: Any,
        timeout: float,
    ) -> Statuses:
        transfer = submit(namespace, names, addresses, lengths, timeout=timeout)
        while not transfer.wait(_STOP_POLL):
            if self._stopping():
                transfer.cancel()
        transfer.wait_released(None)
        return np.asarray(transfer.status)

    def _account(self, op: Op, status: Statuses, page_bytes: int, seconds: float) -> list[bool]:
        if op == "get" and not status.any():
            # All of them HIT, which is 0: the common case.
            done, moved, reasons = np.ones(len(status), np.bool_), len(status), {}
        else:
            done = np.isin(status, _DONE[op])
            moved = int(np.count_nonzero(status == (PageStatus.HIT if op == "get" else PageStatus.STORED)))
            reasons = _reasons(status[~done])
        (self.reads if op == "get" else self.writes).add(moved, moved * page_bytes, seconds)
        self._guard.count(f"{op}.pages", moved)
        self._guard.count(f"{op}.bytes", moved * page_bytes)
        if op == "set":
            self._guard.count("set.pages_present", int(np.count_nonzero(status == PageStatus.PRESENT)))
        if reasons:
            self._explain(op, reasons, len(done))
        if op == "get":
            record = {"did": "load", "asked": len(done), "given": moved, "took_s": round(seconds, 4)}
            self.tell({**record, "missed": reasons})
        answers: list[bool] = done.tolist()
        return answers

    def _explain(self, op: Op, reasons: dict[str, int], of: int) -> None:
        for reason, number in reasons.items():
            self._guard.count(f"{op}.miss.{reason}", number)
        why = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
        self._guard.warn(f"{op}:{why}", "%s: %d of %d pages missed (%s)", op, sum(reasons.values()), of, why)

    def _stopping(self) -> bool:
        return self._stop is not None and self._stop.is_set()


def _pages(status: Statuses, pieces: int) -> Statuses:
    """From pieces to pages: misses have the larger numbers."""
    if pieces == 1:
        return status
    worst: Statuses = status.reshape(-1, pieces).max(axis=1)
    return worst


def _reasons(missed: Statuses) -> dict[str, int]:
    """How many pages missed for which reason."""
    codes, numbers = np.unique(missed, return_counts=True)
    return {reason_of(int(code)): int(number) for code, number in zip(codes, numbers, strict=True)}


def encode(keys: Sequence[str]) -> list[bytes]:
    """SGLang's page hashes as the store's keys."""
    return [key.encode() for key in keys]


def reason_of(code: int) -> str:
    """The name of a status, or its number when it is a newer store's."""
    try:
        return str(PageStatus(code).name)
    except ValueError:
        return f"reason {code}"
