"""What is going on while something takes long: a bar of the steps done and a line about the present one.

Goes to standard error, so that standard output holds results alone.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

__all__ = ["Progress", "Steps"]

_WIDTH = 118
_BAR = 20
_REFRESH_S = 0.25


class Steps:
    """A task of several steps, one after the other."""

    def __init__(self, count: int, stream: TextIO | None = None) -> None:
        self._count = count
        self._begun = 0
        self._stream = stream

    def step(self, title: str) -> Progress:
        """The next step; use it with ``with``."""
        filled = self._begun * _BAR // self._count
        self._begun += 1
        bar = f"[{'#' * filled}{'.' * (_BAR - filled)}] {self._begun}/{self._count} "
        return Progress(bar + title, self._stream)


class Progress:
    """On a terminal one line that rewrites itself; elsewhere a line whenever the text changes."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self._title = title
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._started = time.monotonic()
        self._last: str | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="tent-progress", daemon=True)

    def update(self, text: str = "") -> None:
        """Show `text` beside the title and the seconds since the start."""
        text = text[: max(0, _WIDTH - len(self._title) - 10)]
        with self._lock:
            changed, self._last = text != self._last, text
            if self._live:
                self._show()
            elif changed:
                self._stream.write(f"{self._title}: {text}\n" if text else f"{self._title}\n")
                self._stream.flush()

    def _show(self) -> None:
        seconds = time.monotonic() - self._started
        self._stream.write(f"\r\x1b[K{self._title} {seconds:5.0f} s  {self._last or ''}")
        self._stream.flush()

    def _tick(self) -> None:
        while not self._ended.wait(_REFRESH_S):
            with self._lock:
                self._show()

    def _finish(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        start = "\r\x1b[K" if self._live else ""
        self._stream.write(f"{start}{self._title}: {text} ({seconds:.1f} s)\n")
        self._stream.flush()

    def __enter__(self) -> Progress:
        self.update()
        if self._live:
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._live:
            self._ticker.join()
        self._finish("done" if kind is None else "failed")
