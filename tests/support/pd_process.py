"""One side of prefill/decode hand-offs in a process of its own: the calls that SGLang makes of its transfer engine.

``Side`` is the test's end. Run as a program this file is the other: an engine over `SIZE` bytes of memory, which does
one request at a time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SIZE", "Side"]

SIZE = 4 << 20
PATIENCE_S = 60.0


class Side:
    """Requests are methods of `_Side` below."""

    def __init__(self, **config: Any) -> None:
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(theirs.fileno())], pass_fds=(theirs.fileno(),)
        )
        theirs.close()
        self.session, self.descriptor, self.address = self.ask("open", config)

    def ask(self, request: str, *args: Any) -> Any:
        self.send(request, *args)
        return self.answer()

    def send(self, request: str, *args: Any) -> None:
        self._connection.send((request, args))

    def answer(self) -> Any:
        assert self._connection.poll(PATIENCE_S), "no answer: it hangs"
        return self._connection.recv()

    def stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def close(self) -> None:
        if self._process.poll() is None:
            self.go_on()
        self.kill()
        self._connection.close()


class _Side:
    def open(self, config: dict[str, Any]) -> tuple[str, bytes, int]:
        from tent_sglang.pd_engine import TentTransferEngine

        self.engine = TentTransferEngine("127.0.0.1", config=config)
        self.memory = np.zeros(SIZE, dtype=np.uint8)
        assert self.engine.batch_register([self.memory.ctypes.data], [SIZE]) == 0
        descriptor = self.engine._engine.descriptor()
        return self.engine.get_session_id(), descriptor, self.memory.ctypes.data

    def reached_by(self, descriptor: bytes) -> None:
        """From now on its tickets say that it is to be found there."""
        self.engine._engine.descriptor = lambda: descriptor  # type: ignore[method-assign]

    def fill(self, value: int) -> None:
        self.memory[:] = value

    def pattern(self, seed: int) -> None:
        from support.peers import pattern

        self.memory[:] = pattern(seed, SIZE)

    def write(
        self, session: str, grant: bytes | None, mine: list[int], theirs: list[int], length: int
    ) -> int:
        """SGLang's call. `mine`: offsets; `theirs`: addresses."""
        from tent_sglang.pd_engine import GrantedSession

        named = session if grant is None else GrantedSession(session, grant)
        buffers = [self.memory.ctypes.data + at for at in mine]
        return self.engine.batch_transfer_sync(named, buffers, theirs, [length] * len(mine))

    def probe(self, session: str) -> int:
        return self.engine.send_probe(session)

    def grant(self, room: int, addresses: list[int], length: int) -> bytes:
        starts = np.array(addresses, dtype=np.uint64)
        return self.engine.grant(room, starts, np.full(len(starts), length, dtype=np.uint64))


def _serve(connection: Connection[Any, Any]) -> None:
    side = _Side()
    while True:
        try:
            request, args = connection.recv()
        except (EOFError, ConnectionError):
            return
        connection.send(getattr(side, request)(*args))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    _serve(Connection(int(sys.argv[1])))
    os._exit(0)
