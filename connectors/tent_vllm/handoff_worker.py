"""Prefill/decode hand-off, the worker's side: offers this rank's blocks, and pulls those of others into its own.

`perform`, `results` and `close` are for vLLM's worker thread and do not wait; the work is done by a few threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tent_core.errors import TentError
from tent_core.handoff import Handoff

from .guard import Guard
from .handoff_plan import HandoffPlan, Offered, Wanted, form_under
from .layout import PageLayout

_THREADS = 4


class HandoffWorker:
    def __init__(
        self,
        engine: Callable[[], Any],
        layout: PageLayout,
        form: bytes,
        guard: Guard,
        *,
        rank: int,
        lease: float,
        timeout: float,
        weights: Callable[[], str] = lambda: "",
    ) -> None:
        """`engine`: the one in which the KV caches are registered, or None as long as there is none; asked on vLLM's
        thread. `form`: what lies in a block. `lease`: seconds that blocks wait for their consumer; `timeout`: that a
        pull may take. `weights`: the version of those that this worker computes with now."""
        self._engine = engine
        self._layout = layout
        self._form = form
        self._weights = weights
        self._guard = guard
        self._rank = rank
        self._lease = lease
        self._timeout = timeout
        self._handoff: Handoff | None = None
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="tent-handoff")
        self._lock = threading.Lock()
        self._open: dict[bytes, str] = {}
        self._sent: set[str] = set()
        self._received: set[str] = set()
        self._failed: set[int] = set()
        self._reported: set[int] = set()
        self._pulling: set[Any] = set()

    # ---- vLLM's thread

    def perform(self, plan: HandoffPlan) -> None:
        handoff = self._ready()
        for offered in plan.offers:
            with self._lock:
                self._open[offered.names[self._rank]] = offered.req_id
            if handoff is None:
                self._over(offered.names[self._rank])
            else:
                self._pool.submit(self._offer, handoff, offered)
        for wanted in plan.pulls:
            if handoff is None:
                self._arrived(wanted, set(wanted.blocks.tolist()))
            else:
                self._pool.submit(self._pull, handoff, wanted)
        for tickets in plan.declined:
            if handoff is not None:
                self._pool.submit(self._decline, handoff, tickets[self._rank])

    def results(self) -> tuple[set[str], set[str]]:
        """(requests whose blocks are no longer needed, requests whose blocks are here or will not come), each once.
        What did not come of these is what `take_failed` says next."""
        handoff = self._handoff
        if handoff is not None and self._open:
            for offer in handoff.look():
                self._guard.count(f"handoff.{offer.how}")
                self._over(offer.name)
        with self._lock:
            found = self._sent, self._received
            self._reported |= self._failed
            self._sent, self._received, self._failed = set(), set(), set()
        return found

    def take_failed(self) -> set[int]:
        """Blocks that did not come, of the requests that `results` has reported; once."""
        failed, self._reported = self._reported, set()
        return failed

    def close(self) -> None:
        """Takes every offer back, and ends every pull. The KV caches are touched no more when this returns."""
        with self._lock:
            pulling, names = list(self._pulling), list(self._open)
        for pull in pulling:
            pull.cancel()
        handoff = self._handoff
        if handoff is not None:
            for name in names:
                handoff.abort(name)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _ready(self) -> Handoff | None:
        if self._handoff is None:
            engine = self._engine()
            if engine is not None:
                self._handoff = Handoff(engine, lease=self._lease)
        return self._handoff

    # ---- our threads

    def _ranges(self, blocks: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Block by block, part by part."""
        return self._layout.addresses(blocks).ravel(), np.tile(self._layout.lengths, len(blocks))

    def _offer(self, handoff: Handoff, offered: Offered) -> None:
        name = offered.names[self._rank]
        try:
            at, lengths = self._ranges(offered.blocks)
            handoff.offer(at, lengths, name=name, form=form_under(self._form, self._weights()))
        except Exception as fault:
            self._guard.count("handoff.offer_faults")
            self._guard.warn("offer", "a request's blocks cannot be offered: %s", str(fault))
            self._over(name)

    def _pull(self, handoff: Handoff, wanted: Wanted) -> None:
        lost, weights = set(wanted.blocks.tolist()), self._weights()
        try:
            at, lengths = self._ranges(wanted.blocks)
            parts = len(self._layout.lengths)
            which = np.arange(len(at)) + wanted.first * parts
            pull = handoff.prepare(
                wanted.tickets[self._rank],
                at,
                lengths,
                parts=which,
                form=form_under(self._form, weights),
                priority="interactive",
            )
            with self._lock:
                self._pulling.add(pull)
            try:
                result = pull.run(self._timeout)
            finally:
                with self._lock:
                    self._pulling.discard(pull)
            self._guard.count("handoff.bytes", result.bytes)
            self._guard.count("handoff.microseconds", int(result.seconds * 1e6))
            if weights == self._weights():  # else the request would go on from another model's cache
                lost = set()
        except Exception as fault:
            self._guard.count(f"handoff.pull.{fault.code if isinstance(fault, TentError) else 'faults'}")
            self._guard.warn(
                "pull", "a request's blocks did not come from its prefill server: %s", str(fault)
            )
        finally:
            self._arrived(wanted, lost)

    def _decline(self, handoff: Handoff, ticket: str) -> None:
        try:
            handoff.refuse(ticket)
        except Exception as fault:
            self._guard.count("handoff.decline_faults")
            self._guard.warn("decline", "a prefill server waits for its lease to end: %s", str(fault))

    def _over(self, name: bytes) -> None:
        with self._lock:
            req_id = self._open.pop(name, None)
            if req_id is not None:
                self._sent.add(req_id)

    def _arrived(self, wanted: Wanted, lost: set[int]) -> None:
        with self._lock:
            self._received.add(wanted.req_id)
            self._failed |= lost


__all__ = ["HandoffWorker"]
