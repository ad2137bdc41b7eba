"""Nodes in processes of their own, driven by the test over a socket pair.

``PeerProcess`` is the test's side. The other side is this same file run as a program: it keeps an engine, its segments
and its transfers, does one request at a time and answers with a value or a typed error. What the test closes, or what
dies with the test, ends the process: it reads end-of-file.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PATIENCE", "PeerGone", "PeerProcess", "digest_of", "pattern", "until"]

PATIENCE = 60.0  # seconds; a guard against hanging, never an expectation
Array = npt.NDArray[np.uint8]


class PeerGone(Exception):
    """The process ended without an answer."""


def pattern(seed: int, nbytes: int) -> Array:
    """Bytes that depend on the seed and on their position, so that misplaced ones show."""
    words = np.arange((nbytes + 7) // 8, dtype=np.uint64)
    words *= np.uint64(0x9E3779B97F4A7C15)
    words ^= np.uint64((seed * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) & 0xFFFFFFFFFFFFFFFF)
    words ^= words >> np.uint64(29)
    return words.view(np.uint8)[:nbytes]


def digest_of(data: Any) -> str:
    return hashlib.blake2b(memoryview(data), digest_size=16).hexdigest()


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Waits for a condition that something outside this thread brings about; fails when it does not come."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} within {patience} s"
        time.sleep(0.001)
    return value


class PeerProcess:
    """One node. Requests are methods of ``_Node`` below: ``peer.allocate("kv", 4096)``."""

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        within: Sequence[str] = (),
    ) -> None:
        """``within``: a command that runs the node, as ``unshare`` does; its end must be the node's."""
        self._connection, theirs = Pipe()
        # Forked children of the node live until this end is closed, even when the node itself was killed.
        life, self._life = os.pipe()
        fds = (theirs.fileno(), life)
        self._process = subprocess.Popen(
            [*within, sys.executable, str(Path(__file__).resolve()), *(str(fd) for fd in fds)],
            pass_fds=fds,
            start_new_session=True,
        )
        theirs.close()
        os.close(life)
        self.descriptor: bytes = b""
        self.name = ""
        if config is not None:
            self.open(config, name)

    def open(self, config: Mapping[str, Any], name: str | None = None) -> None:
        """Starts its engine; raises what that raised."""
        self.name, self.descriptor = self.ask("open", dict(config), name)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: str, *args: Any, **options: Any) -> None:
        self._connection.send((request, args, options))

    def answer(self, patience: float = PATIENCE) -> Any:
        from tent_core.errors import error_for_code

        try:
            if not self._connection.poll(patience):
                raise AssertionError(f"process {self.pid} did not answer within {patience} s")
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise PeerGone(f"process {self.pid} ended with {self._process.wait(PATIENCE)}") from error
        if kind == "ok":
            return value
        if kind == "error":
            raise error_for_code(*value)
        raise AssertionError(f"process {self.pid}:\n{value}")

    def ask(self, request: str, *args: Any, **options: Any) -> Any:
        self.send(request, *args, **options)
        return self.answer()

    def __getattr__(self, request: str) -> Callable[..., Any]:
        if request.startswith("_"):
            raise AttributeError(request)
        return lambda *args, **options: self.ask(request, *args, **options)

    # ---- signals

    def stop(self) -> None:
        """SIGSTOP; returns once every thread of it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"process {self.pid} ended instead of stopping: {status}"

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.go_on()

    def kill(self) -> None:
        """SIGKILL; returns once it is gone."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def poke(self, address: int, data: Array) -> None:
        """Writes into its memory from outside, also while it stands still: what its own threads would do there."""
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            view = memoryview(np.ascontiguousarray(data))
            done = 0
            memory.seek(address)
            while done < len(view):
                done += memory.write(view[done:])

    def end(self) -> int:
        """Ends the process in an orderly way, if it still runs; returns its exit status."""
        self._connection.close()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGCONT)
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


# ---- the other side ---------------------------------------------------------------------------------------------


