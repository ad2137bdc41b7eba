"""A page store in memory for the vLLM harness: it copies late, fails and garbles on request, and forgets nothing.

Nothing moves before somebody waits for or asks after a transfer, and then after as many questions as the test says; so
a copy out of a block happens as late as a real one might, and whoever reuses the block too early is found out.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tent_core.store.reason import PageStatus

_GARBAGE = 0x5A


class Namespace:
    def __init__(self, fields: dict[str, str]) -> None:
        self.digest = repr(sorted(fields.items())).encode()


class Found:
    """A look-up's answer; counts as a pin until it is released."""

    def __init__(self, store: MemoryStore, status: Any) -> None:
        self.status = status
        self._store = store
        store.pins += 1

    def release(self) -> None:
        self._store.pins -= 1


class MemoryTransfer:
    def __init__(self, store: MemoryStore, run: Any, count: int, *, put: bool = False) -> None:
        self.status = np.full(count, PageStatus.PENDING, dtype=np.uint8)
        self._store = store
        self._run = run
        self._left = store.patience
        self._stubborn = store.stubborn and put
        store.running.append(self)

    def _step(self) -> None:
        if self._left > 0:
            self._left -= 1
        elif self._pending:
            self._run(self.status)
            self._store.running.remove(self)

    @property
    def _pending(self) -> bool:
        return bool((self.status == PageStatus.PENDING).any())

    @property
    def done(self) -> bool:
        self._step()
        return not self._pending

    def wait(self, timeout: float | None = None) -> bool:
        """Time does not pass here: a wait is one question, and a synchronous load's wait is all of them."""
        for _ in range(1 if timeout is not None and timeout < 1 else 1000):
            self._step()
        return not self._pending

    def cancel(self) -> bool:
        if not self._pending:
            return False
        if self._stubborn:
            return True
        self.status[self.status == PageStatus.PENDING] = PageStatus.CANCELLED
        self._store.running.remove(self)
        return True

    def wait_released(self, timeout: float | None = None) -> bool:
        return not self._pending


class NoEngine:
    """In the place of the engine that moves bytes of hand-offs, of which there are none here."""

    def descriptor(self) -> bytes:
        return b"nobody"


class MemoryStore:
    """What the connector uses of `tent_core.store.PageStore`."""

    def __init__(self) -> None:
        self.engine = NoEngine()
        self.pages: dict[tuple[bytes, bytes], bytes] = {}
        self.pins = 0
        self.running: list[MemoryTransfer] = []
        self.lose = 0
        """So many pages of the coming gets come as garbage."""
        self.patience = 0
        """So many questions a transfer made from now on answers with "not yet"."""
        self.stubborn = False
        """Puts that are cancelled copy all the same, later: it had begun when the cancellation came."""
        self.moved = {"get": 0, "put": 0, "lost": 0, "unstable": 0}

    def namespace(self, fields: dict[str, str], *, model: str = "") -> Namespace:
        return Namespace(fields)

    def register(self, region: Any) -> Any:
        class Segment:
            def close(self) -> None: ...

        return Segment()

    def generation(self, namespace: Namespace) -> int:
        return 0

    def saw_generation(self, namespace: Namespace, generation: int) -> None: ...

    def predict_get(self, found: Any) -> float:
        return 0.0

    def clear(self, namespace: Namespace) -> None:
        self.pages = {key: page for key, page in self.pages.items() if key[0] != namespace.digest}

    def close(self) -> None: ...

    def lookup(self, namespace: Namespace, keys: list[bytes], *, lengths: Any, pin_ms: int) -> Found:
        there = [(namespace.digest, key) in self.pages for key in keys]
        status = np.where(there, np.uint8(PageStatus.HIT), np.uint8(PageStatus.ABSENT))
        return Found(self, np.asarray(status, dtype=np.uint8))

    def submit_get(
        self, namespace: Namespace, keys: list[bytes], addresses: Any, lengths: Any, **_: Any
    ) -> MemoryTransfer:
        def run(status: Any) -> None:
            for i, key in enumerate(keys):
                page = self.pages.get((namespace.digest, key))
                lost = self.lose > 0 or page is None
                self.lose -= self.lose > 0
                at = 0
                for address, length in zip(addresses[i], lengths, strict=True):
                    if lost:
                        ctypes.memset(int(address), _GARBAGE, int(length))
                    else:
                        assert page is not None
                        ctypes.memmove(int(address), page[at : at + int(length)], int(length))
                    at += int(length)
                status[i] = PageStatus.CHECK_FAILED if lost else PageStatus.HIT
                self.moved["lost" if lost else "get"] += 1

        return MemoryTransfer(self, run, len(keys))

    def submit_put(
        self,
        namespace: Namespace,
        keys: list[bytes],
        addresses: Any,
        lengths: Any,
        *,
        token: Any,
        timeout: float,
    ) -> MemoryTransfer:
        before = [ctypes.c_uint64.from_address(int(address)).value for address in token]

        def run(status: Any) -> None:
            for i, key in enumerate(keys):
                page = b"".join(
                    ctypes.string_at(int(a), int(n)) for a, n in zip(addresses[i], lengths, strict=True)
                )
                if ctypes.c_uint64.from_address(int(token[i])).value != before[i]:
                    status[i] = PageStatus.UNSTABLE
                    self.moved["unstable"] += 1
                elif (namespace.digest, key) in self.pages:
                    status[i] = PageStatus.PRESENT
                else:
                    self.pages[namespace.digest, key] = page
                    status[i] = PageStatus.STORED
                    self.moved["put"] += 1

        return MemoryTransfer(self, run, len(keys), put=True)
