"""`TentHiCacheStorage`: SGLang's HiCache pages in TENT's page store.

SGLang calls from four threads of its own. Once the backend is attached nothing is raised into them: the worst
answer is a miss. Translation only: placement, transfers and checks are the store's business.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tent_core.config import for_rank, load_config
from tent_core.errors import Closed, Unsupported
from tent_core.explain import Ring
from tent_core.store import PageStatus, PageStore

from .contract import check
from .flat import FlatPages
from .guard import Guard, log
from .heads import HeadGroups, head_groups
from .identity import model_fields, namespace_fields, rank_of_process, sglang_version
from .mover import Mover, Op, reason_of
from .policy import boundary, leading, restorable_all, restorable_trailing
from .pool import HostPool
from .prefill import PREFILL
from .settings import split_extra_config
from .sglang_api import HiCacheStorage, pool_transfer_result, server_args, storage_metrics, text
from .worth import Worth

__all__ = ["TentHiCacheStorage"]

KV = "kv"


class TentHiCacheStorage(HiCacheStorage):  # type: ignore[misc]
    """A HiCache storage backend over one PageStore, opened at attach and closed at detach.

    Owns its store; borrows SGLang's host pools, which it registers and, in `close`, deregisters: when `close` has
    returned nothing of TENT touches them any more, and a new backend may be attached over the same memory.
    """

    _pin_ms = 0
    """How long owners keep what a look-up found."""
    _cut_short = True
    """Whether a load ends early when computing would have been faster."""

    def __init__(
        self, storage_config: Any, kwargs: dict[str, Any] | None = None, *, store: Any = None
    ) -> None:
        """Called by SGLang's `dynamic` loader. A `store` given replaces the one that the configuration describes,
        and stays its giver's to close.

        Raises ConfigError on a bad configuration and Unsupported on a mode that is not built. SGLang reports that
        to whoever asked for the attachment; nothing is running yet.
        """
        check(sglang_version(), HiCacheStorage, type(self))
        config, settings = split_extra_config(storage_config.extra_config)
        self._storage_config = storage_config
        self._guard = Guard()
        self._model = model_fields(server_args())
        self._owns_store = store is None
        if store is None:
            store = PageStore.open(for_rank(load_config(config), rank_of_process(storage_config)))
        self._store = store
        self._mover = Mover(self._store, settings, self._guard)
        self._worth = Worth(lambda: PREFILL.rate, settings.load == "always")
        self._flat = FlatPages(self._store, self._mover, self._flat_namespace)
        self._lock = threading.Lock()
        self._closed = False
        self._segments: dict[tuple[int, int], Any] = {}
        self._pools: dict[str, HostPool] = {}
        self._refused: dict[str, str] = {}
        self._about: dict[str, Any] = {"engine": "sglang", "node": getattr(self._store, "node_name", "")}
        self._ring = Ring(self._about)
        self._mover.tell = self._ring.add
        log.info("attached: node %s", getattr(self._store, "node_name", "?"))

    # ---- pools -------------------------------------------------------------------------------------------------

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """The pool of the main KV cache. Raises Unsupported when its pages have no addresses."""
        self.mem_pool_host = mem_pool_host
        self._add_pool(KV, mem_pool_host)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """A pool by name: the main one again, or a sidecar. One that cannot be served never has a page."""
        name = text(host_pool_name)
        known = self._pools.get(name)
        if known is not None and known.pool is host_pool:
            return
        try:
            self._add_pool(name, host_pool)
        except Unsupported as refusal:
            self._refused[name] = str(refusal)
            self._guard.warn(
                f"pool:{name}", "prompts that need pool %s will always miss: %s", name, str(refusal)
            )

    def on_host_pools_registered(self) -> None:
        """The first registrations are done. Raises Unsupported when a pool of this model cannot be served.

        Every prompt would miss for the lack of it: better said now.
        """
        if self._refused:
            raise Unsupported("; ".join(self._refused.values()))

    def _add_pool(self, name: str, pool: Any) -> None:
        groups = head_groups(self._storage_config, pool)
        host = HostPool(name, pool, self._store, self._segments, groups)
        lengths = [int(length) for length in host.part_lengths]
        host.namespace = self._namespace(pool, name, "parts", lengths, groups)
        self._pools[name] = host

    def _namespace(
        self, pool: Any, name: str, form: str, lengths: list[int], groups: HeadGroups | None = None
    ) -> Any:
        fields = namespace_fields(self._storage_config, pool, name, form, lengths, self._model, groups)
        if name == KV and form == "parts":
            self._about["fields"] = fields
        self._ring.about(self._about)
        return self._store.namespace(fields)

    def _flat_namespace(self, length: int) -> Any:
        return self._namespace(self._pool(KV).pool, KV, "flat", [length])

    # ---- lookup ------------------------------------------------------------------------------------------------

    def batch_exists(self, keys: Sequence[str], extra_info: Any = None) -> int:
        """Number of `keys` found, from the front without a gap, if they are worth loading."""
        return self._guard.run("exists", lambda: self._restorable(keys, ())[0], lambda: 0)

    def exists(self, key: str) -> bool:
        return self._guard.run(
            "exists", lambda: bool(self._find(KV, [key])[0][0] == PageStatus.HIT), lambda: False
        )

    def batch_exists_v2(self, keys: Sequence[str], pool_transfers: Any = None, extra_info: Any = None) -> Any:
        """The longest prefix whose KV pages and sidecars are all there, and how far each pool goes."""
        nothing: tuple[int, dict[Any, int], list[int]] = (0, {}, [])
        found = self._guard.run(
            "exists", lambda: self._restorable(keys, pool_transfers or ()), lambda: nothing
        )
        return pool_transfer_result(*found)

    def _restorable(
        self, keys: Sequence[str], transfers: Sequence[Any]
    ) -> tuple[int, dict[Any, int], list[int]]:
        """(longest prefix, pages by pool, every prefix length that can be restored)."""
        status, seconds = self._find(KV, keys)
        present = status == PageStatus.HIT
        pages = leading(present)
        ends = [(pages, KV, reason_of(int(status[pages])))] if pages < len(keys) else []
        seconds *= pages / max(1, int(np.count_nonzero(present)))
        hits: dict[Any, int] = {KV: pages} if pages else {}
        prefixes = np.ones(pages, dtype=np.bool_)
        for transfer in transfers:
            if not prefixes.any():
                break
            own, more = self._restorable_of(transfer, keys[:pages], ends)
            seconds += more
            if own is None:
                continue
            if own.any():
                hits[transfer.name] = boundary(own)
            prefixes &= own
        restorable = (np.flatnonzero(prefixes) + 1).tolist()
        answer = self._worthwhile(restorable, hits, seconds)
        self._record(keys, pages, restorable, answer[0], ends, seconds)
        return answer

    def _record(
        self,
        keys: Sequence[str],
        found: int,
        restorable: list[int],
        given: int,
        ends: list[tuple[int, str, str]],
        seconds: float,
    ) -> None:
        """For `tent explain`. `ends`: (page, pool, why it is no hit) of each pool that set an end."""
        record: dict[str, Any] = {"did": "look", "asked": len(keys), "found": found, "given": given}
        whole = restorable[-1] if restorable else 0
        if given < whole:
            record.update(why="computing is faster", load_s=round(seconds, 4), compute_tps=PREFILL.rate)
        elif given < len(keys) and ends:
            page, pool, why = min(ends)
            record.update(why=why, pool=pool, page=page, key=keys[page])
        self._ring.add(record)

    def _restorable_of(
        self, transfer: Any, keys: Sequence[str], ends: list[tuple[int, str, str]]
    ) -> tuple[Any, float]:
        """Per prefix of `keys` whether this pool allows it (None: the pool never decides); seconds to load it. Adds
        to `ends` where it does not reach to the last of them."""
        rule, name = text(transfer.hit_policy), text(transfer.name)
        if rule == "block_groups":
            return None, 0.0  # a second form of pages found already
        if rule not in ("all_pages", "trailing_pages"):
            raise Unsupported(f"hit policy {rule!r} of pool {name!r} is not known to TENT")
        status, seconds = self._find(name, keys)
        present = status == PageStatus.HIT
        window = max(1, len(transfer.keys or ()))
        own = restorable_all(present) if rule == "all_pages" else restorable_trailing(present, window)
        if not own[-1]:
            page = int(np.flatnonzero(~present)[0 if rule == "all_pages" else -1])
            ends.append((page, name, self._refused.get(name) or reason_of(int(status[page]))))
        if rule == "trailing_pages":
            seconds *= min(1.0, window / len(keys))  # of all that are there it loads the last `window`
        return own, seconds

    def _worthwhile(
        self, restorable: list[int], hits: dict[Any, int], seconds: float
    ) -> tuple[int, dict[Any, int], list[int]]:
        """The same, without what would take longer to load than to compute."""
        longest = restorable[-1] if restorable else 0
        most = self._worth.pages(longest, self._page_tokens(), seconds)
        if most == longest:
            return longest, hits, restorable
        self._guard.count("exists.pages_not_worth_loading", longest - most)
        some = [pages for pages in restorable if pages <= most]
        return some[-1] if some else 0, {name: min(pages, most) for name, pages in hits.items()}, some

    def _page_tokens(self) -> int:
        return self._pool(KV).entries

    def _find(self, name: str, keys: Sequence[str]) -> tuple[Any, float]:
        """Per key its PageStatus, HIT or why not; seconds to load the hits. A pool that this backend refused has
        none."""
        if name in self._refused:
            return np.full(len(keys), PageStatus.REFUSED, dtype=np.uint8), 0.0
        pool = self._pool(name)
        status, seconds = self._mover.find(
            pool.namespace, pool.names(keys), pool.piece_bytes, pool.pieces, pin_ms=self._pin_ms
        )
        return status, seconds

    # ---- zero-copy pages ---------------------------------------------------------------------------------------

    def batch_get_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Reads pages into the host pool; those that are False hold undefined bytes."""
        return self._move("get", KV, keys, host_indices)

    def batch_set_v1(self, keys: Sequence[str], host_indices: Any, extra_info: Any = None) -> list[bool]:
        """Stores pages out of the host pool. One that the store has already is a success."""
        return self._move("set", KV, keys, host_indices)

    def batch_get_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        return {t.name: self._move("get", text(t.name), t.keys or [], t.host_indices) for t in transfers}

    def batch_set_v2(self, transfers: Sequence[Any], extra_info: Any = None) -> dict[Any, list[bool]]:
        return {t.name: self._move("set", text(t.name), t.keys or [], t.host_indices) for t in transfers}

    def _move(self, op: Op, name: str, keys: Sequence[str], host_indices: Any) -> list[bool]:
        def call() -> list[bool]:
            pool = self._pool(name)
            impatient = op == "get" and self._cut_short
            return self._mover.move(
                op,
                pool.namespace,
                pool.names(keys),
                pool.locate(host_indices, len(keys)),
                pool.part_lengths,
                pieces=pool.pieces,
                within=self._worth.patience(len(keys) * self._page_tokens()) if impatient else None,
            )

        return self._guard.run(op, call, lambda: [False] * len(keys)) if len(keys) else []

    # ---- copying calls -----------------------------------------------------------------------------------------

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> Any:
        """`target_location` filled with the page, or None."""
        return self.batch_get([key], [target_location])[0]

    def batch_get(
        self, keys: Sequence[str], target_locations: Any = None, target_sizes: Any = None
    ) -> list[Any]:
        """Per key its target, filled, or None."""
        targets = target_locations or []
        return self._guard.run(
            "get", lambda: self._usable_flat().get(keys, targets), lambda: [None] * len(keys)
        )

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        return self.batch_set([key], [target_location if value is None else value])

    def batch_set(
        self, keys: Sequence[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        """True when every page is stored, by this call or before it."""
        sources = values if values is not None else target_locations or []
        return self._guard.run("set", lambda: self._usable_flat().set(keys, sources), lambda: False)

    # ---- life --------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forgets every page of this model, layout and rank on all nodes; pages of others stay.

        Raises when the directory cannot be told: SGLang then answers that request with a failure, not "cleared".
        """
        self._check_open()
        for pool in self._pools.values():
            self._store.clear(pool.namespace)
        for namespace in self._flat.namespaces():
            self._store.clear(namespace)

    def get_stats(self) -> Any:
        """SGLang's StorageMetrics of the transfers since the last call. No I/O, no wait."""
        take = self._mover
        return self._guard.run(
            "stats", lambda: storage_metrics(take.reads.take(), take.writes.take()), lambda: None
        )

    def counters(self) -> dict[str, int]:
        """Pages and bytes moved, misses by reason and faults held back, since the attachment."""
        return self._guard.counts()

    def follow_stop_event(self, event: threading.Event) -> None:
        """While `event` is set SGLang waits for its storage threads: transfers end early, as misses."""
        self._mover.follow(event)

    def close(self) -> None:
        """Ends the attachment. On return SGLang's pools are deregistered. May be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._owns_store:
            # Cancels and joins what is under way, then ends every registration with the engine.
            self._store.close()
        self._flat.close()
        for segment in self._segments.values():
            segment.close()
        # SGLang freezes its garbage collector, so memory of the store must not hang on a cycle through this object.
        self._segments.clear()
        self._mover.release()
        self._ring.close()
        self._store = None
        log.info("detached: %s", self.counters())

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the TENT backend of this SGLang process is detached; attach it again")

    def _usable_flat(self) -> FlatPages:
        self._check_open()
        return self._flat

    def _pool(self, name: str) -> HostPool:
        self._check_open()
        pool = self._pools.get(name)
        if pool is None:
            raise Unsupported(self._refused.get(name, f"SGLang registered no host pool named {name!r}"))
        return pool
