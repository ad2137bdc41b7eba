"""The worker's side: moves the pages of each step between vLLM's blocks and the store.

Loads are one intent a KV-cache group into the paged blocks, before the forward pass or beside it (`fetches`). Saves
are one intent a group out of them, after it, under way while vLLM samples and schedules. What keeps a save honest:
before a step writes to a block that a save still reads, the save is waited for (briefly) or cancelled, and a counter
that belongs to the block is bumped; the store compares that counter before and after its copy.

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

from .fetches import Fetches, count_pages
from .guard import Guard, log
from .plan import StepPlan, StepReport, WorkerTold
from .settings import Settings
from .store_pages import Moving, StorePages


@dataclass
class _Save:
    moving: Moving
    step: int
    deadline: float


class WorkerSide:
    def __init__(
        self,
        pages: StorePages,
        guard: Guard,
        settings: Settings,
        *,
        events: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`events`: whether stored pages are told to the scheduler, for vLLM's KV events."""
        self._guard = guard
        self._pages = pages
        self._settings = settings
        self._clock = clock
        self._events = events
        self._owners = np.zeros(pages.blocks, dtype=np.uint64)
        self._saves: deque[_Save] = deque()
        self._fetches = Fetches(pages, guard, settings, clock)
        self._failed: set[int] = set()
        self._told = WorkerTold()
        self._spoiled = -1
        self._prepared = 0
        self._began = 0.0
        self._waited = 0.0
        self._idle = True
        self._weights = ""
        """The version of the weights that the step computes with."""

    def introduce(self, rank: int, shake: Any) -> None:
        """Tells the scheduler with this step what vLLM's hand-shake did not bring it."""
        if shake is not None:
            self._told.named = {rank: shake}

    # ---- before the forward pass

    def prepare(self, plan: StepPlan) -> None:
        """Before anything writes to the blocks of this step. Called once or more a step."""
        if plan.step == self._prepared:
            return
        self._prepared = plan.step
        self._began, self._waited, self._idle = self._clock(), 0.0, not plan.tokens
        self._weights = self._pages.weights
        if self._weights != plan.weights:
            self._told.weights = frozenset({self._weights})
        # Failed unless shown otherwise: whatever goes wrong from here on, vLLM computes these.
        self._failed.update(plan.load.blocks.tolist())
        self._guard.run("reuse", lambda: self._let_go(plan.reused), lambda: None)
        self._fetches.start(plan.fetches, plan.weights, self._weights)

    def load(self, plan: StepPlan) -> None:
        """Brings the step's pages into their blocks. What did not come is in `take_failed`."""
        if len(plan.load):
            wanted = set(plan.load.blocks.tolist())
            started = self._clock()
            lost = self._guard.run("load", lambda: self._load(plan), lambda: wanted)
            self._waited = self._clock() - started
            self._failed -= wanted - lost
            if lost:
                self._spoiled = max(self._spoiled, plan.epoch)

    def _load(self, plan: StepPlan) -> set[int]:
        """The blocks that did not come."""
        pages = plan.load
        if plan.weights != self._weights:
            self._guard.count("load.other_weights", len(pages))
            return set(pages.blocks.tolist())
        if len(pages.keys) != len(pages) or not self._pages.ready(self._weights):
            self._guard.count("load.not_ready", len(pages))
            return set(pages.blocks.tolist())
        started, timeout = self._clock(), self._settings.load_timeout_ms / 1000
        if plan.load_within:
            timeout = min(timeout, plan.load_within)
        moving = self._pages.get(pages, timeout)
        if not moving.wait(timeout):
            self._guard.count("load.timeouts")
            moving.cancel()
        # vLLM may be about to compute into these very blocks: nothing may land in them any more.
        if not moving.wait_released():
            self._pages.halted = True
            log.critical("a load was not released: TENT stores and loads nothing more")
            return set(pages.blocks.tolist())
        status = moving.status
        came = status == PageStatus.HIT
        seconds = self._clock() - started
        count_pages(self._guard, "load", moving, came, seconds)
        self._told.loaded(moving.bytes_of(came), seconds)
        if not came.all():
            reasons = sorted({PageStatus(int(s)).name for s in status[~came]})
            self._guard.warn(
                "lost",
                "%d of %d pages did not come (%s): computed instead",
                int((~came).sum()),
                len(came),
                ", ".join(reasons),
            )
        return set(pages.blocks[~came].tolist())

    def _let_go(self, reused: NDArray[np.int64]) -> None:
        """No save reads these blocks when this returns, or it will be found out and dropped."""
        self._reap()
        if not len(reused):
            return
        until = self._clock() + self._settings.save_wait_ms / 1000
        for save in self._saves:
            blocks = save.moving.pages.blocks
            if np.isin(blocks, reused).any() and not save.moving.wait(max(0.0, until - self._clock())):
                save.moving.cancel()
                self._guard.count("save.cancelled_for_reuse", len(blocks))
        self._owners[reused[reused < len(self._owners)]] += np.uint64(1)

    # ---- after it

    def save(self, plan: StepPlan) -> None:
        """Hands the step's full blocks to the store. Returns before they are there."""
        broken = sys.exc_info()[0] is not None
        if plan.prefill and not broken:
            self._told.computed(plan.tokens, self._clock() - self._began - self._waited)
        if plan.report:
            self._told.report = StepReport(plan.step, failed=bool(self._failed))
        if not len(plan.save):
            return
        if broken:
            # vLLM ends its steps in a finally clause: the forward pass broke off, and the blocks hold anything.
            self._guard.count("save.dropped_forward_failed", len(plan.save))
        else:
            self._guard.run("save", lambda: self._save(plan), lambda: None)

    def _save(self, plan: StepPlan) -> None:
        count = len(plan.save)
        self._reap()
        if plan.epoch <= self._spoiled:
            self._guard.count("save.dropped_after_failed_load", count)
        elif not plan.weights == self._weights == self._pages.weights:
            # Planned under another version, or changed during the forward pass.
            self._guard.count("save.other_weights", count)
        elif not self._pages.ready(self._weights):
            self._guard.count("save.not_ready", count)
        elif len(self._saves) >= self._settings.save_queue_steps:
            self._guard.count("save.dropped_queue_full", count)
        else:
            tokens = np.uint64(self._owners.ctypes.data) + plan.save.blocks.astype(np.uint64) * np.uint64(8)
            timeout = self._settings.save_timeout_ms / 1000
            moving = self._pages.put(plan.save, tokens, plan.generations, timeout)
            self._saves.append(_Save(moving, plan.step, self._clock() + timeout))

    def _reap(self) -> None:
        """Takes note of saves that have ended; cancels those that are out of time."""
        left: deque[_Save] = deque()
        for save in self._saves:
            if save.moving.done:
                stored = save.moving.status == PageStatus.STORED
                count_pages(self._guard, "save", save.moving, stored, 0.0)
                if self._events:
                    self._told.stored += save.moving.pages.of_first_group(stored)
                continue
            if self._clock() > save.deadline:
                save.moving.cancel()
            left.append(save)
        self._saves = left

    # ---- what vLLM is told

    def take_failed(self) -> set[int]:
        """Blocks whose pages did not come, once."""
        failed, self._failed = self._failed, set()
        return failed

    def take_fetched(self, ended: set[str]) -> tuple[set[str], set[str]]:
        """(requests whose fetch has ended, those of them that failed), each once. `ended`: requests that are over."""
        self._fetches.cancel(ended)
        over = self._fetches.take(idle=self._idle)
        self._told.lost += over.lost
        if over.seconds:
            self._told.loaded(over.nbytes, over.seconds)
        return over.finished, over.failed

    def take_told(self) -> WorkerTold | None:
        """What the scheduler's side is told of this step; None when there is nothing."""
        told, self._told = self._told, WorkerTold()
        return told if told else None

    def close(self) -> None:
        """Ends the saves under way, within `shutdown_ms`, and gives the KV caches' registration back."""
        self._guard.run("close", self._fetches.close, lambda: None)
        until = self._clock() + self._settings.shutdown_ms / 1000
        for save in self._saves:
            if not save.moving.wait(max(0.0, until - self._clock())):
                save.moving.cancel()
                save.moving.wait_released(1.0)
        self._reap()
        self._pages.close()
