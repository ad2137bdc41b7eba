"""The class that vLLM loads. It translates vLLM's calls for the two roles and holds no logic of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.version import __version__ as vllm_version

from tent_core.config import resolve_secret
from tent_core.errors import Unsupported
from tent_core.explain import Ring

from . import handle as handles
from .backend import attention_backend, hash_unit, ranks_of_this_worker
from .events import pool_events
from .groups import Groups, read_groups
from .guard import log
from .handoff_plan import Endpoint, HandoffPlan
from .handoff_scheduler import HandoffScheduler
from .handoff_worker import HandoffWorker
from .identity import check_supported, namespace_fields
from .layout import PageLayout, page_layout
from .lookups import LookupService
from .messages import TentHandshake, TentMetadata, TentWorkerMetadata
from .plan import GroupPages, RankPages, StepPlan
from .rank_lookup import RankLookup
from .scheduler import SchedulerSide
from .settings import split_extra_config
from .stats import TentPromMetrics, TentStats
from .store_pages import StorePages
from .surroundings import beside_others, choose_recompute, of_group
from .versions import differences
from .weights import with_version
from .worker import WorkerSide

try:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
except ImportError:
    KVConnectorTransferResults = None

try:
    from vllm.v1.metrics.cache_hit_source import CacheHitSource

    _HIT_SOURCE = getattr(CacheHitSource, "P2P", None)
except ImportError:
    _HIT_SOURCE = None


class TentConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """KV cache that other processes computed, and this one's for them. See docs/vllm.md."""

    if _HIT_SOURCE is not None:
        _cache_hit_source = _HIT_SOURCE

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any = None) -> None:
        """Raises ConfigError on a bad configuration; anything else that is wrong makes every look-up a miss."""
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        source, self._settings = split_extra_config(transfer.kv_connector_extra_config)
        if KVConnectorTransferResults is None:
            self._settings = replace(self._settings, async_load=False)
        self._handle = handles.acquire(
            str(transfer.engine_id),
            source,
            worker=role == KVConnectorRole.WORKER,
            rank=vllm_config.parallel_config.rank if role == KVConnectorRole.WORKER else 0,
        )
        self._guard = self._handle.guard
        self._handle.weights = self._handle.weights or self._settings.weights_version
        self._plan: StepPlan | None = None
        self._worker: WorkerSide | None = None
        self._pages: RankPages | None = None
        self._scheduler: SchedulerSide | None = None
        self._lookup: RankLookup | None = None
        self._ring: Ring | None = None
        self._introduced: dict[int, TentHandshake] = {}
        if said := differences(KVConnectorBase_V1, vllm_version):
            log.warning("%s", said)
        self._hands: HandoffWorker | None = None
        self._end: Endpoint | None = None
        self._handoff_plan: HandoffPlan | None = None
        self._handing: HandoffScheduler | None = None
        self._groups = self._check(vllm_config, kv_cache_config)
        if role == KVConnectorRole.SCHEDULER:
            choose_recompute(transfer, self._settings.keep_failure_policy)
            if self._groups is not None:
                self._scheduler = SchedulerSide(
                    self._groups,
                    self._settings,
                    self._guard,
                    loads=transfer.is_kv_consumer,
                    saves=transfer.is_kv_producer,
                    ranks=vllm_config.parallel_config.world_size,
                )
                self._ring = Ring({"engine": f"vllm {vllm_version}", "node": ""})
                if self._groups.plain:
                    self._handing = HandoffScheduler(
                        self._groups.all[0].tokens,
                        self._guard,
                        engine_id=str(transfer.engine_id),
                        produces=transfer.is_kv_producer,
                        consumes=transfer.is_kv_consumer,
                        weights=lambda: self._scheduler.weights if self._scheduler is not None else "",
                    )

    def _check(self, vllm_config: Any, kv_cache_config: Any) -> Groups | None:
        """The model's KV-cache groups; None when this model is left alone."""
        try:
            check_supported(vllm_config)
            groups = read_groups(kv_cache_config, hash_unit(vllm_config, kv_cache_config))
            if not groups.plain and KVConnectorTransferResults is None:
                raise Unsupported(
                    "TentConnector stores models with sliding windows or several KV-cache groups from vLLM 0.30 on; "
                    "requests are computed as without it"
                )
            return groups
        except Unsupported as reason:
            log.error("%s", reason)
            return None

    @property
    def requires_kv_delivery(self) -> bool:
        """A cache: what was not saved is a miss later, never a request to repeat."""
        return False

    # ---- worker: start and end

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        if self._groups is not None:
            self._guard.run("register", lambda: self._register(kv_caches), lambda: None)

    def _register(self, kv_caches: dict[str, torch.Tensor]) -> None:
        devices = {tensor.device.type for tensor in kv_caches.values()}
        if devices != {"cpu"}:
            log.error(
                "KV cache on %s: TENT moves host memory in this version; requests are computed", devices
            )
            return
        groups = self._groups
        assert groups is not None
        layouts = [page_layout(of_group(kv_caches, groups, index)) for index in range(len(groups.all))]
        ranks, backend = ranks_of_this_worker(), attention_backend(self._vllm_config)
        named = tuple(
            GroupPages(
                namespace_fields(
                    self._vllm_config,
                    groups,
                    index,
                    layout.signature,
                    backend,
                    ranks,
                    vllm_version,
                    self._settings.model_id,
                ),
                layout.page_bytes,
            )
            for index, layout in enumerate(layouts)
        )
        self._pages = RankPages(named)
        model = str(self._vllm_config.model_config.model)
        pages = StorePages(self._handle, layouts, named, model=model)
        events = getattr(self._vllm_config.kv_events_config, "enable_kv_cache_events", False)
        self._worker = WorkerSide(pages, self._guard, self._settings, events=bool(events))
        if groups.plain and not beside_others(self._vllm_config):
            # A fault of its own takes nothing from the cache.
            self._hands, self._end = self._guard.run(
                "handoff", lambda: self._handoff(pages, layouts[0], named[0]), lambda: (None, None)
            )

    def _handoff(
        self, pages: StorePages, layout: PageLayout, named: GroupPages
    ) -> tuple[HandoffWorker | None, Endpoint | None]:
        """This rank's part in prefill/decode; nothing where the store could not be opened yet."""
        store, settings = self._handle.store, self._settings
        if store is None or not pages.ready():
            return None, None
        form = hashlib.sha256(json.dumps(named.fields, sort_keys=True).encode()).digest()
        hands = HandoffWorker(
            lambda: store.engine,
            layout,
            form,
            self._guard,
            rank=self._vllm_config.parallel_config.rank,
            lease=settings.handoff_lease_ms / 1000,
            timeout=settings.handoff_timeout_ms / 1000,
            weights=lambda: pages.weights,
        )
        return hands, Endpoint(store.engine.descriptor(), form)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        return TentHandshake(self._pages, self._end) if self._pages is not None else None

    def shutdown(self) -> None:
        hands, self._hands = self._hands, None
        if hands is not None:
            self._guard.run("shutdown", hands.close, lambda: None)
        worker, scheduler, self._worker, self._scheduler = self._worker, self._scheduler, None, None
        ring, self._ring = self._ring, None
        if ring is not None:
            ring.close()
        if worker is not None:
            self._guard.run("shutdown", worker.close, lambda: None)
        if scheduler is not None:
            self._guard.run(
                "shutdown", lambda: scheduler.close(self._settings.shutdown_ms / 1000), lambda: None
            )
        held, self._handle = self._handle, None  # type: ignore[assignment]
        if held is not None:
            self._guard.run("shutdown", lambda: handles.release(held), lambda: None)

    # ---- worker: each step

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        self._prepare(kv_connector_metadata)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        # Where vLLM has no handle_preemptions this is the first call before the blocks are written.
        self._prepare(connector_metadata)

    def _prepare(self, metadata: KVConnectorMetadata) -> None:
        self._plan = metadata.plan if isinstance(metadata, TentMetadata) else None
        if self._plan is not None and self._plan.introduce and self._worker is not None:
            self._worker.introduce(self._vllm_config.parallel_config.rank, self.get_handshake_metadata())
        if self._worker is not None and self._plan is not None:
            self._worker.prepare(self._plan)
        self._handoff_plan = metadata.handoff if isinstance(metadata, TentMetadata) else None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if self._worker is not None and self._plan is not None:
            self._worker.load(self._plan)
        # Here, and not before: vLLM may have cleared the blocks until now.
        hands, handoff, self._handoff_plan = self._hands, self._handoff_plan, None
        if hands is not None and handoff is not None:
            self._guard.run("handoff", lambda: hands.perform(handoff), lambda: None)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are complete when start_load_kv returns."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Pages hold all layers: they are saved when the last one is computed."""

    def wait_for_save(self) -> None:
        if self._worker is not None and self._plan is not None:
            self._worker.save(self._plan)

    def get_block_ids_with_load_errors(self) -> set[int]:
        lost = self._hands.take_failed() if self._hands is not None else set()
        if self._worker is not None:
            return self._worker.take_failed() | lost
        # No worker, and yet a promise: the scheduler offers nothing before it heard of the pages, so there is none.
        return set()

    def get_transfer_results(self, finished_req_ids: set[str]) -> Any:
        done, failed = self._fetched(finished_req_ids)
        sent, received = self._handed()
        return KVConnectorTransferResults(
            finished_sending=sent, finished_recving=done | received, failed_recving=failed
        )

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Of vLLM before 0.30, which has no other way: there nothing is loaded beside the steps, but hand-offs."""
        return self._handed()

    def _handed(self) -> tuple[set[str], set[str]]:
        """Requests whose blocks no decode server needs any more, and requests that waited for their blocks."""
        hands = self._hands
        if hands is None:
            return set(), set()
        return self._guard.run("handed", hands.results, lambda: (set(), set()))

    def _fetched(self, ended: set[str]) -> tuple[set[str], set[str]]:
        worker = self._worker
        if worker is None:
            return set(), set()
        return self._guard.run("fetched", lambda: worker.take_fetched(ended), lambda: (set(), set()))

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        told = self._worker.take_told() if self._worker is not None else None
        return TentWorkerMetadata(told) if told is not None else None

    # ---- both roles: counters

    def get_kv_connector_stats(self) -> TentStats | None:
        fresh = self._guard.take()
        return TentStats(data=fresh) if fresh else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> TentStats | None:
        return TentStats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, *args: Any, **kwargs: Any) -> TentPromMetrics | None:
        return TentPromMetrics(*args, **kwargs)

    # ---- scheduler: start

    def set_xfer_handshake_metadata(self, metadata: dict[int, KVConnectorHandshakeMetadata]) -> None:
        self._serve(list(metadata.values()))

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        self._serve(list(metadata.values()))

    def _serve(self, shakes: list[KVConnectorHandshakeMetadata]) -> None:
        """Start looking up, when every rank has said how its pages are named."""
        ranks = self._vllm_config.parallel_config.world_size
        pages = [shake.pages for shake in shakes if isinstance(shake, TentHandshake)]
        if shakes and not pages:
            # MultiConnector passes on the first of its connectors' words only: ours comes with the first step.
            return
        if self._scheduler is None or len(pages) != ranks:
            log.error(
                "%d of %d workers can store pages: requests are computed as without TENT", len(pages), ranks
            )
            return
        settings = self._settings
        assert self._groups is not None
        ends = [shake.end for shake in shakes if isinstance(shake, TentHandshake) and shake.end is not None]
        if self._handing is not None and len(ends) == ranks:
            self._handing.serve(ends, resolve_secret(self._handle.config))
        if self._ring is not None:
            node = getattr(self._handle.store, "node_name", "")
            fields = with_version(pages[0].groups[0].fields, self._scheduler.weights)
            self._ring.about({"engine": f"vllm {vllm_version}", "node": node, "fields": fields})
        self._lookup = RankLookup(self._handle, self._groups, pages, settings.pin_ms, self._scheduler.weights)
        self._scheduler.serve(
            LookupService(
                self._lookup,
                self._guard,
                self._groups,
                pause=settings.lookup_pause_ms / 1000,
                failed_for=settings.failed_page_ms / 1000,
                use=self._lookup.use,
            ),
            [sum(rank.groups[i].page_bytes for rank in pages) for i in range(len(self._groups.all))],
        )

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        super().bind_kv_cache_manager(kv_cache_manager)
        if self._scheduler is not None:
            self._scheduler.bind_manager(kv_cache_manager)
            self._guard.run("groups", lambda: self._compare_groups(kv_cache_manager), lambda: None)

    def _compare_groups(self, manager: Any) -> None:
        """A hit must be what vLLM takes for one: without that certainty nothing is offered."""
        groups = self._groups
        if groups is None or groups.plain:
            return
        if not groups.agrees_with(manager.coordinator.single_type_managers):
            log.error(
                "vLLM keeps other blocks of an attention window than TentConnector knows of; requests are computed "
                "as without it"
            )
            self._scheduler = None

    # ---- scheduler: requests and steps

    def on_new_request(self, request: Any) -> None:
        scheduler = self._scheduler
        if scheduler is not None:
            self._guard.run("new_request", lambda: scheduler.on_new_request(request), lambda: None)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        scheduler, handing = self._scheduler, self._handing
        if scheduler is None:
            return 0, False
        if handing is not None:
            handed = self._guard.run(
                "handoff", lambda: handing.matched(request, num_computed_tokens), lambda: 0
            )
            if handed:
                scheduler.matched_elsewhere(request, num_computed_tokens)
                return handed, True
        return self._guard.run(
            "match", lambda: scheduler.matched_tokens(request, num_computed_tokens), lambda: (0, False)
        )

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if self._scheduler is None:
            return
        # Not guarded: with tokens promised there is no answer but a plan that loads them.
        own = blocks.get_block_ids()[0]
        handed = self._handing is not None and self._handing.allocated(request, own, num_external_tokens)
        self._scheduler.allocated(request, blocks, 0 if handed else num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        plan = self._scheduler.build_plan(scheduler_output) if self._scheduler else StepPlan()
        lookup = self._lookup
        if lookup is not None:
            plan.generations = self._guard.run("generations", lookup.generations, lambda: {})
        return TentMetadata(plan, self._handing.take_plan() if self._handing is not None else None)

    def update_connector_output(self, connector_output: Any) -> None:
        scheduler = self._scheduler
        if scheduler is None:
            return
        meta = getattr(connector_output, "kv_connector_worker_meta", None)
        told = meta.told if isinstance(meta, TentWorkerMetadata) else None
        if told is not None and told.named:
            self._guard.run("introduce", lambda: self._meet(told.named), lambda: None)
        invalid = set(getattr(connector_output, "invalid_block_ids", None) or ())
        fetched = tuple(getattr(connector_output, "finished_recving", None) or ())
        failed = tuple(getattr(connector_output, "failed_recving", None) or ())
        self._guard.run("outcome", lambda: scheduler.outcome(told, invalid, fetched, failed), lambda: None)

    def _meet(self, named: dict[int, TentHandshake]) -> None:
        """Workers say by a step what vLLM's hand-shake did not bring."""
        self._introduced.update(named)
        if self._lookup is None and len(self._introduced) == self._vllm_config.parallel_config.world_size:
            self._serve([shake for _, shake in sorted(self._introduced.items())])

    def take_events(self) -> Iterable[Any]:
        """For routers: blocks that went into the pool since the last time, and those found missing there."""
        if self._scheduler is None:
            return ()
        stored, gone = self._scheduler.take_news()
        return pool_events(stored, gone, self._vllm_config.cache_config.block_size)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        scheduler, stale = self._scheduler, False
        if scheduler is not None:
            stale = scheduler.stands_on_older_weights(request)
            self._guard.run("finished", lambda: scheduler.finished(request), lambda: None)
            self._guard.run("explain", lambda: self._tell(scheduler, request.request_id), lambda: None)
        # Saves read the blocks on until somebody else gets them: only hand-offs hold them back.
        handing = self._handing
        if handing is None or stale:
            return False, None
        return self._guard.run("handoff", lambda: handing.finished(request, block_ids), lambda: (False, None))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, block_ids[0] if block_ids else [])

    def _tell(self, scheduler: SchedulerSide, req_id: str) -> None:
        """For `tent explain`."""
        story = scheduler.history.end(req_id)
        if self._ring is not None and self._groups is not None:
            self._ring.add(story.record(self._groups.unit))

    def reset_cache(self) -> bool | None:
        """Clears this model's pages, for everybody. False when the directory could not be told."""
        lookup, scheduler = self._lookup, self._scheduler
        if lookup is None or scheduler is None:
            return True
        scheduler.forget_lookups()
        return self._guard.run("reset", lookup.clear, lambda: False)


__all__ = ["TentConnector"]
