"""This side of a rival: starts its coprocess, asks it, and measures ours and its own in turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

from ..common import Report, interleave
from ..floors import Coprocess
from ..moves import Caller

__all__ = ["Absent", "Rival", "beside"]

_FOLDER = Path(__file__).resolve().parent
_MIB = 1 << 20
_START_S = 60.0
_ANSWER_S = 120.0
_END_S = 10.0


class Absent(Exception):
    """This rival cannot be measured here: it is not installed, or does not start, or has failed."""


class Rival(Coprocess):
    """A rival, between two processes of its own. ``name`` is one of the adaptors here, or the path of one.

    It is stopped (SIGSTOP) whenever it is not asked: NIXL's owner polls, and would take half a core from ours.
    """

    def __init__(self, name: str, setup: str, python: str | None = None, answer_s: float = _ANSWER_S) -> None:
        adaptor = name if os.sep in name else str(_FOLDER / f"with_{name}.py")
        super().__init__(python or sys.executable, str(_FOLDER / "coprocess.py"), adaptor, setup)
        self._name = Path(adaptor).stem.removeprefix("with_")
        self._answer_s = answer_s
        self.version = ""

    def __enter__(self) -> Rival:
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # so that it can be stopped with its owner, and Ctrl-C is for us alone
        )
        assert self._process.stdout is not None
        try:
            with self._bounded(_START_S):
                state, _, words = self._process.stdout.readline().strip().partition(" ")
            if state != "ready":
                reason = words or f"it does not start: {self._last_error()}"
                raise Absent(f"{self._name}: {reason}")
            self._signal(signal.SIGSTOP)
        except BaseException:
            self._end()
            raise
        self.version = words
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, *words: object) -> list[float]:
        """The numbers that it answers. Raises `Absent` when it fails, or does not answer in time."""
        self._signal(signal.SIGCONT)
        try:
            with self._bounded(self._answer_s):
                answer = super().ask(*words)
        except RuntimeError as error:
            raise Absent(f"{self._name}: {str(error).removeprefix(self._command[0])}") from None
        self._signal(signal.SIGSTOP)
        return answer

    def timed(self, op: str, nbytes: int, count: int, ranges: int = 1) -> float:
        return self.ask(op, nbytes, count, ranges)[0]

    def latency(self, op: str, nbytes: int, count: int) -> tuple[float, float]:
        _, median, high = self.ask({"write": "put", "read": "get"}[op], nbytes, count)
        return median, high

    @contextmanager
    def _bounded(self, seconds: float) -> Iterator[None]:
        """Ends it when this takes longer: what reads from it then sees the end."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self._signal(signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield
        except RuntimeError:
            if not late.is_set():
                raise
        finally:
            timer.cancel()
        if late.is_set():
            raise Absent(f"{self._name}: it did not answer within {seconds:g} s")

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def _end(self) -> None:
        self._signal(signal.SIGCONT)
        try:
            self._process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.communicate()
        self._errors.close()

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return lines[-1] if lines else f"status {self._process.wait()}"


def _streams(report: Report, prefix: str, ours: Caller, rival: Rival, name: str, quick: bool) -> None:
    """4 KiB in requests of 128 on both sides; larger blocks one an intent of ours, and as the rival likes best."""
    for title, size, ranges in (("128x4KiB", 4096, 128), ("1MiB", _MIB, 1), ("64MiB", 64 * _MIB, 1)):
        count = max(2, (64 if quick else 512) * _MIB // (size * ranges)) if ranges == 1 else 100
        for op in ("write", "read"):
            report.say(f"{op} {title} beside {name}")
            pairs = interleave(
                partial(ours.timed, op, size, count, ranges),
                partial(rival.timed, op, size, count, ranges),
                3 if quick else 9,
            )
            report.ratios[f"{prefix}{op}_{title}_vs_{name}"] = pairs.speed
            report.speeds(f"{prefix}{op} {title}", name, pairs, size * ranges * count)


def _latencies(report: Report, prefix: str, ours: Caller, rival: Rival, name: str, quick: bool) -> None:
    count = 300 if quick else 2_000
    for op in ("write", "read"):
        report.say(f"{op} 4KiB, one at a time, beside {name}")
        pairs = interleave(
            lambda op=op: ours.latency(op, 4096, count)[0],  # type: ignore[misc]
            lambda op=op: rival.latency(op, 4096, count)[0],  # type: ignore[misc]
            3 if quick else 9,
        )
        report.ratios[f"{prefix}{op}_4KiB_latency_vs_{name}"] = pairs.time
        both = [round(sorted(times)[len(times) // 2], 1) for times in (pairs.ours, pairs.floor)]
        report.figures[f"{prefix}{op} 4KiB and {name}, p50, us"] = both


def beside(report: Report, prefix: str, setup: str, ours: Caller, python: str | None, quick: bool) -> None:
    """Ours and every rival that ``python`` has, in turn; one that it has not leaves a note and its figures unmeasured.

    ``ours`` is called from Python, as the rivals are.
    """
    for name in ("nixl", "mooncake"):
        report.say(f"starting {name}")
        try:
            with Rival(name, setup, python) as rival:
                report.notes.append(f"{name} is version {rival.version}")
                _streams(report, prefix, ours, rival, name, quick)
                _latencies(report, prefix, ours, rival, name, quick)
        except Absent as reason:
            report.notes.append(f"not measured: {reason}")
