"""The floors: native/floors.cpp as a coprocess. Built on first use with the host's g++, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from tent_core.errors import Unsupported

__all__ = ["Floors"]

_SOURCE = Path(__file__).with_name("native") / "floors.cpp"


def _program() -> Path:
    """The built program: from TENT_BENCH_NATIVE (a CMake build), or compiled into the cache."""
    built = os.environ.get("TENT_BENCH_NATIVE")
    if built:
        return Path(built) / "tent_bench_floors"
    key = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tent" / "bench"
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


class Floors:
    """Context manager around the coprocess. Every method answers in seconds unless it says otherwise."""

    def __enter__(self) -> Floors:
        self._process = subprocess.Popen(
            [str(_program())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def _ask(self, *words: object) -> list[float]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(" ".join(map(str, words)) + "\n")
        stdin.flush()
        answer = stdout.readline()
        try:
            return [float(word) for word in answer.split()]
        except ValueError:
            raise RuntimeError(f"floors {words}: {answer.strip() or 'ended'}") from None

    def memcpy(self, nbytes: int, count: int, threads: int = 1) -> float:
        """``count`` copies between two warm shared mappings."""
        return self._ask("memcpy", nbytes, count, threads)[0]

    def cold(self, nbytes: int) -> float:
        """One copy into a mapping that was never touched."""
        return self._ask("cold", nbytes)[0]

    def write(self, nbytes: int, count: int, streams: int = 1) -> float:
        """``count`` blocks over raw TCP (cubic, 16 MiB buffers), each acknowledged."""
        return self._ask("write", nbytes, count, streams)[0]

    def read(self, nbytes: int, count: int, streams: int = 1) -> float:
        """``count`` blocks requested and received over raw TCP."""
        return self._ask("read", nbytes, count, streams)[0]

    def put(self, nbytes: int, count: int) -> tuple[float, float, float]:
        """One block at a time, sent and acknowledged: (seconds in all, median µs, 99th percentile µs)."""
        seconds, median, high = self._ask("put", nbytes, count)
        return seconds, median, high
