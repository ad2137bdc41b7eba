"""Page stores in processes of their own, which tests may kill, stop and ask; and a `tent node`."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np

from tent_core.store import PageStore

__all__ = ["TENT", "Ended", "NodeProcess", "StoreProcess", "contents"]

PATIENCE_S = 60.0
TENT = [sys.executable, "-m", "tent_core.cli"]
SIZE = 30_000
MOST = 64


class Ended(Exception):
    """The process is gone."""


def contents(key: bytes, flavour: int) -> bytes:
    """What a page of this key and flavour holds: no other page has any 8 bytes of it in the same place."""
    seed = int.from_bytes(hashlib.blake2b(b"%b/%d" % (key, flavour), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8).tobytes()


class StoreProcess:
    """Requests are methods of `_Store` below. `Ended`: it is gone; AssertionError: it does not answer."""

    def __init__(self, config: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        self._connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        theirs.close()
        self.name = str(self.ask("open", dict(config)))

    def ask(self, request: str, *args: Any, patience: float = PATIENCE_S) -> Any:
        try:
            self._connection.send((request, args))
            if not self._connection.poll(patience):
                raise AssertionError(f"{request} hangs: no answer within {patience} s")
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise Ended(f"it ended with {self.process.wait(PATIENCE_S)}") from error
        if kind != "ok":
            raise AssertionError(f"{request} raised in the process:\n{value}")
        return value

    def send(self, request: str, *args: Any) -> None:
        """Asks and does not wait; the answer is dropped with the process."""
        self._connection.send((request, args))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._connection.close()

    def stop(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """In order. Raises AssertionError if it cannot."""
        self.ask("close")
        assert self.process.wait(PATIENCE_S) == 0
        self._connection.close()


class NodeProcess:
    """A `tent node` in a process of its own."""

    def __init__(self, folder: Path, name: str, *options: str, **config: Any) -> None:
        self.name = name
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config))
        self.process = subprocess.Popen(
            [*TENT, "node", "--json", "--name", name, "--config", str(path), *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.event() == "ready"

    def event(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the node ended early; its error is above"
        self.last: dict[str, Any] = json.loads(line)
        return str(self.last["event"])

    def left(self) -> dict[str, Any]:
        """Waits for its end, and says what became of its pages."""
        while self.event() != "left":
            pass
        assert self.process.wait(PATIENCE_S) == 0
        return self.last

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class _Store:
    def __init__(self) -> None:
        self._store: PageStore | None = None

    def open(self, config: dict[str, Any]) -> str:
        self._store = store = PageStore.open(config)
        self._space = store.namespace({"model": "chaos"})
        self._buffer = np.zeros((MOST, SIZE), dtype=np.uint8)
        self._segment = store.register(self._buffer)
        return store.node_name

    def _addresses(self, count: int) -> Any:
        return self._buffer.ctypes.data + np.arange(count, dtype=np.uint64) * np.uint64(SIZE)

    def put(self, keys: list[bytes], flavour: int) -> list[int]:
        assert self._store is not None
        for row, key in enumerate(keys):
            self._buffer[row] = np.frombuffer(contents(key, flavour), dtype=np.uint8)
        found = self._store.put(self._space, keys, self._addresses(len(keys)), SIZE, timeout=10)
        return [int(status) for status in found]

    def get(self, keys: list[bytes]) -> tuple[list[tuple[int, bytes]], bool]:
        """Status and digest of the bytes, by page. And: was the directory away? Then only the node's own pages are
        found, and of a `clear` it cannot have heard."""
        assert self._store is not None
        self._buffer[: len(keys)] = 0
        away = self._failures()
        found = self._store.get(self._space, keys, self._addresses(len(keys)), SIZE, timeout=10)
        rows = [
            (int(status), hashlib.blake2b(self._buffer[row], digest_size=16).digest())
            for row, status in enumerate(found)
        ]
        return rows, self._failures() != away

    def _failures(self) -> float:
        assert self._store is not None
        return float(self._store.metrics.counter("store.directory.failures").value)

    def remove(self, keys: list[bytes]) -> None:
        assert self._store is not None
        self._store.remove(self._space, keys)

    def clear(self) -> bool:
        assert self._store is not None
        try:
            self._store.clear(self._space)
        except OSError:  # DirectoryUnavailable
            return False
        return True

    def spoil(self, seed: int, count: int) -> None:
        """Flips bits in this node's own memory, as failing memory would."""
        assert self._store is not None
        segment = self._store._segment
        if segment is not None:
            places = np.random.default_rng(seed).integers(0, segment.nbytes, count)
            np.frombuffer(segment.view, dtype=np.uint8)[places] ^= 1

    def stats(self) -> dict[str, Any]:
        assert self._store is not None
        return self._store.stats()

    def close(self) -> None:
        assert self._store is not None
        self._segment.close()
        self._store.close()


def _serve(connection: Connection[Any, Any]) -> None:
    import traceback

    store = _Store()
    while True:
        try:
            request, args = connection.recv()
        except (EOFError, ConnectionError):
            os._exit(0)
        try:
            connection.send(("ok", getattr(store, request)(*args)))
        except Exception:
            connection.send(("error", traceback.format_exc()))
        if request == "close":
            return


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
