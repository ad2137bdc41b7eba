"""The native side of the benchmarks, as coprocesses that answer one command a line.

`Floors` is native/floors.cpp: plain memcpy and plain sockets. It is built on first use with the host's g++ and kept in
the user's cache. `NativeCaller` is native/engine.cpp, the engine as a C++ program uses it; it comes from a CMake build
with ``-DTENT_BUILD_BENCH=ON``, found through ``TENT_BENCH_NATIVE`` or where `tests/run.sh bench` builds it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tent_core.config.environment import cache_home, for_developers
from tent_core.errors import Unsupported

__all__ = ["Coprocess", "Floors", "NativeCaller", "built"]

_FOLDER = Path(__file__).resolve().parent
_SOURCE = _FOLDER / "native" / "floors.cpp"
_Self = TypeVar("_Self", bound="Coprocess")


def built(name: str) -> Path | None:
    """A program of the CMake build, or None without one."""
    folders = [
        for_developers("TENT_BENCH_NATIVE"),
        str(_FOLDER.parent / "build" / "ci" / "bench" / "bench"),
    ]
    for folder in folders:
        program = Path(folder, name)
        if folder and program.exists():
            return program
    return None


def _compiled_floors() -> Path:
    key = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    cache = cache_home() / "tent" / "bench"
    program = cache / f"floors-{key}"
    if not program.exists():
        compiler = shutil.which("g++")
        if compiler is None:
            raise Unsupported("the floors are a C++ program, and there is no g++: apt-get install g++")
        cache.mkdir(parents=True, exist_ok=True)
        draft = cache / f".floors-{os.getpid()}"
        subprocess.run(
            [compiler, "-std=c++20", "-O2", "-pthread", str(_SOURCE), "-o", str(draft)], check=True
        )
        draft.replace(program)
    return program


class Coprocess:
    """Context manager around a program that answers commands."""

    def __init__(self, *command: str) -> None:
        self._command = command

    def __enter__(self: _Self) -> _Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def ask(self, *words: object) -> list[float]:
        """The numbers that it answers. Raises RuntimeError when it refuses or has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        answer = ""
        try:
            stdin.write(" ".join(map(str, words)) + "\n")
            stdin.flush()
            answer = stdout.readline().strip()
            if answer:
                return [float(word) for word in answer.split()]
        except (BrokenPipeError, ValueError):
            pass
        raise RuntimeError(
            f"{self._command[0]} {' '.join(map(str, words))}: {answer or 'it has ended'}"
        ) from None


class Floors(Coprocess):
    """Plain memcpy and plain sockets. Answers in seconds unless it says otherwise."""

    def __init__(self) -> None:
        super().__init__(str(built("tent_bench_floors") or _compiled_floors()))

    def memcpy(self, nbytes: int, count: int, threads: int = 1) -> float:
        """``count`` copies between two warm shared mappings."""
        return self.ask("memcpy", nbytes, count, threads)[0]

    def cold(self, nbytes: int) -> float:
        """One copy into a mapping that was never touched."""
        return self.ask("cold", nbytes)[0]

    def stream(self, op: str, nbytes: int, count: int, streams: int = 1) -> float:
        """``count`` blocks over raw TCP (cubic, 16 MiB buffers): written and acknowledged, or requested and read."""
        return self.ask(op, nbytes, count, streams)[0]

    def put(self, nbytes: int, count: int) -> tuple[float, float]:
        """One block at a time, sent and acknowledged: median and 99th percentile, in microseconds."""
        _, median, high = self.ask("put", nbytes, count)
        return median, high


class NativeCaller(Coprocess):
    """The engine under a C++ program. ``transport`` is ``shm`` or ``tcp``."""

    def __init__(self, transport: str) -> None:
        super().__init__(str(built("tent_bench_engine")), transport)

    @staticmethod
    def available() -> bool:
        return built("tent_bench_engine") is not None

    def timed(self, op: str, nbytes: int, count: int, ranges: int = 1) -> float:
        """Seconds for ``count`` intents of ``ranges`` ranges, at most two under way."""
        return self.ask(op, nbytes, count, ranges)[0]

    def latency(self, op: str, nbytes: int, count: int) -> tuple[float, float]:
        """One intent at a time: median and 99th percentile, in microseconds."""
        _, median, high = self.ask({"write": "put", "read": "get"}[op], nbytes, count)
        return median, high
