"""The engine's Python face: segments, peers, intents and transfers.

An :class:`Engine` owns segments and moves bytes between them and its peers' segments. You say *what* bytes you want
*where* (an :class:`Intent`); how they travel is the engine's business. Every object here may be used from any thread.
Calls that can block say so and take a time-out in seconds.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core import _native
from tent_core.config import Config, load_config
from tent_core.errors import InvalidArgument, ReadOnlyBuffer, Unsupported, error_for_code
from tent_core.names import generated_name
from tent_core.probing import Prober
from tent_core.recorder import Dumps
from tent_core.segments import RemoteSegment, Segment, memory_of
from tent_core.transfers import Indices, Intent, Transfer, TransferResult

__all__ = ["Engine", "Intent", "Peer", "RemoteSegment", "Segment", "Transfer", "TransferResult"]

log = logging.getLogger("tent")

U64 = npt.NDArray[np.uint64]
ConfigSource = str | Mapping[str, Any] | Config | None

_MOST_SLOTS = 1 << 20  # csrc/proto/wire.h
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _close_all() -> None:
    for engine in list(_open_engines):
        engine.close()


atexit.register(_close_all)


def _u64(values: Indices) -> U64:
    return np.atleast_1d(np.asarray(values)).astype(np.uint64, copy=False)


class Peer:
    """A session towards another node. Made by :meth:`Engine.connect`."""

    def __init__(self, engine: Engine, native: Any) -> None:
        self._engine = engine
        self._native = native

    @property
    def name(self) -> str:
        return str(self._native.name)

    @property
    def incarnation(self) -> bytes:
        return bytes(self._native.incarnation)

    @property
    def alive(self) -> bool:
        """False once the session is lost; a new ``connect`` makes another."""
        return bool(self._native.alive)

    def segments(self, timeout: float | None = None) -> dict[str, RemoteSegment]:
        """What the peer exposes to us, by name. Asks it, blocking up to ``timeout`` (2 s)."""
        rights = ("", "r", "w", "rw")
        return {
            name: RemoteSegment(id, name, length, extent, rights[allowed])
            for id, name, length, extent, _kind, allowed in self._native.segments(timeout)
        }

    def segment(self, which: str | int, timeout: float | None = None) -> RemoteSegment:
        """One of them, by name or id; SegmentGone if the peer exposes none such."""
        for segment in self.segments(timeout).values():
            if which in (segment.name, segment.id):
                return segment
        raise error_for_code("segment_gone", f"node '{self.name}' exposes no segment {which!r} to us")

    def links(self) -> list[dict[str, Any]]:
        return [row for row in self._engine.links() if row["peer"] == self.name]

    def stats(self, timeout: float | None = None) -> dict[str, Any]:
        """What :meth:`Engine.stats` says at the peer. Blocks up to ``timeout`` (5 s)."""
        return _native.peer_stats(self._native, timeout)

    def recording(self, reason: str, timeout: float | None = None) -> bytes:
        """The peer's flight recording. Blocks up to ``timeout`` (5 s)."""
        return _native.peer_recording(self._native, reason, timeout)

    def call(self, method: int, request: bytes, timeout: float | None = None) -> bytes:
        """Asks the peer's page store (its native handler answers). Blocks up to ``timeout`` (2 s)."""
        return bytes(self._native.call(method, request, timeout))

    def close(self) -> None:
        self._native.close()


