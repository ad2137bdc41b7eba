"""When a node's flight recording is written to a file: on a fault, on SIGUSR2, or because somebody asked.

The recorder itself is native and always on: a ring in memory. The file's name says whose it is, when and why.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
import time
import weakref
from pathlib import Path
from types import FrameType
from typing import Any

from tent_core import _native
from tent_core.config import Config

__all__ = ["SUFFIX", "Dumps", "write_recording"]

log = logging.getLogger("tent")
SUFFIX = ".flight"
# What follows a fault (what it held goes elsewhere, is fenced) belongs on its recording.
_AFTERMATH_S = 0.25
_live: weakref.WeakSet[Dumps] = weakref.WeakSet()


def write_recording(path: Path, recording: bytes) -> None:
    """The file is whole or not there; readable by its owner only. Raises OSError."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".tent-", suffix=SUFFIX)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(recording)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


class Dumps:
    """One engine's recordings. ``tick`` is called by the engine's notifier and never waits: a thread writes."""

    def __init__(self, native: Any, name: str, config: Config) -> None:
        self._native = native
        self._name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100]
        self._config = config
        self._next_fault = 0.0
        self._due: tuple[float, str] | None = None
        self._asked = ""  # by a signal; set in its handler
        self._writer: threading.Thread | None = None
        _live.add(self)
        if self._config.recorder.signal:
            _handle_signal()

    def ask(self, reason: str) -> None:
        self._asked = reason

    def tick(self) -> None:
        fault = _native.take_fault(self._native)
        now = time.monotonic()
        if fault and self._config.recorder.dir and self._due is None and now >= self._next_fault:
            self._next_fault = now + self._config.recorder.interval_s
            self._due = (now + _AFTERMATH_S, fault)
        if self._asked:
            reason, self._asked = self._asked, ""
            self._start(reason)
        if self._due is not None and now >= self._due[0]:
            reason, self._due = self._due[1], None
            self._start(reason)

    def write(self, reason: str, path: str | os.PathLike[str] | None = None) -> Path:
        """Writes one now, to ``path`` or under a name of its own. Raises OSError."""
        recording = _native.node_recording(self._native, reason)
        if path is not None:
            write_recording(Path(path), recording)
            return Path(path)
        folder = Path(self._config.recorder.dir or tempfile.gettempdir())
        if self._config.recorder.dir:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        target = folder / f"tent-{self._name}-{stamp}-{time.monotonic_ns() % 10**9:09d}{SUFFIX}"
        write_recording(target, recording)
        self._prune(folder)
        return target

    def close(self) -> None:
        """Waits for a recording that is being written. A fault whose aftermath is still awaited is written now."""
        _live.discard(self)
        if self._writer is not None:
            self._writer.join()
        if self._due is not None:
            reason, self._due = self._due[1], None
            self._safely(reason)

    def _start(self, reason: str) -> None:
        if self._writer is not None and self._writer.is_alive():
            return
        self._writer = threading.Thread(
            target=self._safely, args=(reason,), name="tent-recording", daemon=True
        )
        self._writer.start()

    def _safely(self, reason: str) -> None:
        try:
            log.warning("flight recording written to %s (%s)", self.write(reason), reason)
        except OSError as error:
            log.warning(
                "the flight recording (%s) could not be written: %s; check recorder.dir", reason, error
            )

    def _prune(self, folder: Path) -> None:
        mine = sorted(folder.glob(f"tent-{self._name}-*{SUFFIX}"))
        for old in mine[: -self._config.recorder.keep]:
            old.unlink(missing_ok=True)


def _handle_signal() -> None:
    """SIGUSR2 belongs to whoever took it: ours is installed only where nobody did."""
    if threading.current_thread() is not threading.main_thread():
        log.warning(
            "recorder.signal: signals can be handled only from the main thread; SIGUSR2 is left alone"
        )
        return
    handler = signal.getsignal(signal.SIGUSR2)
    if handler is _on_signal:
        return
    if handler is not signal.SIG_DFL:
        log.warning("recorder.signal: the application handles SIGUSR2 itself; it is left alone")
        return
    signal.signal(signal.SIGUSR2, _on_signal)


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    for dumps in list(_live):
        dumps.ask("SIGUSR2")
