"""The scheduler's side: what to offer as a hit, and what the workers load and save each step.

Knows vLLM's requests and scheduler output by their attributes only, does no I/O, and runs on one thread, vLLM's.

Correctness rests on four rules.
- What is loaded is counted from the `local` tokens that vLLM named when it asked, never guessed from its blocks.
- A promise made is kept or confessed: blocks that vLLM counts as loaded are in the next plan, whatever happens.
- A block is saved once it is full of tokens that are known, in the step that fills it.
- Nothing is saved that may rest on pages that never came: see `StepPlan.epoch`; where the worker cannot know by itself
  (several ranks, somebody else's loads), saving waits until the step's outcome is here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .guard import Guard
from .lookups import LookupService, PrefixLookup
from .plan import StepPlan, StepReport
from .settings import Settings

_KEPT_STEPS = 64


@dataclass
class _Tracked:
    """One request between its arrival and its end. Counts are of blocks."""

    request: Any
    lookup: PrefixLookup | None = None
    offered_at: float | None = None
    local: int = 0
    saved: int = 0
    matched: bool = False
    """vLLM asked for a match since it last allocated: the next allocation is an admission."""


@dataclass
class _Step:
    """A step whose outcome may still change what is taken for saved and loaded."""

    number: int
    loads: list[tuple[str, int, list[int]]] = field(default_factory=list)
    """(request, index of its first loaded block, block ids)"""
    saved_before: dict[str, int] = field(default_factory=dict)


class SchedulerSide:
    def __init__(
        self,
        block_size: int,
        settings: Settings,
        guard: Guard,
        *,
        loads: bool,
        saves: bool,
        ranks: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`loads`, `saves`: what vLLM's kv_role allows. `ranks`: workers of the server."""
        self._block_size = block_size
        self._settings = settings
        self._guard = guard
        self._loads = loads
        self._saves = saves
        self._ranks = ranks
        self._clock = clock
        self._requests: dict[str, _Tracked] = {}
        self._lookups: LookupService | None = None
        self._manager: Any = None
        self._plan = StepPlan()
        self._step = _Step(1)
        self._steps: deque[_Step] = deque(maxlen=_KEPT_STEPS)
        self._reused: list[int] = []
        self._admitted: set[str] = set()
        self._epoch = 0
        self._settled = 0
        """The last step whose outcome is known."""
        self._blind = 0
        """The last step in which a load may have failed without this rank's worker knowing."""

    def serve(self, lookups: LookupService) -> None:
        """From now on look-ups can be made: the workers have said how their pages are named."""
        self._lookups = lookups

    def bind_manager(self, manager: Any) -> None:
        """vLLM's KV-cache manager, asked for a request's block ids."""
        self._manager = manager

    # ---- a request's way in

    def on_new_request(self, request: Any) -> None:
        """Start the look-up early: it is often answered before the request's turn comes."""
        tracked = self._track(request)
        if self._wants_lookup(request):
            self._submit(tracked)

    def matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """Tokens to load beyond the `computed` ones; None: ask again. Never True: loads are part of the step."""
        tracked = self._track(request)
        tracked.local = computed // self._block_size
        tracked.matched = True
        if not self._wants_lookup(request) or self._usable_end(request) <= tracked.local:
            return 0, False
        lookup = self._current_lookup(tracked)
        if lookup is None:
            return 0, False
        if not lookup.done:
            return self._not_yet(tracked, lookup)
        pages = self._lookups.usable(lookup, tracked.local, self._usable_end(request)) if self._lookups else 0
        return pages * self._block_size, False

    def _wants_lookup(self, request: Any) -> bool:
        return (
            self._loads
            and self._lookups is not None
            and not getattr(request, "skip_reading_prefix_cache", False)
            and self._usable_end(request) > 0
        )

    def _usable_end(self, request: Any) -> int:
        """Full blocks of the request that may be loaded: one token at least is left to compute."""
        return min((int(request.num_tokens) - 1) // self._block_size, len(request.block_hashes))

    def _submit(self, tracked: _Tracked) -> PrefixLookup | None:
        if self._lookups is None:
            return None
        if tracked.lookup is not None:
            tracked.lookup.drop()
        keys = [bytes(key) for key in tracked.request.block_hashes[: self._usable_end(tracked.request)]]
        tracked.lookup = self._lookups.submit(keys)
        tracked.offered_at = None
        return tracked.lookup

    def _current_lookup(self, tracked: _Tracked) -> PrefixLookup | None:
        """The request's look-up, a new one if there is none, it covers too little, or its pins have run out."""
        lookup = tracked.lookup
        if lookup is None or len(lookup.keys) < self._usable_end(tracked.request):
            return self._submit(tracked)
        stale = lookup.done and self._clock() - lookup.answered_at > self._settings.pin_ms / 2000
        return self._submit(tracked) if stale else lookup

    def _not_yet(self, tracked: _Tracked, lookup: PrefixLookup) -> tuple[int | None, bool]:
        now = self._clock()
        if tracked.offered_at is None:
            tracked.offered_at = now
        waited = now - tracked.offered_at
        assert self._lookups is not None
        if self._lookups.directory_down:
            self._guard.count("lookup.not_waited")
            return 0, False
        if waited * 1000 >= self._settings.lookup_wait_ms:
            self._guard.count("lookup.too_slow")
            self._guard.warn(
                "slow", "a look-up took longer than %d ms: computed instead", self._settings.lookup_wait_ms
            )
            return 0, False
        return None, False

    def allocated(self, request: Any, blocks: Any, external: int) -> None:
        """vLLM gave the request blocks and counts `external` tokens beyond the local ones as loaded by us."""
        tracked = self._track(request)
        ids: list[int] = blocks.get_block_ids()[0]
        self._reused += ids[tracked.local :]
        if external > 0:
            end = tracked.local + external // self._block_size
            self._plan.load_keys += [bytes(key) for key in request.block_hashes[tracked.local : end]]
            self._step.loads.append((request.request_id, tracked.local, ids[tracked.local : end]))
        if tracked.matched:
            tracked.matched = False
            self._admitted.add(request.request_id)
            tracked.saved = tracked.local + external // self._block_size
            if tracked.lookup is not None and external <= 0:
                tracked.lookup.drop()
                tracked.lookup = None

    # ---- each step

    def build_plan(self, output: Any) -> StepPlan:
        """The step's plan. A fault in planning saves loses saves, never a load that was promised."""
        plan, step = self._plan, self._step
        self._plan, self._step = StepPlan(), _Step(step.number + 1)
        plan.step, plan.epoch = step.number, self._epoch
        plan.load_blocks = np.array([block for _, _, ids in step.loads for block in ids], dtype=np.int64)
        saves = self._guard.run("plan", lambda: self._plan_saves(step, output), lambda: [])
        plan.save_keys = [key for key, _ in saves]
        plan.save_blocks = np.array([block for _, block in saves], dtype=np.int64)
        plan.reused = np.array(self._reused, dtype=np.int64)
        self._reused = []
        plan.report = bool(step.loads) or self._blind > self._settled
        if step.loads or step.saved_before:
            self._steps.append(step)
        return plan

    def _plan_saves(self, step: _Step, output: Any) -> list[tuple[bytes, int]]:
        """(key, block) of what this step fills. Notes the blocks that it takes on the way."""
        computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        for i, req_id in enumerate(cached.req_ids):
            computed[req_id] = cached.num_computed_tokens[i]
            fresh = cached.new_block_ids[i]
            if fresh is not None:
                self._reused += fresh[0]
        self._reused += getattr(output, "new_block_ids_to_zero", None) or ()
        admitted, self._admitted = self._admitted & computed.keys(), set()
        foreign = any(self._loaded_by_others(req_id, computed[req_id]) for req_id in admitted)
        if foreign or (step.loads and self._ranks > 1):
            self._blind = step.number
        if not self._saves:
            return []
        if self._blind > self._settled:
            self._guard.count("save.postponed")
            return []
        saves: list[tuple[bytes, int]] = []
        for req_id, scheduled in output.num_scheduled_tokens.items():
            tracked = self._requests.get(req_id)
            if tracked is not None and req_id in computed:
                full = (computed[req_id] + scheduled) // self._block_size
                saves += self._fill(step, tracked, full, output)
        return saves

    def _loaded_by_others(self, req_id: str, computed: int) -> bool:
        """Whether a request just admitted counts more as computed than was here or came through us."""
        tracked = self._requests.get(req_id)
        return tracked is not None and computed // self._block_size > tracked.saved

    def _fill(self, step: _Step, tracked: _Tracked, full: int, output: Any) -> list[tuple[bytes, int]]:
        """The blocks of one request that are full after this step and not saved yet."""
        hashes = tracked.request.block_hashes
        full = min(full, len(hashes))
        if full <= tracked.saved:
            return []
        req_id = tracked.request.request_id
        ids = self._block_ids(req_id, output)[tracked.saved : full]
        keys = [bytes(key) for key in hashes[tracked.saved : full]]
        step.saved_before.setdefault(req_id, tracked.saved)
        tracked.saved = full
        # Block 0 is vLLM's stand-in for blocks that hold nothing.
        return [(key, block) for key, block in zip(keys, ids, strict=True) if block]

    def _block_ids(self, req_id: str, output: Any) -> list[int]:
        state = getattr(output, "kv_connector_block_state", None)
        resolve = self._manager.get_block_ids if state is None else state.resolve_block_ids
        ids: list[int] = resolve(req_id)[0]
        return ids

    def outcome(self, report: StepReport | None, invalid: set[int]) -> None:
        """What came of a step. vLLM has taken the consequences of `invalid` blocks already."""
        if invalid:
            self._guard.count("load.failed_steps")
            self._epoch += 1
            self._undo(report.step if report is not None else 0, invalid)
        if report is None:
            return
        self._settled = max(self._settled, report.step)
        while self._steps and self._steps[0].number <= report.step:
            for req_id, _, _ in self._steps.popleft().loads:
                self._drop_lookup(req_id)

    def _undo(self, first: int, invalid: set[int]) -> None:
        """From step `first` on nothing was saved, and the pages of `invalid` blocks are not what they should be."""
        for step in self._steps:
            if step.number < first:
                continue
            for req_id, before in step.saved_before.items():
                if (tracked := self._requests.get(req_id)) is not None:
                    tracked.saved = min(tracked.saved, before)
            for req_id, start, ids in step.loads:
                lost = [start + i for i, block in enumerate(ids) if block in invalid]
                if lost and (tracked := self._requests.get(req_id)) is not None:
                    tracked.saved = min(tracked.saved, lost[0])
                    if self._lookups is not None:
                        self._lookups.failed([bytes(tracked.request.block_hashes[i]) for i in lost])

    # ---- the end

    def finished(self, request: Any) -> None:
        self._drop_lookup(request.request_id)
        self._requests.pop(request.request_id, None)

    def forget_lookups(self) -> None:
        """What was looked up before now is not there any more (the cache was cleared)."""
        for req_id in self._requests:
            self._drop_lookup(req_id)

    def close(self, timeout: float) -> None:
        self.forget_lookups()
        if self._lookups is not None:
            self._lookups.close(timeout)

    def _track(self, request: Any) -> _Tracked:
        tracked = self._requests.get(request.request_id)
        if tracked is None:
            tracked = self._requests[request.request_id] = _Tracked(request)
        tracked.request = request
        return tracked

    def _drop_lookup(self, req_id: str) -> None:
        tracked = self._requests.get(req_id)
        if tracked is not None and tracked.lookup is not None:
            tracked.lookup.drop()
            tracked.lookup = None
