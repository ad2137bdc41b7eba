"""One page store a process, however many connectors there are in it, opened so that vLLM never waits for it.

Scheduler and worker of vLLM may share a process or not. Whoever comes first in a process opens the store; a process
with no worker in it contributes no memory. A store that cannot be opened now (the directory is out of reach) is tried
again in the background: serving starts without it and hits come when it is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tent_core.config import Config, for_rank, load_config
from tent_core.errors import (
    AuthFailed,
    InvalidArgument,
    NoMemory,
    PermissionDenied,
    PortInUse,
    Unsupported,
    VersionMismatch,
)

from .guard import Guard, log

_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 10.0

# What trying again does not mend: at start it ends the server, in words; later it is logged.
_MISTAKES = (InvalidArgument, AuthFailed, NoMemory, PermissionDenied, PortInUse, Unsupported, VersionMismatch)

_handles: dict[str, StoreHandle] = {}
_lock = threading.Lock()


class StoreHandle:
    """A store that may not be open yet. Thread-safe. Counted: `release` of the last user closes it."""

    def __init__(self, key: str, config: Config, open_store: Callable[[Config], Any]) -> None:
        self.key = key
        self.config = config
        self.guard = Guard(interval=float(config.log.interval_s))
        self.users = 0
        self.weights = ""
        """The version of the weights that this process computes with: see `weights`. Set by any thread."""
        self._open_store = open_store
        self._store: Any = None
        self._closed = threading.Event()
        self._opening: threading.Thread | None = None
        self._state = threading.Lock()

    @property
    def store(self) -> Any:
        """The PageStore, or None while it cannot be had."""
        return self._store

    def open(self) -> None:
        """Open now; faults of the world go on in the background. Raises the user's mistakes: see `_MISTAKES`."""
        if not self._try():
            self._opening = threading.Thread(target=self._keep_trying, name="tent-vllm-open", daemon=True)
            self._opening.start()

    def _try(self) -> bool:
        try:
            store = self._open_store(self.config)
        except _MISTAKES:
            raise
        except Exception as fault:
            self.guard.count("store.open.faults")
            self.guard.warn("open", "no page store yet, every look-up is a miss; trying again: %s", fault)
            return False
        with self._state:
            if self._closed.is_set():
                store.close()
            else:
                self._store = store
        return True

    def _keep_trying(self) -> None:
        wait = _FIRST_RETRY_S
        while not self._closed.wait(wait):
            wait = min(wait * 2, _LAST_RETRY_S)
            try:
                if self._try():
                    log.warning("the page store is open now")
                    return
            except _MISTAKES as fault:
                log.error("the page store cannot be opened, serving goes on without it: %s", fault)
                return

    def close(self) -> None:
        self._closed.set()
        with self._state:
            store, self._store = self._store, None
        if store is not None:
            store.close()


def acquire(key: str, source: Mapping[str, Any], *, worker: bool, rank: int = 0) -> StoreHandle:
    """This process's handle for `key` (vLLM's engine id), opened from the configuration `source` when it is the first.

    `worker`: whether this process holds KV caches; without them the node contributes no memory. `rank`: of the worker
    among those of its server. Raises the user's mistakes (ConfigError, AuthFailed, PortInUse …).
    """
    with _lock:
        handle = _handles.get(key)
        if handle is None:
            handle = StoreHandle(key, _one_of_many(load_config(dict(source)), worker, rank), _open_page_store)
            handle.open()
            _handles[key] = handle
        handle.users += 1
        return handle


def _one_of_many(config: Config, worker: bool, rank: int) -> Config:
    """A server is a node per process, and a configuration for all of them: names and ports must not collide."""
    if worker:
        return for_rank(config, rank)
    return replace(
        config, node=replace(config.node, name="", port=0), store=replace(config.store, capacity=0)
    )


def find(key: str) -> StoreHandle | None:
    """This process's handle for `key`, if it has one."""
    with _lock:
        return _handles.get(key)


def release(handle: StoreHandle) -> None:
    """The caller is done with `handle`."""
    with _lock:
        handle.users -= 1
        if handle.users > 0:
            return
        if _handles.get(handle.key) is handle:
            del _handles[handle.key]
    handle.close()


def _open_page_store(config: Config) -> Any:
    from tent_core.store import PageStore

    return PageStore.open(config)
