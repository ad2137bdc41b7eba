"""Peers by name and incarnation, connected on demand through the directory's node records."""

from __future__ import annotations

import threading
import time

from tent_core import _native
from tent_core.engine import Engine, Peer
from tent_core.errors import DirectoryUnavailable, TentError
from tent_core.store.reason import PageStatus, status_of_code
from tent_metadata import Directory

__all__ = ["Peers"]

_BACKOFF_S = (
    1.0  # after a failed connect the peer is left alone for so long: nobody waits for it again and again
)
_KEPT_FAILURES = 4096
_SAMPLE = 4 << 20
_NEVER = 10**9  # nanoseconds a MiB

Key = tuple[str, bytes]


class Peers:
    """Sessions towards owners of pages. Any thread; a connect to one peer blocks only those who want that peer."""

    def __init__(self, engine: Engine, directory: Directory, connect_timeout: float) -> None:
        self._engine = engine
        self._directory = directory
        self._timeout = connect_timeout
        self._lock = threading.Lock()
        self._peers: dict[Key, Peer] = {}
        self._failed: dict[Key, tuple[float, PageStatus]] = {}
        self._locks: dict[Key, threading.Lock] = {}
        self._descriptors: dict[Key, bytes] = {}  # of the live ones, as they were seen last

    def get(self, name: str, incarnation: bytes, timeout: float) -> Peer | PageStatus:
        """A live session with exactly this incarnation, or why there is none. Blocks up to ``timeout``."""
        key = (name, incarnation)
        peer = self._peers.get(key)
        if peer is not None and peer.alive:
            return peer
        known = self._failure(key)
        if known is not None:
            return known
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        if not lock.acquire(timeout=max(0.0, timeout)):
            return PageStatus.DEADLINE
        try:
            peer = self._peers.get(key)
            if peer is not None and peer.alive:
                return peer
            return self._failure(key) or self._connect(key, min(timeout, self._timeout))
        finally:
            lock.release()

    def by_name(self, name: str, timeout: float) -> Peer | PageStatus:
        """A session with whoever holds the name now."""
        try:
            found = self._directory.get_node(name)
        except DirectoryUnavailable:
            return PageStatus.DIRECTORY_DOWN
        if found is None:
            return PageStatus.OWNER_UNREACHABLE
        return self.get(name, found[0], timeout)

    def is_gone(self, name: str, incarnation: bytes) -> bool:
        """True if the directory knows that this incarnation holds its name no more. False when it cannot tell."""
        peer = self._peers.get((name, incarnation))
        if peer is not None and peer.alive:
            return False
        try:
            found = self._directory.get_node(name)
        except DirectoryUnavailable:
            return False
        return found is None or not _native.same_incarnation(found[0], incarnation)

    def connected(self) -> dict[Key, Peer]:
        """The live sessions. Forgets the dead ones."""
        with self._lock:
            for key in [key for key, peer in self._peers.items() if not peer.alive]:
                del self._peers[key]
                self._descriptors.pop(key, None)
            return dict(self._peers)

    def costs(self) -> list[tuple[str, bytes, int]]:
        """What reading a MiB takes, in nanoseconds, of each node that is connected, and of those that failed lately."""
        found = [
            (name, incarnation, int(peer._native.predict(_SAMPLE, "interactive") * 1e9 / (_SAMPLE >> 20)))
            for (name, incarnation), peer in self.connected().items()
        ]
        now = time.monotonic()
        with self._lock:
            failed = [key for key, (until, _) in self._failed.items() if until > now]
        return found + [(name, incarnation, _NEVER) for name, incarnation in failed]

    def learn_rails(self) -> None:
        """Live peers get links over rails that they have announced since. Raises DirectoryUnavailable."""
        for key in self.connected():
            found = self._directory.get_node(key[0])
            if found is None or not _native.same_incarnation(found[0], key[1]):
                continue
            if found[1] == self._descriptors.get(key):
                continue
            try:
                self._engine.connect(found[1], self._timeout)  # the session stays the same one
            except TentError:
                continue  # it has just died: whoever wants it next hears why
            self._descriptors[key] = found[1]

    def _failure(self, key: Key) -> PageStatus | None:
        failure = self._failed.get(key)
        return failure[1] if failure is not None and failure[0] > time.monotonic() else None

    def _fail(self, key: Key, status: PageStatus) -> PageStatus:
        with self._lock:
            if len(self._failed) >= _KEPT_FAILURES:
                self._failed.clear()
            self._failed[key] = (time.monotonic() + _BACKOFF_S, status)
        return status

    def _connect(self, key: Key, timeout: float) -> Peer | PageStatus:
        name, incarnation = key
        try:
            found = self._directory.get_node(name)
        except DirectoryUnavailable:
            return PageStatus.DIRECTORY_DOWN
        if found is None:
            return self._fail(key, PageStatus.OWNER_UNREACHABLE)
        if not _native.same_incarnation(found[0], incarnation):
            return self._fail(key, PageStatus.STALE_INCARNATION)
        try:
            peer = self._engine.connect(found[1], max(0.001, timeout))
        except TentError as error:
            return self._fail(key, _status_of(error))
        if not _native.same_incarnation(peer.incarnation, incarnation):
            return self._fail(key, PageStatus.STALE_INCARNATION)
        with self._lock:
            self._peers[key] = peer
            self._descriptors[key] = found[1]
            self._failed.pop(key, None)
        return peer


def _status_of(error: TentError) -> PageStatus:
    # The class of a stale incarnation is Internal; its code is in the text.
    if "stale_incarnation" in str(error):
        return PageStatus.STALE_INCARNATION
    return status_of_code(error.code)
