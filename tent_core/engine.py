"""The engine's Python face: segments, peers, intents and transfers.

An :class:`Engine` owns segments and moves bytes between them and its peers' segments. You say *what* bytes you want
*where* (an :class:`Intent`); how they travel is the engine's business. Every object here may be used from any thread.
Calls that can block say so and take a time-out in seconds.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import logging
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tent_core import _native
from tent_core.config import Config, load_config
from tent_core.errors import InvalidArgument, ReadOnlyBuffer, TentError, Unsupported, error_for_code
from tent_core.names import generated_name

__all__ = ["Engine", "Intent", "Peer", "RemoteSegment", "Segment", "Transfer", "TransferResult"]

log = logging.getLogger("tent")

U64 = npt.NDArray[np.uint64]
Indices = int | Sequence[int] | npt.NDArray[Any]
ConfigSource = str | Mapping[str, Any] | Config | None

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _close_all() -> None:
    for engine in list(_open_engines):
        engine.close()


atexit.register(_close_all)


def _u64(values: Indices) -> U64:
    return np.atleast_1d(np.asarray(values)).astype(np.uint64, copy=False)


def _memory_of(buffer: Any) -> tuple[int, int, bool, Any]:
    """Address, bytes, writable and the object that keeps the memory alive, of anything that exposes memory."""
    if isinstance(buffer, tuple) and len(buffer) == 2:
        address, nbytes = buffer
        return int(address), int(nbytes), True, None
    if hasattr(buffer, "data_ptr") and hasattr(buffer, "untyped_storage"):  # a torch tensor
        if not buffer.is_contiguous():
            raise InvalidArgument(
                "the tensor is not contiguous: register its storage, or call contiguous() first"
            )
        return int(buffer.data_ptr()), int(buffer.numel() * buffer.element_size()), True, buffer
    if hasattr(buffer, "__dlpack__") and not isinstance(buffer, np.ndarray):
        buffer = np.from_dlpack(buffer)
    try:
        view = memoryview(buffer)
    except TypeError as error:
        raise InvalidArgument(
            f"{type(buffer).__name__} exposes no memory: pass an array, a buffer, a tensor or (address, nbytes)"
        ) from error
    if not view.contiguous:
        raise InvalidArgument("the buffer is not contiguous: copy it, or register the array it is a view of")
    array = np.frombuffer(view, dtype=np.uint8)
    return int(array.ctypes.data), int(array.nbytes), not view.readonly, array


class Segment:
    """A byte range of this node: memory that the engine allocated, or that you registered. ``close()`` ends it."""

    def __init__(
        self,
        engine: Engine,
        fields: tuple[int, str, int, int, int, int],
        exposed: bool,
        keep: Any,
        writable: bool = True,
    ) -> None:
        self._engine = engine
        self.writable = writable  # by us; what peers may do is the access it was made with
        self.id, self.name, self.address, self.nbytes, self._epochs, self.extent = fields
        self.exposed = exposed
        self._keep = keep
        self._closed = False

    @property
    def view(self) -> npt.NDArray[np.uint8]:
        """The bytes, without a copy. Valid until ``close()``."""
        if self._closed:
            raise error_for_code("segment_gone", f"segment '{self.name}' was closed")
        pointer = (ctypes.c_uint8 * self.nbytes).from_address(self.address)
        return np.frombuffer(memoryview(pointer), dtype=np.uint8)

    def unregister(self, timeout: float = 10.0) -> None:
        """Revokes what peers were granted and returns when nothing touches the memory any more. Blocks up to
        ``timeout``; raises Busy when something still does: the memory must then stay, and you may call again."""
        if self._closed:
            return
        self._engine._native.unregister(self.id, timeout)
        self._closed = True
        self._keep = None
        self._engine._segments.pop(self.id, None)

    close = unregister

    def __repr__(self) -> str:
        return f"<Segment {self.name!r} {self.nbytes} bytes at {self.address:#x}>"


@dataclass(frozen=True)
class RemoteSegment:
    """A peer's segment, as it exposes it to us."""

    id: int
    name: str
    length: int
    extent: int
    rights: str


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

    def call(self, method: int, request: bytes, timeout: float | None = None) -> bytes:
        """Asks the peer's page store (its native handler answers). Blocks up to ``timeout`` (2 s)."""
        return bytes(self._native.call(method, request, timeout))

    def close(self) -> None:
        self._native.close()


@dataclass
class Intent:
    """What bytes you want where: an ordered list of ranges, served in that order.

    Shapes: ``local`` (absolute addresses inside registered segments) and ``remote_offset`` have N entries;
    ``remote_segment`` and ``length`` one or N; ``group``, ``checks`` and ``epoch`` N, if given. Units: bytes;
    ``deadline`` in seconds from now (default: ``engine.deadline_ms``). For a read the local side is the destination.
    """

    op: str
    peer: Peer
    local: Indices
    remote_segment: Indices | RemoteSegment
    remote_offset: Indices
    length: Indices
    group: Indices | None = None
    checks: Indices | None = None
    epoch: Indices | None = None
    alternatives: Any = None
    priority: str = "normal"
    deadline: float | None = None
    notify: bytes | None = None


