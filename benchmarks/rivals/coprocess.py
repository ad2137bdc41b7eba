"""A rival behind the line protocol of ../native/floors.cpp. Runs wherever the rival is installed; needs nothing else.

Usage: ``python coprocess.py ADAPTOR.py SETUP``. The first answer is ``ready VERSION`` or ``absent REASON``; then one
command a line on standard input, one answer a line on standard output:

    write BYTES COUNT [RANGES]   COUNT blocks of BYTES to the owner, in whatever way is fastest for the rival;
    read BYTES COUNT [RANGES]    with RANGES, COUNT requests of so many blocks each
    put BYTES COUNT              COUNT writes of one block, one at a time
    get BYTES COUNT              COUNT reads of one block, one at a time

Each answers "SECONDS [P50_US P99_US]", or "error: WHY". End of input ends it, and its owner, which is another process.

An adaptor is a module with ``MODULES``, what must be importable, ``DISTRIBUTION``, whose version is told, and two
classes. ``Owner(setup, address, nbytes)`` lends memory and has ``info``, for JSON, and ``close()``. ``Caller(setup,
info, address, nbytes)`` has ``prepare(op, offsets, nbytes)``, which gives a request that may be made any number of
times, ``start`` and ``wait``, ``run`` (both in one, where the rival is faster so), ``free``, and ``before(op)``, called
untimed ahead of every measurement.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import itertools
import json
import mmap
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

_WINDOW = 64 << 20
_MEMORY = 2 * _WINDOW
_MOST_REQUESTS = 256
_TRIAL = 64 << 20
# Ways to ask for many blocks: so many in one request, and so many requests under way.
_WAYS = [(1, 1), (1, 2), (2, 1), (4, 1), (16, 1), (16, 2), (64, 1), (128, 1), (128, 2)]


class Memory:
    """Private memory, written once, so that it is warm."""

    def __init__(self, nbytes: int) -> None:
        self._mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        ctypes.memset(self.address, 1, nbytes)

    def fill(self, data: bytes) -> None:
        ctypes.memmove(self.address, data, len(data))

    def holds(self, data: bytes) -> bool:
        return ctypes.string_at(self.address, len(data)) == data


def _stream(caller: Any, requests: list[Any], count: int, depth: int) -> float:
    """Seconds for ``count`` requests, ``depth`` of them under way."""
    started = time.perf_counter()
    if depth == 1:
        for index in range(count):
            caller.run(requests[index % len(requests)])
        return time.perf_counter() - started
    pending: deque[Any] = deque()
    for index in range(count):
        if len(pending) == depth:
            caller.wait(pending.popleft())
        pending.append(caller.start(requests[index % len(requests)]))
    while pending:
        caller.wait(pending.popleft())
    return time.perf_counter() - started


class Tuned:
    """A caller, and for every kind of command the way of asking that was fastest when it was tried."""

    def __init__(self, caller: Any) -> None:
        self._caller = caller
        self._chosen: dict[tuple[str, int, int, bool], tuple[int, int, list[Any]]] = {}

    def _requests(self, op: str, nbytes: int, batch: int, depth: int) -> list[Any]:
        """They walk through a window of `_WINDOW`, or of two blocks; no two that may be under way share a block."""
        count = max(_WINDOW, 2 * nbytes) // nbytes // batch
        return [
            self._caller.prepare(op, [(index * batch + i) * nbytes for i in range(batch)], nbytes)
            for index in range(max(depth, min(count, _MOST_REQUESTS)))
        ]

    def _try(self, op: str, nbytes: int, batch: int, depth: int, best: float) -> tuple[float, list[Any]]:
        """Seconds for a block in this way; the better of two tries, where the first comes anywhere near ``best``."""
        requests = self._requests(op, nbytes, batch, depth)
        count = max(2 * depth, min(_TRIAL // nbytes, 2048) // batch)
        seconds = float("inf")
        for _ in range(2):
            self._caller.before(op)
            seconds = min(seconds, _stream(self._caller, requests, count, depth) / (count * batch))
            if seconds > 1.5 * best:
                break
        return seconds, requests

    def _choose(self, op: str, nbytes: int, ranges: int, one: bool) -> tuple[int, int, list[Any]]:
        slots = max(_WINDOW, 2 * nbytes) // nbytes
        ways = [(ranges, depth) for depth in (1, 2, 4)] if ranges > 1 else _WAYS
        ways = [(batch, depth) for batch, depth in ways if batch * depth <= slots]
        if one:  # a single request: there is nothing to choose
            return ranges, 1, self._requests(op, nbytes, ranges, 1)
        seconds, chosen = float("inf"), (ranges, 1, list[Any]())
        for batch, depth in ways:
            took, requests = self._try(op, nbytes, batch, depth, seconds)
            spare = requests
            if took < seconds:
                spare = chosen[2]
                seconds, chosen = took, (batch, depth, requests)
            for request in spare:
                self._caller.free(request)
        return chosen

    def timed(self, op: str, nbytes: int, count: int, ranges: int) -> str:
        key = (op, nbytes, ranges, count == 1)
        if key not in self._chosen:
            self._chosen[key] = self._choose(*key)
        batch, depth, requests = self._chosen[key]
        blocks = count * ranges
        needed = -(-blocks // batch)
        if count > 1:  # it was stopped until now: it may find its feet first
            self._caller.before(op)
            _stream(self._caller, requests, depth, depth)
        self._caller.before(op)
        # The last request may ask for more than was left: its part of the time is taken off.
        return f"{_stream(self._caller, requests, needed, depth) * blocks / (needed * batch):.9f}"

    def latency(self, op: str, nbytes: int, count: int) -> str:
        requests = self._requests(op, nbytes, 1, 1)
        self._caller.before(op)
        times = []
        for index in range(count):
            started = time.perf_counter()
            self._caller.run(requests[index % len(requests)])
            times.append(time.perf_counter() - started)
        for request in requests:
            self._caller.free(request)
        total = sum(times)
        times.sort()
        return f"{total:.9f} {times[count // 2] * 1e6:.3f} {times[count * 99 // 100] * 1e6:.3f}"

    def answer(self, line: str) -> str:
        """The answer to one command; never raises."""
        try:
            name, nbytes, count, ranges = (*line.split(), "1", "1")[:4]
            numbers = int(nbytes), int(count), int(ranges)
            if min(numbers) < 1 or numbers[0] * numbers[2] > _MEMORY // 2:
                return "error: bad numbers"
            if name in ("write", "read"):
                return self.timed(name, *numbers)
            if name in ("put", "get"):
                return self.latency({"put": "write", "get": "read"}[name], *numbers[:2])
            return "error: unknown command"
        except Exception as error:
            return f"error: {_words(error)}"


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def prove(caller: Any, memory: Memory) -> None:
    """What is written and read back is what it was, or this rival is not measured."""
    for nbytes in (4096, 1 << 20, 16 << 20):
        data = os.urandom(nbytes)
        for op, content in (("write", data), ("read", bytes(nbytes))):
            request = caller.prepare(op, [0], nbytes)
            caller.before(op)
            memory.fill(content)
            caller.run(request)
            caller.free(request)
        if not memory.holds(data):
            raise RuntimeError(f"{nbytes} bytes that were written and read back have changed")


def _answers() -> TextIO:
    """Standard output, for answers alone: whatever else a rival prints goes to standard error."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return stream


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("adaptor", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _die_with_parent() -> None:
    """Also when it is stopped at that moment, and would never see the end of its input."""
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL


def own(adaptor: Any, setup: str, say: Callable[[str], None]) -> None:
    """The other process: lends memory until the end of its input."""
    memory = Memory(_MEMORY)
    owner = adaptor.Owner(setup, memory.address, _MEMORY)
    say(json.dumps(owner.info))
    sys.stdin.read()
    owner.close()


def serve(adaptor: Any, setup: str, say: Callable[[str], None]) -> None:
    missing = [name for name in adaptor.MODULES if importlib.util.find_spec(name) is None]
    if missing:
        say(f"absent not installed for {sys.executable}")
        return
    command = [sys.executable, *sys.argv, "--owner"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        try:
            line = owner.stdout.readline()
            if not line:
                raise RuntimeError("its owner's process ended before it was ready")
            memory = Memory(_MEMORY)
            caller = adaptor.Caller(setup, json.loads(line), memory.address, _MEMORY)
            prove(caller, memory)
            tuned = Tuned(caller)
        except Exception as error:
            say(f"absent {_words(error)}")
            owner.kill()
            return
        say(f"ready {importlib.metadata.version(adaptor.DISTRIBUTION)}")
        for line in itertools.takewhile(bool, iter(sys.stdin.readline, "")):
            say(tuned.answer(line))
        owner.communicate()


def main() -> None:
    stream = _answers()

    def say(line: str) -> None:
        stream.write(line + "\n")
        stream.flush()

    _die_with_parent()
    sys.path.pop(0)  # this folder, where an adaptor could be taken for its rival
    adaptor = _load(sys.argv[1])
    try:
        (own if "--owner" in sys.argv else serve)(adaptor, sys.argv[2], say)
    finally:
        # Threads of a rival may not want to end: the process does.
        sys.stderr.flush()
        if sys.exc_info()[0] is None:
            os._exit(0)


if __name__ == "__main__":
    main()
