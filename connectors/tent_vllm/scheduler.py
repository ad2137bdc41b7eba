"""The scheduler's side: what to offer as a hit, and what the workers load and save each step.

Knows vLLM's requests and scheduler output by their attributes only, does no I/O, and runs on one thread, vLLM's.

Correctness rests on five rules.
- What is loaded is counted from the `local` tokens that vLLM named when it asked, never guessed from its blocks.
- A promise made is kept or confessed: blocks that vLLM counts as loaded are in the next plan, whatever happens.
- A block is saved once it is full of tokens that are known, in the step that fills it.
- Nothing is saved that may rest on pages that never came: see `StepPlan.epoch`; where the worker cannot know by itself
  (several ranks, somebody else's loads), saving waits until the step's outcome is here.
- Where one block's loss cannot be mended by computing from it on (attention with a window: what lies before is gone),
  loads run beside the steps and fail as a whole.

And one of weights: what was found, computed or fetched under one version of them is nothing under another.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .costs import Costs
from .freshness import Freshness
from .groups import Groups
from .guard import Guard
from .history import History
from .lookups import LookupService, PrefixLookup
from .plan import Fetch, StepPlan, WorkerTold
from .settings import Settings
from .tracked import Places, Step, Tracked

_KEPT_STEPS = 64
# Steps of fewer prompt tokens say nothing about the speed of prefill.
_PREFILL_TOKENS = 64
# A load that takes so many times as long as computing its tokens is given up, but none is before the second time.
_PATIENCE, _LEAST_PATIENCE_S = 2.0, 0.1
_PROBE_BLOCKS = 4
_MOST_NEWS = 65536


class SchedulerSide:
    def __init__(
        self,
        groups: Groups,
        settings: Settings,
        guard: Guard,
        *,
        loads: bool,
        saves: bool,
        ranks: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`loads`, `saves`: what vLLM's kv_role allows. `ranks`: workers of the server."""
        self._groups = groups
        self._settings = settings
        self._guard = guard
        self._loads = loads
        self._saves = saves
        self._ranks = ranks
        self._clock = clock
        self._requests: dict[str, Tracked] = {}
        self._lookups: LookupService | None = None
        self._page_bytes: Sequence[int] = [0] * len(groups.all)
        self._manager: Any = None
        self._loading_places = Places()
        self._fetches: list[Fetch] = []
        self._step = Step(1)
        self._steps: deque[Step] = deque(maxlen=_KEPT_STEPS)
        self._reused: list[int] = []
        self._admitted: set[str] = set()
        self._busy = False
        self._epoch = 0
        self._settled = 0
        """The last step whose outcome is known."""
        self._blind = 0
        """The last step in which a load may have failed without this rank's worker knowing."""
        self._stored: list[bytes] = []
        self._gone: list[bytes] = []
        self.costs = Costs(clock)
        self.history = History()
        self.weights = settings.weights_version
        """The version of the weights whose pages are looked for and stored: the workers'."""
        self._freshness = Freshness()

    def serve(self, lookups: LookupService, page_bytes: Sequence[int] = ()) -> None:
        """From now on look-ups can be made: the workers have said how their pages are named. `page_bytes`: of a block
        by group, over all ranks."""
        self._lookups = lookups
        if page_bytes:
            self._page_bytes = page_bytes

    def bind_manager(self, manager: Any) -> None:
        """vLLM's KV-cache manager, asked for a request's block ids."""
        self._manager = manager

    # ---- a request's way in

    def matched_elsewhere(self, request: Any, computed: int) -> None:
        """vLLM asked for a match, and a prefill server has the rest of it."""
        tracked = self._track(request)
        tracked.local, tracked.matched, tracked.beside = computed // self._groups.unit, True, False

    def on_new_request(self, request: Any) -> None:
        """Start the look-up early: it is often answered before the request's turn comes."""
        tracked = self._track(request)
        if self._wants_lookup(request):
            self._submit(tracked)

    def matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """(tokens to load beyond the `computed` ones, whether beside the steps). None: ask again."""
        tracked = self._track(request)
        story = self.history.of(request.request_id)
        story.prompt, story.local = int(request.num_tokens), computed
        tracked.local = computed // self._groups.unit
        tracked.matched = True
        tracked.beside = False
        if not self._wants_lookup(request):
            story.why = "not looked up: every token has to be computed, or the prompt is shorter than a block"
            return 0, False
        if self._usable_end(request) <= tracked.local:
            story.why = "all of it that can be loaded is in vLLM's own cache"
            return 0, False
        lookup = self._current_lookup(tracked)
        if lookup is None:
            return 0, False
        if not lookup.done:
            return self._not_yet(tracked, lookup)
        return self._offer(tracked, lookup)

    def _offer(self, tracked: Tracked, lookup: PrefixLookup) -> tuple[int, bool]:
        assert self._lookups is not None
        groups, start = self._groups, tracked.local
        story = self.history.of(tracked.request.request_id)
        if tracked.offered_at is not None:
            story.waited_ms = round((self._clock() - tracked.offered_at) * 1000, 3)
        units = self._lookups.usable(lookup, start, self._usable_end(tracked.request))
        story.found = units * groups.unit
        if not units:
            story.why = (
                "not in the pool" if not story.local else "nothing beyond the local prefix in the pool"
            )
            return 0, False
        nbytes = self._bytes(start, start + units)
        if self._settings.load_when_faster and not self._pays(lookup, units, nbytes):
            if not self.costs.probe_due():
                self._guard.count("lookup.not_worth_it", units)
                story.why = "computing it is faster than loading it"
                return 0, False
            self._guard.count("lookup.probe")
            least = self._lookups.usable(
                lookup, start, min(start + units, start + _PROBE_BLOCKS * groups.step)
            )
            units = least or units
        tracked.beside = not groups.plain or (
            self._settings.async_load and self._busy and nbytes >= self._settings.async_load_bytes
        )
        story.why = "found in the pool" + (", loaded beside the steps" if tracked.beside else "")
        return units * groups.unit, tracked.beside

    def _pays(self, lookup: PrefixLookup, units: int, nbytes: int) -> bool:
        everything = self._bytes(0, len(lookup.keys))
        predicted = lookup.seconds * min(1.0, nbytes / everything) if everything else 0.0
        return self.costs.pays(units * self._groups.unit, nbytes, predicted)

    def _bytes(self, start: int, end: int) -> int:
        """Bytes that a hit of units `start` … `end` loads, over all ranks."""
        if self._groups.plain:
            return (end - start) * self._page_bytes[0]
        total = 0
        for index, group in enumerate(self._groups.all):
            scale = self._groups.scale(index)
            first = int(group.first_needed(np.array([end * self._groups.unit]))[0])
            total += max(0, end // scale - max(first, start // scale)) * self._page_bytes[index]
        return total

    def _wants_lookup(self, request: Any) -> bool:
        return (
            self._loads
            and self._lookups is not None
            and not getattr(request, "skip_reading_prefix_cache", False)
            and self._usable_end(request) >= self._groups.step
        )

    def _usable_end(self, request: Any) -> int:
        """Full units of the request that may be loaded: one token at least is left to compute."""
        return min((int(request.num_tokens) - 1) // self._groups.unit, len(request.block_hashes))

    def _submit(self, tracked: Tracked) -> PrefixLookup | None:
        if self._lookups is None:
            return None
        if tracked.lookup is not None:
            tracked.lookup.drop()
        keys = [bytes(key) for key in tracked.request.block_hashes[: self._usable_end(tracked.request)]]
        tracked.lookup = self._lookups.submit(keys)
        tracked.offered_at = None
        return tracked.lookup

    def _current_lookup(self, tracked: Tracked) -> PrefixLookup | None:
        """The request's look-up, a new one if there is none, it covers too little, or its pins have run out."""
        lookup = tracked.lookup
        if lookup is None or len(lookup.keys) < self._usable_end(tracked.request):
            return self._submit(tracked)
        stale = lookup.done and self._clock() - lookup.answered_at > self._settings.pin_ms / 2000
        return self._submit(tracked) if stale else lookup

    def _not_yet(self, tracked: Tracked, lookup: PrefixLookup) -> tuple[int | None, bool]:
        now = self._clock()
        if tracked.offered_at is None:
            tracked.offered_at = now
        waited = now - tracked.offered_at
        story = self.history.of(tracked.request.request_id)
        story.waited_ms = round(waited * 1000, 3)
        assert self._lookups is not None
        if self._lookups.directory_down:
            self._guard.count("lookup.not_waited")
            story.why = "the directory is down"
            return 0, False
        if waited * 1000 >= self._settings.lookup_wait_ms:
            self._guard.count("lookup.too_slow")
            self._guard.warn(
                "slow", "a look-up took longer than %d ms: computed instead", self._settings.lookup_wait_ms
            )
            story.why = "its look-up took too long"
            return 0, False
        return None, False

    def allocated(self, request: Any, blocks: Any, external: int) -> None:
        """vLLM gave the request blocks and counts `external` tokens beyond the local ones as loaded by us."""
        tracked = self._track(request)
        ids: Sequence[list[int]] = blocks.get_block_ids()
        if external > 0:
            self._promise(tracked, ids, external // self._groups.unit)
        for group, own in enumerate(ids):
            known = (
                tracked.local // self._groups.scale(group) if tracked.matched else self._held(tracked, group)
            )
            if tracked.matched:
                tracked.stale = (tracked.stale and group > 0) or self._freshness.stale(own[:known])
            fresh = [block for block in own[known:] if block]
            self._reused += fresh
            self._freshness.owned(fresh, stale=tracked.stale)
        tracked.held = tuple(len(own) for own in ids)
        if tracked.matched:
            tracked.matched = False
            self._admitted.add(request.request_id)
            tracked.saved = tracked.local + external // self._groups.unit
            if tracked.lookup is not None and external <= 0:
                tracked.lookup.drop()
                tracked.lookup = None

    @staticmethod
    def _held(tracked: Tracked, group: int) -> int:
        return tracked.held[group] if group < len(tracked.held) else 0

    def _promise(self, tracked: Tracked, ids: Sequence[list[int]], units: int) -> None:
        """These blocks will be loaded, in the step or beside it."""
        groups, start, req_id = self._groups, tracked.local, tracked.request.request_id
        places = Places()
        for group, own in enumerate(ids):
            first, last = start // groups.scale(group), (start + units) // groups.scale(group)
            keys = groups.keys(tracked.request.block_hashes, group, first, last)
            places.add(keys, own[first:last], group)
        self.history.of(req_id).loaded = units * groups.unit
        if tracked.beside:
            self._fetches.append(Fetch(req_id, places.pages()))
        else:
            self._loading_places.add_all(places)
            self._step.loads.append((req_id, start, places.blocks))

    # ---- each step

    def build_plan(self, output: Any) -> StepPlan:
        """The step's plan. A fault in planning saves loses saves, never a load that was promised."""
        plan, step = StepPlan(), self._step
        plan.load, self._loading_places = self._loading_places.pages(), Places()
        plan.fetches, self._fetches = self._fetches, []
        self._step = Step(step.number + 1)
        plan.step, plan.epoch, plan.weights = step.number, self._epoch, self.weights
        plan.introduce = self._lookups is None
        plan.save = self._guard.run("plan", lambda: self._plan_saves(step, output), Places).pages()
        plan.reused = np.array(self._reused, dtype=np.int64)
        self._reused = []
        plan.report = bool(step.loads) or self._blind > self._settled
        scheduled = getattr(output, "num_scheduled_tokens", None) or {}
        plan.tokens = sum(scheduled.values())
        prompts = sum(count for count in scheduled.values() if count > 1)
        plan.prefill = prompts >= _PREFILL_TOKENS and prompts * 10 >= plan.tokens * 9
        self._busy = bool(scheduled)
        compute = self.costs.to_compute(len(plan.load) * self._groups.unit)
        if compute and self._settings.load_when_faster:
            plan.load_within = max(_LEAST_PATIENCE_S, _PATIENCE * compute)
        if step.loads or step.saved_before:
            self._steps.append(step)
        return plan

    def _plan_saves(self, step: Step, output: Any) -> Places:
        """What this step fills. Notes the blocks that it takes on the way."""
        computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        for i, req_id in enumerate(cached.req_ids):
            computed[req_id] = cached.num_computed_tokens[i]
            tracked = self._requests.get(req_id)
            for fresh in cached.new_block_ids[i] or ():
                self._reused += fresh
                self._freshness.owned(fresh, stale=tracked is None or tracked.stale)
        self._reused += getattr(output, "new_block_ids_to_zero", None) or ()
        admitted, self._admitted = self._admitted & computed.keys(), set()
        foreign = any(self._loaded_by_others(req_id, computed[req_id]) for req_id in admitted)
        if foreign or (step.loads and self._ranks > 1):
            self._blind = step.number
        saves = Places()
        if not self._saves:
            return saves
        if self._blind > self._settled:
            self._guard.count("save.postponed")
            return saves
        for req_id, scheduled in output.num_scheduled_tokens.items():
            tracked = self._requests.get(req_id)
            if tracked is not None and tracked.stale:
                self._guard.count("save.stale_weights")
            elif tracked is not None and req_id in computed:
                full = (computed[req_id] + scheduled) // self._groups.unit
                self._fill(saves, step, tracked, full, output)
        return saves

    def _loaded_by_others(self, req_id: str, computed: int) -> bool:
        """Whether a request just admitted counts more as computed than was here or came through us."""
        tracked = self._requests.get(req_id)
        return tracked is not None and computed // self._groups.unit > tracked.saved

    def _fill(self, saves: Places, step: Step, tracked: Tracked, full: int, output: Any) -> None:
        """Adds the blocks of one request that are full after this step and not saved yet."""
        hashes = tracked.request.block_hashes
        full = min(full, len(hashes))
        if full <= tracked.saved:
            return
        req_id = tracked.request.request_id
        ids = self._block_ids(req_id, output)
        for group, own in enumerate(ids):
            scale = self._groups.scale(group)
            first, last = tracked.saved // scale, full // scale
            saves.add(self._groups.keys(hashes, group, first, last), own[first:last], group)
        step.saved_before.setdefault(req_id, tracked.saved)
        tracked.saved = full

    def _block_ids(self, req_id: str, output: Any) -> Sequence[list[int]]:
        state = getattr(output, "kv_connector_block_state", None)
        resolve = self._manager.get_block_ids if state is None else state.resolve_block_ids
        ids: Sequence[list[int]] = resolve(req_id)
        return ids

    # ---- what came of it

    def outcome(
        self,
        told: WorkerTold | None,
        invalid: set[int],
        fetched: Sequence[str] = (),
        failed: Sequence[str] = (),
    ) -> None:
        """What came of a step. vLLM takes the consequences of `invalid` blocks, and of fetches that have ended."""
        report = told.report if told is not None else None
        if invalid:
            self._guard.count("load.failed_steps")
            self._epoch += 1
            self._guard.run("evict", lambda: self._evict(invalid), lambda: None)
            self._undo(report.step if report is not None else 0, invalid)
        if told is not None:
            self._learn(told)
            self._adopt(told.weights)
        for req_id in fetched:
            self._drop_lookup(req_id)
            if req_id in failed:
                self._guard.count("load.failed_fetches")
                self._confess(req_id, self.history.of(req_id).loaded)
        if report is None:
            return
        self._settled = max(self._settled, report.step)
        while self._steps and self._steps[0].number <= report.step:
            for req_id, _, _ in self._steps.popleft().loads:
                self._drop_lookup(req_id)

    def _evict(self, invalid: set[int]) -> None:
        """vLLM leaves blocks whose load failed, and what was computed on them, in its prefix cache until the request
        has computed them anew. Were it aborted or preempted before that, the next one would find rubbish there."""
        spoiled = set(invalid)
        for req_id in self._requests:
            own = self._manager.get_block_ids(req_id)[0]
            first = next((i for i, block in enumerate(own) if block in invalid), len(own))
            spoiled.update(block for block in own[first:] if block)
        self._manager.evict_blocks(spoiled)

    def _learn(self, told: WorkerTold) -> None:
        self.costs.computed(told.prefill_tokens, told.prefill_seconds)
        self.costs.loaded(told.load_bytes, told.load_seconds)
        self._stored += told.stored
        for group, key in told.lost:
            self._missing(group, key)

    def _adopt(self, versions: frozenset[str]) -> None:
        """Workers compute with other weights than planned. While they do not agree, nothing of the plans fits all."""
        if not versions:
            return
        self.weights = min(versions)
        self._guard.count("weights.changed")
        self._freshness.weights_changed()
        for tracked in self._requests.values():
            tracked.stale = True
        self.forget_lookups()
        if self._lookups is not None:
            self._lookups.other_weights(self.weights)

    def stands_on_older_weights(self, request: Any) -> bool:
        """Whether blocks of the request were computed under older weights."""
        tracked = self._requests.get(request.request_id)
        return tracked is not None and tracked.stale

    def _missing(self, group: int, key: bytes) -> None:
        """A page that was promised and did not come."""
        if self._lookups is not None:
            self._lookups.failed(group, [key])
        if group == 0 and len(self._gone) < _MOST_NEWS:
            self._gone.append(key)

    def take_news(self) -> tuple[list[bytes], list[bytes]]:
        """(keys of the first group's blocks that went into the pool, those that turned out not to be there)."""
        news = self._stored, self._gone
        self._stored, self._gone = [], []
        return news

    def _confess(self, req_id: str, tokens: int) -> None:
        story = self.history.of(req_id)
        story.lost += tokens
        story.why = "found in the pool, and not delivered: computed after all"

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
                    self._confess(req_id, len(lost) * self._groups.unit)
                    for i in lost:
                        self._missing(0, bytes(tracked.request.block_hashes[i]))

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

    def _track(self, request: Any) -> Tracked:
        tracked = self._requests.get(request.request_id)
        if tracked is None:
            tracked = self._requests[request.request_id] = Tracked(request)
        tracked.request = request
        return tracked

    def _drop_lookup(self, req_id: str) -> None:
        tracked = self._requests.get(req_id)
        if tracked is not None and tracked.lookup is not None:
            tracked.lookup.drop()
            tracked.lookup = None