class TransferResult(NamedTuple):
    """What a transfer that succeeded did: bytes moved, seconds it took, ranges (all of them complete)."""

    bytes: int
    seconds: float
    prefix: int


class Transfer:
    """A submitted intent. Keeps its memory registered until it is released, whatever you drop."""

    def __init__(self, engine: Engine, native: Any) -> None:
        self._engine = engine
        self._native = native

    @property
    def done(self) -> bool:
        """The result is known. The memory may still be in use by attempts that were given up: see ``released``."""
        return bool(self._native.done)

    def poll(self) -> bool:
        return self.done

    @property
    def released(self) -> bool:
        """Nothing of this transfer touches memory any more, at either end."""
        return bool(self._native.released)

    @property
    def status(self) -> npt.NDArray[np.uint8]:
        """Per range: 0 pending, 1 ok, 2 failed, 3 cancelled."""
        array: npt.NDArray[np.uint8] = self._native.status
        return array

    @property
    def errors(self) -> dict[int, TentError]:
        return {index: error_for_code(code, message) for index, code, message in self._native.errors}

    @property
    def prefix(self) -> int:
        """How many ranges are complete from the front."""
        return int(self._native.prefix)

    @property
    def groups_done(self) -> npt.NDArray[np.bool_]:
        array: npt.NDArray[np.bool_] = self._native.groups_done
        return array

    @property
    def bytes(self) -> int:
        return int(self._native.bytes)

    @property
    def seconds(self) -> float:
        return float(self._native.seconds)

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until done or ``timeout``. A time-out ends nothing: only ``cancel()`` or the deadline does."""
        return bool(self._native.wait(timeout))

    def wait_released(self, timeout: float | None = None) -> bool:
        return bool(self._native.wait_released(timeout))

    def result(self, timeout: float | None = None) -> TransferResult:
        """Waits, then returns what was done or raises the first error."""
        if not self.wait(timeout):
            raise error_for_code("deadline", "the transfer is not done yet (result() timed out; it goes on)")
        code, message = self._native.result
        if code != "ok":
            raise error_for_code(code, message)
        return TransferResult(self.bytes, self.seconds, self.prefix)

    def cancel(self) -> bool:
        """Gives up what is not done yet. True if this call ended it; a completion wins the race."""
        return bool(self._native.cancel())

    def set_priority(self, priority: str) -> None:
        self._native.set_priority(priority)

    def fileno(self) -> int:
        """An eventfd that is readable once the transfer is done. Owned by the transfer."""
        return int(self._native.fileno())

    def add_done_callback(self, callback: Callable[[Transfer], None]) -> None:
        """Calls ``callback(transfer)`` on the engine's notifier thread once done (at once if it is already)."""
        self._engine._add_callback(self, callback)

    def __await__(self) -> Generator[Any, None, TransferResult]:
        if not self.done:
            loop = asyncio.get_running_loop()
            ready: asyncio.Future[None] = loop.create_future()
            descriptor = self.fileno()

            def wake() -> None:
                loop.remove_reader(descriptor)
                if not ready.done():
                    ready.set_result(None)

            loop.add_reader(descriptor, wake)
            try:
                yield from ready.__await__()
            finally:
                loop.remove_reader(descriptor)
        return self.result(0)

    def __repr__(self) -> str:
        state = "released" if self.released else "done" if self.done else "pending"
        return f"<Transfer {self._native.id} {self.bytes} bytes {state}>"


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
        address, nbytes, writable, keep = _memory_of(buffer)
        if nbytes <= 0:
            raise InvalidArgument(f"a segment needs a positive size, not {nbytes}")
        if not writable and access in ("rw", "w"):
            if access == "w" or name is not None:
                raise ReadOnlyBuffer("the buffer is read-only: register it with access='r' or 'private'")
            access = "r"
        fields = self._native.add(address, nbytes, name or "", access, writable)
        return self._enter(fields, access, keep, writable)

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

    def _submit(self, intent: Intent, will_wait: bool) -> Any:
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

    # ---- end

    def close(self, timeout: float | None = None) -> None:
        """Cancels what is in flight, tells the peers, revokes every grant, joins every thread. Idempotent. Blocks up to
        ``timeout`` (two leases) for writes that only the owner's lease can fence."""
        self._native.close(timeout)
        _open_engines.discard(self)
        if self._notifier is not threading.current_thread() and self._notifier.is_alive():
            self._notifier.join(5)
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
            for level, line in _native.take_log_lines():
                log.log(_LEVELS[level], line)