class Engine:
    """One node. Starts its threads and listens at once; ``close()`` (or ``with``) ends it.

    Raises ConfigError, PortInUse, AuthFailed (an outside address without a secret) or NoMemory. After ``fork()`` the
    child's engine is dead: every call raises Forked.
    """

    def __init__(self, config: ConfigSource = None, *, name: str | None = None) -> None:
        self.config = config if isinstance(config, Config) else load_config(config)
        settings = self.config.native()
        settings["node.name"] = name or self.config.node.name or generated_name()
        # The application's own logging set-up holds, unless somebody asked for a level.
        if self.config.origin("log.level") != "default":
            log.setLevel(self.config.log.level.upper())
        _native.set_log_level(log.getEffectiveLevel() // 10 - 1)
        self._native = _native.NativeEngine(settings)
        self._dumps = Dumps(self._native, self.name, self.config)
        self._prober = Prober(self._native, self.config)
        self._segments: dict[int, Segment] = {}
        self._callbacks: dict[int, tuple[Transfer, list[Callable[[Transfer], None]]]] = {}
        self._lock = threading.Lock()
        self._notifier = threading.Thread(target=self._notify, name="tent-notifier", daemon=True)
        self._notifier.start()
        _open_engines.add(self)

    # ---- identity

    @property
    def name(self) -> str:
        return str(self._native.name)

    @property
    def incarnation(self) -> bytes:
        return bytes(self._native.incarnation)

    def descriptor(self) -> bytes:
        """How peers find this node: hand the blob to their ``connect``."""
        return bytes(self._native.descriptor())

    @staticmethod
    def describe(descriptor: bytes) -> dict[str, Any]:
        """What a descriptor says. Raises ProtocolError or VersionMismatch for other bytes."""
        return dict(_native.describe(descriptor))

    # ---- segments

    def allocate(
        self, nbytes: int, *, name: str | None = None, extent: int | None = None, access: str = "rw"
    ) -> Segment:
        """Shared memory of ``nbytes``, cut into extents of ``extent`` bytes (default: one), exposed to peers with
        ``access`` ('r', 'rw', 'w', or 'private' for not at all). Allocated now: NoMemory names the limit."""
        if nbytes <= 0:
            raise InvalidArgument(f"a segment needs a positive size, not {nbytes}")
        if extent is not None and extent <= 0:
            raise InvalidArgument(f"an extent needs a positive size, not {extent}")
        return self._enter(self._native.allocate(nbytes, extent or 0, name or "", access), access, None)

    def register(self, buffer: Any, *, name: str | None = None, access: str = "rw") -> Segment:
        """Your own memory: an array, a buffer, a tensor, or ``(address, nbytes)``. The segment keeps a reference to
        the object until it is closed. ``access='private'`` exposes it to nobody."""
        address, nbytes, writable, keep = memory_of(buffer)
        if nbytes <= 0:
            raise InvalidArgument(f"a segment needs a positive size, not {nbytes}")
        if not writable and access in ("rw", "w"):
            if access == "w" or name is not None:
                raise ReadOnlyBuffer("the buffer is read-only: register it with access='r' or 'private'")
            access = "r"
        fields = self._native.add(address, nbytes, name or "", access, writable)
        return self._enter(fields, access, keep, writable)

    def _register_slots(self, buffer: Any, slot: int) -> Segment:
        """`register`, for peers to read, with an epoch for each piece of ``slot`` bytes."""
        address, nbytes, writable, keep = memory_of(buffer)
        if not 0 < slot <= nbytes:
            raise InvalidArgument(f"a page of {slot} bytes does not fit into memory of {nbytes}")
        if (nbytes + slot - 1) // slot > _MOST_SLOTS:
            raise InvalidArgument(f"memory of more than {_MOST_SLOTS} pages: share it in pieces")
        fields = self._native.add(address, nbytes, "", "r", writable, slot)
        return self._enter(fields, "r", keep, writable)

    def _enter(
        self, fields: tuple[int, str, int, int, int, int], access: str, keep: Any, writable: bool = True
    ) -> Segment:
        segment = Segment(self, fields, access != "private", keep, writable)
        self._segments[segment.id] = segment
        return segment

    # ---- peers

    def connect(self, descriptor: bytes, timeout: float | None = None) -> Peer:
        """A session with the node of ``descriptor``. Blocks up to ``timeout`` (``engine.connect_timeout_ms``). Raises
        PeerUnreachable, AuthFailed, ClusterMismatch, VersionMismatch or StaleIncarnation."""
        return Peer(self, self._native.connect(descriptor, timeout))

    # ---- transfers

    def submit(self, intent: Intent) -> Transfer:
        """Checks and starts an intent; does not block. Raises for what can be refused at once: Unregistered,
        OverlappingRanges, ReadOnlyBuffer, InvalidArgument, PeerDead ..."""
        return Transfer(self, self._submit(intent, False))

    def _submit(
        self,
        intent: Intent,
        will_wait: bool,
        *,
        remember_links: bool = False,
        digests: npt.NDArray[np.uint8] | None = None,
    ) -> Any:
        """``digests``: of the page that each group is; its check may be taken on the way (`_native.page_checks`)."""
        if intent.alternatives is not None:
            raise Unsupported("alternatives are not supported yet: submit one intent per replica")
        if intent.op not in ("read", "write"):
            raise InvalidArgument(f"op must be 'read' or 'write', not {intent.op!r}")
        for what in ("length", "remote_offset"):
            value = getattr(intent, what)
            if isinstance(value, int) and value < 0:
                raise InvalidArgument(f"{what} must not be negative, got {value}")
        segment = intent.remote_segment
        segment = segment.id if isinstance(segment, RemoteSegment) else segment
        optional: dict[str, Any] = {
            "epoch": None if intent.epoch is None else np.asarray(intent.epoch, dtype=np.uint32),
            "group": None if intent.group is None else np.asarray(intent.group, dtype=np.uint32),
            "checks": None if intent.checks is None else np.asarray(intent.checks, dtype=np.uint64),
        }
        return self._native.submit(
            intent.peer._native,
            intent.op == "write",
            _u64(intent.local),
            np.atleast_1d(np.asarray(segment, dtype=np.uint32)),
            _u64(intent.remote_offset),
            _u64(intent.length),
            priority=intent.priority,
            deadline=intent.deadline,
            notify=intent.notify,
            will_wait=will_wait,
            remember_links=remember_links,
            digests=digests,
            **optional,
        )

    def run(self, intent: Intent) -> TransferResult:
        """Submits, waits and returns the result, or raises it. The calling thread helps with the copying."""
        transfer = Transfer(self, self._submit(intent, True))
        return transfer.result()

    def read(
        self,
        peer: Peer,
        local: Indices,
        remote_segment: Indices | RemoteSegment,
        remote_offset: Indices,
        length: Indices,
        **options: Any,
    ) -> TransferResult:
        """``run(Intent("read", ...))``."""
        if (
            not options
            and isinstance(local, int)
            and isinstance(length, int)
            and isinstance(remote_offset, int)
        ):
            return self._move_one(peer, False, local, remote_segment, remote_offset, length)
        return self.run(Intent("read", peer, local, remote_segment, remote_offset, length, **options))

    def write(
        self,
        peer: Peer,
        local: Indices,
        remote_segment: Indices | RemoteSegment,
        remote_offset: Indices,
        length: Indices,
        **options: Any,
    ) -> TransferResult:
        """``run(Intent("write", ...))``."""
        if (
            not options
            and isinstance(local, int)
            and isinstance(length, int)
            and isinstance(remote_offset, int)
        ):
            return self._move_one(peer, True, local, remote_segment, remote_offset, length)
        return self.run(Intent("write", peer, local, remote_segment, remote_offset, length, **options))

    def _move_one(
        self, peer: Peer, write: bool, local: int, segment: Any, offset: int, length: int
    ) -> TransferResult:
        which = segment.id if isinstance(segment, RemoteSegment) else int(segment)
        if local < 0 or offset < 0 or length <= 0:
            raise InvalidArgument(f"address, offset and length must be positive: {local}, {offset}, {length}")
        seconds = self._native.move_one(peer._native, write, local, which, offset, length)
        return TransferResult(length, seconds, 1)

    def predict(self, intent: Intent) -> float:
        """Seconds that the intent would take if it were submitted now."""
        length = _u64(intent.length)
        total = int(length[0]) * len(_u64(intent.local)) if len(length) == 1 else int(length.sum())
        return float(intent.peer._native.predict(total, intent.priority))

    def notifications(self, timeout: float | None = None) -> list[tuple[str, bytes]]:
        """What peers sent along with their writes, as (peer's name, bytes); each exactly once. Blocks up to
        ``timeout``; empty when nothing came or the engine is closing."""
        return [(peer, bytes(payload)) for peer, payload in self._native.take_notifications(timeout)]

    # ---- what is going on

    def links(self) -> list[dict[str, Any]]:
        return list(self._native.links())

    def capabilities(self) -> dict[str, dict[str, Any]]:
        """What each transport that is enabled states of itself, by name: ``same_host_only``, ``one_sided`` (the owner's
        CPU takes no part), ``read_fence`` and ``write_fence`` ("local" or "owner": who proves that an attempt has
        ended), ``kinds`` of segment that it reaches ("memfd", "region"), ``max_pieces`` and ``max_bytes`` of one
        attempt (larger intents are cut)."""
        return dict(self._native.capabilities())

    def metrics(self) -> dict[str, int]:
        """The native counters. Registered with :mod:`tent_core.metrics` by whoever owns the registry."""
        return dict(self._native.counters())

    def stats(self) -> dict[str, Any]:
        """Counters, and of every link what it is believed to do, what it did, and the four times of its last fault
        (docs/observability.md). Times in nanoseconds of this host's monotonic clock."""
        return _native.node_stats(self._native)

    def recording(self, reason: str = "asked for") -> bytes:
        """What the flight recorder holds: ``tent trace`` and ``tent recorder replay`` take it."""
        return _native.node_recording(self._native, reason)

    def dump_recorder(self, path: str | None = None, reason: str = "asked for") -> str:
        """Writes it to a file: ``path``, or a new one in ``recorder.dir`` (or else the temporary folder). Returns its
        path; raises OSError."""
        return str(self._dumps.write(reason, path))

    # ---- end

    def close(self, timeout: float | None = None) -> None:
        """Cancels what is in flight, tells the peers, revokes every grant, joins every thread. Idempotent. Blocks up to
        ``timeout`` (two leases) for writes that only the owner's lease can fence."""
        self._native.close(timeout)
        _open_engines.discard(self)
        if self._notifier is not threading.current_thread() and self._notifier.is_alive():
            self._notifier.join(5)
        self._dumps.close()
        self._prober.close()
        for segment in list(self._segments.values()):
            segment._closed = True
            segment._keep = None
        self._segments.clear()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine {self.name!r}>"

    # ---- the notifier thread

    def _add_callback(self, transfer: Transfer, callback: Callable[[Transfer], None]) -> None:
        with self._lock:
            self._callbacks.setdefault(int(transfer._native.id), (transfer, []))[1].append(callback)
        if transfer.done:
            self._run_callbacks(int(transfer._native.id))
        else:
            transfer._native.want_callback()

    def _run_callbacks(self, transfer_id: int) -> None:
        with self._lock:
            entry = self._callbacks.pop(transfer_id, None)
        if entry is None:
            return
        transfer, callbacks = entry
        for callback in callbacks:
            try:
                callback(transfer)
            except Exception:
                log.exception("a done callback of %r failed", transfer)

    def _notify(self) -> None:
        going = True
        while going:
            going, finished = self._native.take_finished(0.5)
            for transfer_id in finished:
                self._run_callbacks(transfer_id)
            self._dumps.tick()
            self._prober.tick()
            for level, line in _native.take_log_lines():
                log.log(_LEVELS[level], line)
