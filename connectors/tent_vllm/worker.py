"""The worker's side: moves the pages of each step between vLLM's blocks and the store.

Loads are one intent into the paged blocks, before the forward pass. Saves are one intent out of them, after it, under
way while vLLM samples and schedules. What keeps a save honest: before a step writes to a block that a save still
reads, the save is waited for (briefly) or cancelled, and a counter that belongs to the block is bumped; the store
compares that counter before and after its copy.

Every call is made by vLLM's worker thread. None of them raises, and each one's time is bounded by the settings.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tent_core.store.reason import PageStatus

from .guard import log
from .handle import StoreHandle
from .layout import PageLayout
from .plan import StepPlan, StepReport
from .settings import Settings

# Fencing a read is local and takes as long as a slice's copy; this is where something is broken for good.
_RELEASE_S = 30


@dataclass
class _Save:
    transfer: Any
    blocks: NDArray[np.int64]
    deadline: float


class WorkerSide:
    def __init__(
        self,
        handle: StoreHandle,
        layout: PageLayout,
        fields: dict[str, str],
        settings: Settings,
        *,
        model: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`layout`: of the KV caches, which stay where they are until `close`. `fields`: the pages' namespace.
        `model`: what people call it."""
        self._handle = handle
        self._guard = handle.guard
        self._layout = layout
        self._fields = fields
        self._model = model
        self._settings = settings
        self._clock = clock
        self._store: Any = None
        self._namespace: Any = None
        self._segments: list[Any] = []
        self._owners = np.zeros(layout.blocks, dtype=np.uint64)
        self._saves: deque[_Save] = deque()
        self._failed: set[int] = set()
        self._report: StepReport | None = None
        self._spoiled = -1
        self._prepared = 0
        self._halted = False

    # ---- before the forward pass

    def prepare(self, plan: StepPlan) -> None:
        """Before anything writes to the blocks of this step. Called once or more a step."""
        if plan.step == self._prepared:
            return
        self._prepared = plan.step
        # Failed unless shown otherwise: whatever goes wrong from here on, vLLM computes these.
        self._failed.update(plan.load_blocks.tolist())
        self._guard.run("reuse", lambda: self._let_go(plan.reused), lambda: None)

    def load(self, plan: StepPlan) -> None:
        """Brings the step's pages into their blocks. What did not come is in `take_failed`."""
        if len(plan.load_blocks):
            wanted = set(plan.load_blocks.tolist())
            lost = self._guard.run("load", lambda: self._load(plan), lambda: wanted)
            self._failed -= wanted - lost
            if lost:
                self._spoiled = max(self._spoiled, plan.epoch)

    def _load(self, plan: StepPlan) -> set[int]:
        """The blocks that did not come."""
        if len(plan.load_keys) != len(plan.load_blocks) or not self._ready():
            self._guard.count("load.not_ready", len(plan.load_blocks))
            return set(plan.load_blocks.tolist())
        started, timeout = self._clock(), self._settings.load_timeout_ms / 1000
        addresses = self._layout.addresses(plan.load_blocks)
        transfer = self._store.submit_get(
            self._namespace,
            plan.load_keys,
            addresses,
            self._layout.lengths,
            timeout=timeout,
            priority="interactive",
        )
        if not transfer.wait(timeout):
            self._guard.count("load.timeouts")
            transfer.cancel()
        # vLLM may be about to compute into these very blocks: nothing may land in them any more.
        if not transfer.wait_released(_RELEASE_S):
            self._halted = True
            log.critical(
                "a load was not released within %d s: TENT stores and loads nothing more", _RELEASE_S
            )
            return set(plan.load_blocks.tolist())
        status = np.asarray(transfer.status)
        came = status == PageStatus.HIT
        self._count("load", status, int(came.sum()) * self._layout.page_bytes, self._clock() - started)
        if not came.all():
            reasons = sorted({PageStatus(int(s)).name for s in status[~came]})
            self._guard.warn(
                "lost",
                "%d of %d pages did not come (%s): computed instead",
                int((~came).sum()),
                len(came),
                ", ".join(reasons),
            )
        return set(plan.load_blocks[~came].tolist())

    def _let_go(self, reused: NDArray[np.int64]) -> None:
        """No save reads these blocks when this returns, or it will be found out and dropped."""
        self._reap()
        if not len(reused):
            return
        until = self._clock() + self._settings.save_wait_ms / 1000
        for save in self._saves:
            if np.isin(save.blocks, reused).any() and not save.transfer.wait(max(0.0, until - self._clock())):
                save.transfer.cancel()
                self._guard.count("save.cancelled_for_reuse", len(save.blocks))
        self._owners[reused[reused < len(self._owners)]] += np.uint64(1)

    # ---- after it

    def save(self, plan: StepPlan) -> None:
        """Hands the step's full blocks to the store. Returns before they are there."""
        if plan.report:
            self._report = StepReport(plan.step, failed=bool(self._failed))
        if not len(plan.save_blocks):
            return
        if sys.exc_info()[0] is not None:
            # vLLM ends its steps in a finally clause: the forward pass broke off, and the blocks hold anything.
            self._guard.count("save.dropped_forward_failed", len(plan.save_blocks))
        else:
            self._guard.run("save", lambda: self._save(plan), lambda: None)

    def _save(self, plan: StepPlan) -> None:
        count = len(plan.save_blocks)
        self._reap()
        if plan.epoch <= self._spoiled:
            self._guard.count("save.dropped_after_failed_load", count)
        elif not self._ready():
            self._guard.count("save.not_ready", count)
        elif len(self._saves) >= self._settings.save_queue_steps:
            self._guard.count("save.dropped_queue_full", count)
        else:
            self._store.saw_generation(self._namespace, plan.generations.get(self._namespace.digest, 0))
            tokens = np.uint64(self._owners.ctypes.data) + plan.save_blocks.astype(np.uint64) * np.uint64(8)
            timeout = self._settings.save_timeout_ms / 1000
            transfer = self._store.submit_put(
                self._namespace,
                plan.save_keys,
                self._layout.addresses(plan.save_blocks),
                self._layout.lengths,
                token=tokens,
                timeout=timeout,
            )
            self._saves.append(_Save(transfer, plan.save_blocks, self._clock() + timeout))

    def _reap(self) -> None:
        """Takes note of saves that have ended; cancels those that are out of time."""
        left: deque[_Save] = deque()
        for save in self._saves:
            if save.transfer.done:
                status = np.asarray(save.transfer.status)
                self._count(
                    "save", status, int((status == PageStatus.STORED).sum()) * self._layout.page_bytes, 0.0
                )
                continue
            if self._clock() > save.deadline:
                save.transfer.cancel()
            left.append(save)
        self._saves = left

    # ---- what vLLM is told

    def take_failed(self) -> set[int]:
        """Blocks whose pages did not come, once."""
        failed, self._failed = self._failed, set()
        return failed

    def take_report(self) -> StepReport | None:
        report, self._report = self._report, None
        return report

    def close(self) -> None:
        """Ends the saves under way, within `shutdown_ms`, and gives the KV caches' registration back."""
        until = self._clock() + self._settings.shutdown_ms / 1000
        for save in self._saves:
            if not save.transfer.wait(max(0.0, until - self._clock())):
                save.transfer.cancel()
                save.transfer.wait_released(1.0)
        self._reap()
        for segment in self._segments:
            self._guard.run("close", segment.close, lambda: None)
        self._segments = []

    # ---- inside

    def _ready(self) -> bool:
        """Whether there is a store, with the KV caches registered in it."""
        store = self._handle.store
        if store is None or self._halted:
            return False
        if store is not self._store:
            namespace = store.namespace(self._fields, model=self._model)
            self._segments = [store.register(region) for region in self._layout.regions]
            self._namespace, self._store = namespace, store
            log.info(
                "KV caches registered: %d blocks of %d bytes", self._layout.blocks, self._layout.page_bytes
            )
        return True

    def _count(self, what: str, status: NDArray[np.uint8], nbytes: int, seconds: float) -> None:
        for reason, count in zip(*np.unique(status, return_counts=True), strict=True):
            self._guard.count(f"{what}.{PageStatus(int(reason)).name.lower()}", int(count))
        self._guard.count(f"{what}.bytes", nbytes)
        self._guard.count(f"{what}.microseconds", int(seconds * 1e6))
