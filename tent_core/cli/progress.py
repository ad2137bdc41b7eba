"""A line that says what is going on while something takes long, on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

__all__ = ["Progress"]

_WIDTH = 100


class Progress:
    """On a terminal one line that rewrites itself; elsewhere a line whenever the text changes. Not thread-safe."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self._title = title
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._started = time.monotonic()
        self._last = ""

    def update(self, text: str = "") -> None:
        """Show `text` beside the title and the seconds since the start."""
        text = text[: _WIDTH - len(self._title) - 10]
        if self._live:
            seconds = time.monotonic() - self._started
            self._stream.write(f"\r\x1b[K{self._title} {seconds:5.0f} s  {text}")
        elif text != self._last:
            self._stream.write(f"{self._title}: {text}\n")
        self._last = text
        self._stream.flush()

    def done(self, text: str = "done") -> None:
        """The last words: `text` and how long it took."""
        seconds = time.monotonic() - self._started
        start = "\r\x1b[K" if self._live else ""
        self._stream.write(f"{start}{self._title}: {text} ({seconds:.1f} s)\n")
        self._stream.flush()

    def __enter__(self) -> Progress:
        self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done("done" if kind is None else "failed")
