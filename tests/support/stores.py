"""For the store's tests: a Redis that they may stop and start; pages whose bytes follow from their names."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import redis

from tent_core.store import Namespace, PageStatus, PageStore
from tent_metadata.embedded import binary

PATIENCE_S = 20.0
Statuses = npt.NDArray[np.uint8]


def wait_for(what: Callable[[], Any], why: str) -> Any:
    """The first true result of ``what``; a test failure when there is none in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"not in {PATIENCE_S} s: {why}")
        time.sleep(0.005)
    return result


class Server:
    """One Redis on a unix socket. Nothing is kept when it stops, unless ``save`` is called before."""

    def __init__(self, *, start: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ts-"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self._program = shutil.which("redis-server") or shutil.which("valkey-server") or binary._packaged()
        self._process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        """More of it, from the next start on."""
        if start:
            self.start()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        command = [self._program, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        # A sanitizer that is preloaded into the tests has no business in the server.
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        self._process = subprocess.Popen(
            [*command, "--save", ""], stdout=subprocess.DEVNULL, env={**env, **self.environment}
        )
        wait_for(self._answers, "the Redis of this test answers")

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def client(self) -> Any:
        return redis.Redis(unix_socket_path=str(self.socket))

    def stop(self) -> None:
        """It answers nobody until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """It takes connections and answers nothing, as on a host that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def record_keys(self) -> list[bytes]:
        return list(self.client().scan_iter(match="tent:*:p:*"))

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


Open = Callable[..., PageStore]


def page(name: bytes, size: int, flavour: int = 0) -> npt.NDArray[np.uint8]:
    """Bytes that no other page has."""
    seed = int.from_bytes(hashlib.blake2b(name + bytes([flavour]), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


class Client:
    """A store with a buffer for some pages of one size."""

    def __init__(self, store: PageStore, size: int = 20_000, count: int = 64) -> None:
        self.store = store
        self.size = size
        self.space: Namespace = store.namespace({"model": "test", "page": size})
        self.buffer = np.zeros((count, size), dtype=np.uint8)
        self.segment = store.register(self.buffer)

    def addresses(self, count: int) -> npt.NDArray[np.uint64]:
        return self.buffer.ctypes.data + np.arange(count, dtype=np.uint64) * np.uint64(self.size)

    def put(self, keys: list[bytes], flavour: int = 0, **options: Any) -> Statuses:
        for row, key in enumerate(keys):
            self.buffer[row] = page(key, self.size, flavour)
        return self.store.put(self.space, keys, self.addresses(len(keys)), self.size, **options)

    def get(self, keys: list[bytes], **options: Any) -> Statuses:
        self.buffer[: len(keys)] = 0
        return self.store.get(self.space, keys, self.addresses(len(keys)), self.size, **options)

    def verify(self, keys: list[bytes], flavour: int = 0) -> bool:
        return all(
            bool((self.buffer[row] == page(key, self.size, flavour)).all()) for row, key in enumerate(keys)
        )

    def exists(self, keys: list[bytes]) -> Statuses:
        return self.store.exists(self.space, keys)

    def lookup(self, keys: list[bytes], **options: Any) -> Any:
        return self.store.lookup(self.space, keys, **options)


def names(count: int, prefix: str = "k") -> list[bytes]:
    return [f"{prefix}{i}".encode() for i in range(count)]


def all_are(status: Statuses, wanted: PageStatus) -> bool:
    return bool((status == wanted).all())