class _Node:
    """What a test may ask of the process. Only plain values cross the socket pair."""

    def __init__(self, life: int, connection: Connection[Any, Any]) -> None:
        self._life = life
        self._connection = connection
        self._engine: Any = None
        self._segments: dict[str, Any] = {}
        self._memory: dict[str, Array] = {}
        self._peers: dict[str, Any] = {}
        self._transfers: list[Any] = []
        self._handed: Any = None
        self._offers: dict[str, Any] = {}

    def open(self, config: dict[str, Any], name: str | None) -> tuple[str, bytes]:
        from tent_core import Engine

        self._engine = Engine(config, name=name)
        return self._engine.name, self._engine.descriptor()

    def in_order(self) -> None:
        """What a test does with memory comes after what the engine did with it before the request, and before what it
        does after the answer. The messages say so; ThreadSanitizer is told by the engine's lock."""
        from tent_core.errors import Closed

        if self._engine is not None:
            with suppress(Closed):
                self._engine.links()

    # ---- memory

    def allocate(self, name: str, nbytes: int, access: str = "rw", extent: int | None = None) -> int:
        segment = self._engine.allocate(nbytes, name=name, access=access, extent=extent)
        self._segments[name], self._memory[name] = segment, segment.view
        return int(segment.address)

    def register(self, name: str, nbytes: int, access: str = "rw", *, around: int = 0) -> int:
        """``around`` bytes before and after it are the node's own and nobody else's."""
        whole = np.zeros(nbytes + 2 * around, dtype=np.uint8)
        inside = whole[around : around + nbytes]
        segment = self._engine.register(inside, name=name, access=access)
        self._segments[name], self._memory[name] = segment, inside
        self._memory[f"{name}/whole"] = whole
        return int(segment.address)

    def fill(self, name: str, seed: int) -> str:
        memory = self._memory[name]
        memory[:] = pattern(seed, memory.nbytes)
        return digest_of(memory)

    def set(self, name: str, value: int, offset: int = 0, nbytes: int | None = None) -> None:
        memory = self._memory[name]
        memory[offset : memory.nbytes if nbytes is None else offset + nbytes] = value

    def bytes_of(self, name: str, offset: int = 0, nbytes: int | None = None) -> bytes:
        end = None if nbytes is None else offset + nbytes
        return self._memory[name][offset:end].tobytes()

    def digest(self, name: str, offset: int = 0, nbytes: int | None = None) -> str:
        end = None if nbytes is None else offset + nbytes
        return digest_of(np.ascontiguousarray(self._memory[name][offset:end]))

    def count(self, name: str, value: int) -> int:
        return int((self._memory[name] == value).sum())

    def unregister(self, name: str, timeout: float = PATIENCE) -> None:
        """Memory that the node registered stays readable here afterwards; what the engine allocated is gone."""
        segment = self._segments[name]
        segment.unregister(timeout)
        del self._segments[name]
        if f"{name}/whole" not in self._memory:
            del self._memory[name]

    # ---- as an initiator

    def connect(self, descriptor: bytes) -> str:
        peer = self._engine.connect(descriptor, PATIENCE)
        self._peers[peer.name] = peer
        return str(peer.name)

    def submit(
        self, op: str, peer: str, remote: str, local: str, offset: int = 0, nbytes: int = 0, **options: Any
    ) -> int:
        """One range at the same offset on both sides. Answers with the transfer's number here."""
        from tent_core import Intent

        target = self._peers[peer].segment(remote)
        address = self._segments[local].address + offset
        intent = Intent(
            op, self._peers[peer], [address], target, [offset], nbytes or target.length, **options
        )
        self._transfers.append(self._engine.submit(intent))
        return len(self._transfers) - 1

    def run(self, op: str, peer: str, remote: str, local: str, offset: int = 0, nbytes: int = 0) -> None:
        """One range again and again, for a peer that is to be met in mid-transfer, until the peer ends it."""
        while True:
            self._transfers[self.submit(op, peer, remote, local, offset, nbytes)].result(PATIENCE)

    def result(self, transfer: int) -> int:
        return int(self._transfers[transfer].result(PATIENCE).bytes)

    # ---- hand-offs

    def _handoff(self) -> Any:
        from tent_core.handoff import Handoff

        if self._handed is None:
            self._handed = Handoff(self._engine)
        return self._handed

    def offer(self, memory: str, offsets: Sequence[int], nbytes: int, **options: Any) -> str:
        """Offers pieces of `nbytes` each; answers with the ticket."""
        base = self._segments[memory].address
        offer = self._handoff().offer([base + offset for offset in offsets], nbytes, **options)
        self._offers[offer.ticket] = offer
        return str(offer.ticket)

    def abort(self, ticket: str) -> bool:
        return bool(self._offers[ticket].abort())

    def offer_end(self, ticket: str, timeout: float = PATIENCE) -> str:
        return str(self._offers[ticket].wait(timeout))

    def open_offers(self) -> int:
        return int(self._handoff().open_offers)

    def descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def take_up(
        self, how: str, ticket: str, name: str, offsets: Sequence[int], nbytes: int, **options: Any
    ) -> int:
        """`how`: pull or push. Answers with the bytes moved."""
        base = self._segments[name].address
        call = getattr(self._handoff(), how)
        at = [base + offset for offset in offsets]
        return int(call(ticket, at, nbytes, **{"timeout": PATIENCE, **options}).bytes)

    # ---- the rest

    def notifications(self, timeout: float) -> list[tuple[str, bytes]]:
        return list(self._engine.notifications(timeout))

    def notified_digest(self, name: str) -> tuple[list[tuple[str, bytes]], str]:
        """Waits for a notification and looks at the memory at once."""
        got = self._engine.notifications(PATIENCE)
        return list(got), digest_of(np.ascontiguousarray(self._memory[name]))

    def metrics(self) -> dict[str, int]:
        return dict(self._engine.metrics())

    def links(self) -> list[dict[str, Any]]:
        return list(self._engine.links())

    def fork(self) -> int:
        """A child that outlives this process: it waits until the test lets it go."""
        child = os.fork()
        if child == 0:
            self._connection.close()
            os.read(self._life, 1)
            os._exit(0)
        return child

    def exit_in_flight(self, op: str, peer: str, remote: str, local: str) -> None:
        """Leaves the interpreter with a transfer under way: nothing is closed by hand."""
        self.submit(op, peer, remote, local)
        raise SystemExit(0)

    def open_store(self, config: dict[str, Any]) -> None:
        """Opens a page store and closes it again."""
        from tent_core.store import PageStore

        PageStore.open(config).close()

    def close(self, timeout: float | None = None) -> None:
        self._engine.close(timeout)
        for name in [name for name in self._memory if f"{name}/whole" not in self._memory]:
            if not name.endswith("/whole"):
                del self._memory[name]


def _serve(connection: Connection[Any, Any], life: int) -> None:
    import traceback

    from tent_core.errors import TentError

    node = _Node(life, connection)
    while True:
        try:
            request, args, options = connection.recv()
        except EOFError:
            return
        node.in_order()
        try:
            answer = ("ok", getattr(node, request)(*args, **options))
        except TentError as error:
            answer = ("error", (error.code, str(error)))
        except Exception:
            answer = ("broken", traceback.format_exc())
        node.in_order()
        try:
            connection.send(answer)
        except OSError:
            return


if __name__ == "__main__":
    sys.path.pop(0)  # tests/support: a module in it must not stand before the installed ones
    # Another module object than the test's, which imported this file by its name.
    _serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
