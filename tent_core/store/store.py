"""`PageStore`: what serving engines talk to."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from tent_core import _native
from tent_core.config import Config, load_config
from tent_core.engine import Engine, Segment
from tent_core.errors import Closed, DirectoryUnavailable, Forked, InvalidArgument, TentError
from tent_core.metrics import Registry
from tent_core.store.batch import (
    Batch,
    Statuses,
    Words,
    digests_of,
    hold,
    make_batch,
    page_lengths,
    tokens_of,
)
from tent_core.store.context import Context, Deadline
from tent_core.store.copies import Copies
from tent_core.store.drain import Drained, drain
from tent_core.store.held import held
from tent_core.store.in_place import InPlace, SharedMemory
from tent_core.store.lookup import Located, Lookup, lease, locate, predict
from tent_core.store.namespace import Namespace, Value
from tent_core.store.peers import Peers
from tent_core.store.pin import pin
from tent_core.store.place import Place
from tent_core.store.pool import make_pool
from tent_core.store.reader import Reader
from tent_core.store.reason import PageStatus
from tent_core.store.remote import RemoteWriter
from tent_core.store.remove import remove
from tent_core.store.ssd import Ssd
from tent_core.store.transfer import Control, StoreTransfer, Workers
from tent_core.store.upkeep import Upkeep
from tent_core.store.writer import Publisher, Writer
from tent_metadata import Directory, open_directory

__all__ = ["PageStore"]

log = logging.getLogger("tent.store")
_WORKERS = 2
_ABANDONED_S = 5.0
_open_stores: weakref.WeakSet[PageStore] = weakref.WeakSet()
_PRIORITIES = ("interactive", "normal", "bulk")


def _close_all() -> None:
    for store in list(_open_stores):
        store.close()


atexit.register(_close_all)


class PageStore:
    """Pages of this node and, through the directory, of all others. Thread-safe.

    Batch calls answer with a `PageStatus` per page and raise only for the caller's own mistakes: InvalidArgument,
    Unregistered, OutOfRange, OverlappingRanges, ReadOnlyBuffer, Closed, Forked. Faults of the world (a dead owner, a
    silent Redis, no room) are statuses. Addresses are absolute and must lie in memory that was registered; the memory
    must stay registered until the call returns (`StoreTransfer.wait_released` for submitted ones). Bytes and seconds
    throughout.
    """

    def __init__(
        self, config: Config, engine: Engine, directory: Directory, owns: tuple[bool, bool], daemon: bool
    ) -> None:
        """Use `open`."""
        self._pid = os.getpid()
        self.config = config
        self.engine = engine
        self.directory = directory
        self.node_name = engine.name
        self.metrics = Registry()
        self._owns_engine, self._owns_directory = owns
        self._closing = threading.Lock()
        self._closed = False
        self._segment, native, self._prefault = make_pool(engine, config)
        peers = Peers(engine, directory, config.engine.connect_timeout_ms / 1000)
        self._context = Context(engine, directory, native, self.metrics, config, peers, self._segment, daemon)
        self._reader = Reader(self._context)
        publisher = Publisher(self._context, native)
        self._writer = Writer(self._context, publisher) if native is not None else None
        self._remote = RemoteWriter(self._context)
        self._place = Place(self._context, self._writer, self._remote)
        self._copies = None
        if self._writer is not None:
            self._copies = Copies(self._context, self._reader, self._writer, config.store.replicas)
            publisher.on_new = self._copies.put_here
            self._context.ssd = Ssd.open(self._context, self._writer, daemon)
        self._upkeep = Upkeep(self._context, publisher, self._writer, config.directory.node_ttl_ms / 1000)
        self.metrics.attach_native(engine.metrics)
        if native is not None:
            self.metrics.attach_native(lambda: {"store": native.stats()})

    @classmethod
    def open(
        cls,
        config: str | Mapping[str, Any] | Config | None = None,
        *,
        engine: Engine | None = None,
        directory: Directory | None = None,
        daemon: bool = False,
    ) -> PageStore:
        """Starts this node: an engine, the directory, ``store.capacity`` bytes of memory, and its node record.

        An engine or directory that is handed in stays the caller's. ``daemon``: this process outlives those that serve,
        and takes their pages (`tent node`). Raises ConfigError, AuthFailed, NoMemory, PortInUse, NameInUse, and what
        `ssd.open_disk` does; a directory that is merely down is no error: pages are misses until it returns.
        """
        settings = config if isinstance(config, Config) else load_config(config)
        own_engine, own_directory, store = engine is None, directory is None, None
        engine = engine or Engine(settings)
        try:
            directory = directory or open_directory(settings.directory, cluster_id=settings.cluster.id)
            store = cls(settings, engine, directory, (own_engine, own_directory), daemon)
            store._upkeep.join()
        except BaseException:
            if store is not None:
                store.close()
            else:
                if own_directory and directory is not None:
                    directory.close()
                if own_engine:
                    engine.close()
            raise
        store._workers = Workers(_WORKERS, "store")
        store._upkeep.start()
        for helper in (store._copies, store._context.ssd):
            if helper is not None:
                helper.start()
        _open_stores.add(store)
        return store

    _workers: Workers | None = None

    # ---- names and memory

    def namespace(self, fields: Mapping[str, Value], *, model: str = "") -> Namespace:
        """Everything that changes the bytes of a page: model and revision, dtype, layout, page size, ranks, salt ...
        ``model``: what people call it, where no field does; it changes nothing, and ``tent stat`` shows it."""
        self._usable()
        if self.config.store.tenant:
            fields = {"tenant": self.config.store.tenant, **fields}
        space = Namespace.of(fields)
        self._upkeep.tenants.note(space)
        if not self._context.knows(space.digest):
            try:
                self._context.saw_generation(space.digest, self.directory.generation(space.digest))
            except DirectoryUnavailable:
                self._context.lost_directory()
                self._context.saw_generation(space.digest, 0)
            if facts := space.facts(model):
                self._context.note_space(space.digest, facts)
        return space

    def register(self, buffer: Any) -> Segment:
        """Makes memory known: an array, buffer, tensor or ``(address, nbytes)``. Peers cannot reach it. Close the
        segment before the buffer goes, after every transfer over it was released."""
        self._usable()
        return self.engine.register(buffer, access="private")

    def share(self, buffer: Any, page: int) -> SharedMemory:
        """Memory that pages may be published in where they lie (`publish`): ``page`` bytes from its start on, and so
        forth. Every node of the cluster may read all of it from then on. Close it before the memory goes."""
        self._usable()
        with self._closing:
            if self._context.in_place is None:
                self._context.in_place = InPlace(self._context)
        shared: SharedMemory = self._context.in_place.share(buffer, page)
        return shared

    # ---- pages

    def publish(
        self, namespace: Namespace, keys: Sequence[bytes], addresses: Any, lengths: Any, *, token: Any = None
    ) -> Statuses:
        """Pages are found by all from now on where they lie, without a copy: STORED, PRESENT (somebody was first), or a
        miss reason each. Each lies in one piece in one page of `share`d memory. It stays found until you retire it
        (`SharedMemory.retire`), its ``token`` changes (as for `put`, but for as long as it is published), or the
        memory is closed."""
        batch, tokens, held = self._put_batch(namespace, keys, addresses, lengths, token, None)
        try:
            if self._context.in_place is None:
                raise InvalidArgument("no memory is shared yet: call store.share(buffer, page) first")
            status: Statuses = self._context.in_place.publish(namespace.digest, batch, tokens)
            return status
        finally:
            held.release()

    def put(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        addresses: Any,
        lengths: Any,
        *,
        token: Any = None,
        timeout: float | None = None,
        node: str | None = None,
        ttl: float | None = None,
    ) -> Statuses:
        """Stores pages: STORED, PRESENT (somebody was first) or a miss reason each.

        ``token``: per page the address of a uint64 counter that changes when the source gets another owner; a change
        between this call and the end of the copy makes the page UNSTABLE, and it is not stored. ``node``: into that
        node's memory, instead of where ``store.place`` says. ``ttl``: seconds until the pages are misses
        (0: no limit), instead of ``store.ttl_s``; of pages in another node's memory that node's setting decides.
        """
        deadline = self._deadline(timeout)
        batch, tokens, held = self._put_batch(namespace, keys, addresses, lengths, token, ttl)
        try:
            return self._place.put(namespace.digest, batch, tokens, node, deadline, Control())
        finally:
            held.release()

    def get(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        addresses: Any,
        lengths: Any,
        *,
        lookup: Lookup | None = None,
        timeout: float | None = None,
        priority: str = "interactive",
    ) -> Statuses:
        """Brings pages into the caller's memory and verifies them: HIT or a miss reason each. The destination of a
        miss is undefined. ``lookup``: of the same keys, or of more that begin with them."""
        deadline = self._deadline(timeout)
        batch, located, held = self._get_batch(namespace, keys, addresses, lengths, lookup, priority)
        try:
            return self._reader.get(namespace.digest, batch, located, deadline, priority, Control())
        finally:
            held.release()

    def submit_put(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        addresses: Any,
        lengths: Any,
        *,
        token: Any = None,
        timeout: float | None = None,
        node: str | None = None,
        ttl: float | None = None,
    ) -> StoreTransfer:
        """`put` beside the caller. Never blocks; the time-out counts from here."""
        deadline = self._deadline(timeout)
        batch, tokens, held = self._put_batch(namespace, keys, addresses, lengths, token, ttl)
        return self._submit(
            batch,
            held,
            deadline,
            lambda control: self._place.put(namespace.digest, batch, tokens, node, deadline, control),
        )

    def submit_get(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        addresses: Any,
        lengths: Any,
        *,
        lookup: Lookup | None = None,
        timeout: float | None = None,
        priority: str = "interactive",
    ) -> StoreTransfer:
        """`get` beside the caller. Never blocks; the time-out counts from here."""
        deadline = self._deadline(timeout)
        batch, located, held = self._get_batch(namespace, keys, addresses, lengths, lookup, priority)
        return self._submit(
            batch,
            held,
            deadline,
            lambda control: self._reader.get(namespace.digest, batch, located, deadline, priority, control),
        )

    def lookup(
        self, namespace: Namespace, keys: Sequence[bytes], *, lengths: Any = None, pin_ms: int = 0
    ) -> Lookup:
        """Where pages are: one round trip to the directory; never on a scheduler's thread. ``lengths``: a page of
        another length is a miss. ``pin_ms``: owners keep what was found for so long (a round trip to each)."""
        self._usable()
        digests = digests_of(namespace.digest, keys)
        if not 0 <= pin_ms <= 60_000:
            raise InvalidArgument(f"pin_ms must be between 0 and 60000, not {pin_ms}")
        expected = None if lengths is None else page_lengths(lengths, len(digests))
        located = locate(self._context, namespace.digest, digests, expected)
        if pin_ms:
            lease(self._context, located, pin_ms, self._deadline(None))
        self._context.count("lookup", located.status)
        return Lookup(located.status, located)

    def exists(self, namespace: Namespace, keys: Sequence[bytes]) -> Statuses:
        """HIT or a miss reason per page: what the directory says, unverified."""
        self._usable()
        located = locate(self._context, namespace.digest, digests_of(namespace.digest, keys), None)
        return located.status

    def held(self, namespace: Namespace, keys: Sequence[bytes], *, lengths: Any = None) -> Statuses:
        """PRESENT per page that a put would find there already, and so need not be made; else ABSENT, or why nobody
        can tell. ``lengths``: a page of another length is none."""
        self._usable()
        digests = digests_of(namespace.digest, keys)
        expected = None if lengths is None else page_lengths(lengths, len(digests))
        return held(self._context, namespace.digest, digests, expected)

    def remove(self, namespace: Namespace, keys: Sequence[bytes]) -> Statuses:
        """Takes pages out of the directory and out of their owner's memory: HIT (it was there) or a miss reason."""
        self._usable()
        return remove(self._context, namespace.digest, digests_of(namespace.digest, keys))

    def clear(self, namespace: Namespace | None = None) -> None:
        """Forgets a namespace everywhere: its generation rises, and what was published before is a miss for everybody
        at once. Without one: each namespace that this node has used. Raises DirectoryUnavailable."""
        self._usable()
        spaces = [namespace.digest] if namespace is not None else self._context.spaces()
        for space in spaces:
            self._context.saw_generation(space, self.directory.clear(space))

    def generation(self, namespace: Namespace) -> int:
        """How often the namespace was cleared, as far as this node knows. No I/O."""
        return self._context.generation(namespace.digest)

    def saw_generation(self, namespace: Namespace, generation: int) -> None:
        """Somebody who knows more than this node, such as another process of the same server, has it from the
        directory: what is put from now on belongs to it. A lower one than is known changes nothing. No I/O."""
        self._usable()
        self._context.saw_generation(namespace.digest, generation)

    def pin(self, namespace: Namespace, keys: Sequence[bytes]) -> Statuses:
        """Keeps pages of this node from being evicted until `unpin`: HIT, or ABSENT for pages it does not own. Pages on
        disk are brought up for it: what keeps one from being so is its status."""
        return self._pin(namespace, keys, True)

    def unpin(self, namespace: Namespace, keys: Sequence[bytes]) -> Statuses:
        return self._pin(namespace, keys, False)

    def _pin(self, namespace: Namespace, keys: Sequence[bytes], pinned: bool) -> Statuses:
        self._usable()
        return pin(self._context, digests_of(namespace.digest, keys), pinned)

    # ---- what to expect

    def predict_get(self, what: Lookup | int) -> float:
        """Seconds that getting so many bytes, or the hits of a look-up, would take now. No I/O."""
        self._usable()
        if isinstance(what, int):
            return what / self._reader.rate
        return predict(self._context, what.located, self._reader.rate)

    def stats(self) -> dict[str, Any]:
        """Figures of this node, by name. No I/O."""
        self._usable()
        native = self._context.native
        result: dict[str, Any] = {"node": self.node_name, "get_rate_Bps": self._reader.rate}
        result["directory_lost"] = self._context.directory_lost.is_set()
        if native is not None:
            result.update(native.stats())
        if self._context.ssd is not None:
            result["ssd"] = self._context.ssd.stats()
        if self._context.in_place is not None:
            result["in_place"] = self._context.in_place.native.stats()
        return result

    # ---- end

    @property
    def asked_to_drain(self) -> bool:
        """A peer or an operator wants this node to leave (`tent node drain`)."""
        native = self._context.native
        return native is not None and bool(native.asked_to_drain)

    def drain(
        self, timeout: float = 60.0, progress: Callable[[Drained], None] = lambda _state: None
    ) -> Drained:
        """Moves this node's pages to others, the most read first, for up to ``timeout`` seconds; what nobody takes is
        dropped. From now on it takes nothing new. Blocks; then `close`."""
        self._usable()
        if self._context.native is None:
            return Drained()
        return drain(self._context, time.monotonic() + timeout, progress)

    def close(self) -> None:
        """Ends everything: submitted operations are cancelled, loans given back, the node's record removed, threads
        joined, memory freed. Idempotent; in a forked child it does nothing."""
        if os.getpid() != self._pid:
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
        if self._workers is not None:
            self._workers.close()
        for helper in (self._copies, self._context.ssd):
            if helper is not None:
                helper.close()
        self._upkeep.close()
        if self._context.in_place is not None:
            self._context.in_place.close()
        if self._prefault is not None:
            self._prefault.close()
        self._remote.close()
        try:
            self.directory.remove_node(self.node_name, self.engine.incarnation)
        except TentError:
            pass  # it expires
        try:
            if self._owns_engine:
                self.engine.close()
            elif self._segment is not None:
                self._segment.unregister(_ABANDONED_S)
        finally:
            if self._owns_directory:
                self.directory.close()
            _open_stores.discard(self)

    def __enter__(self) -> PageStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PageStore {self.node_name!r}>"

    # ---- inside

    def _usable(self) -> None:
        if os.getpid() != self._pid:
            raise Forked("this process is a child made by fork: open a PageStore here")
        if self._closed:
            raise Closed("the page store was closed")

    def _deadline(self, timeout: float | None) -> Deadline:
        if timeout is not None and timeout <= 0:
            raise InvalidArgument(f"a time-out must be positive, not {timeout}")
        return Deadline(self.config.engine.deadline_ms / 1000 if timeout is None else timeout)

    def _put_batch(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        addresses: Any,
        lengths: Any,
        token: Any,
        ttl: float | None,
    ) -> tuple[Batch, tuple[Words, Words] | None, _native.NativeHold]:
        self._usable()
        batch = make_batch(namespace.digest, keys, addresses, lengths, ttl)
        # Read now: a put may wait in the queue while the block gets another owner.
        return batch, tokens_of(batch, token), hold(self.engine, batch, destination=False)

    def _get_batch(
        self,
        namespace: Namespace,
        keys: Sequence[bytes],
        addresses: Any,
        lengths: Any,
        lookup: Lookup | None,
        priority: str,
    ) -> tuple[Batch, Located | None, _native.NativeHold]:
        self._usable()
        if priority not in _PRIORITIES:
            raise InvalidArgument(f"priority must be one of {', '.join(_PRIORITIES)}, not {priority!r}")
        batch = make_batch(namespace.digest, keys, addresses, lengths)
        located = None if lookup is None else lookup.located.of(batch)
        return batch, located, hold(self.engine, batch, destination=True)

    def _submit(
        self, batch: Batch, held: _native.NativeHold, deadline: Deadline, operation: Any
    ) -> StoreTransfer:
        assert self._workers is not None

        def run(control: Control) -> Statuses:
            if deadline.passed:
                return np.full(len(batch), PageStatus.DEADLINE, dtype=np.uint8)
            status: Statuses = operation(control)
            return status

        return self._workers.submit(len(batch), run, held.release)
