"""The other process of a benchmark: an engine that owns one segment, until its standard input closes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tent_core import Engine

__all__ = ["SEGMENT", "owner"]

SEGMENT = "bench"


@contextmanager
def owner(nbytes: int, settings: dict[str, Any]) -> Iterator[bytes]:
    """A process that owns a warm segment called `SEGMENT`; gives its descriptor."""
    command = [sys.executable, __file__, str(nbytes), json.dumps(settings)]
    # A session of its own: Ctrl-C is for the benchmark, which then closes its input.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError("the owner's process ended before it was ready; its error is above")
        yield base64.b64decode(line)
    finally:
        process.communicate()


def main() -> None:
    nbytes, settings = int(sys.argv[1]), json.loads(sys.argv[2])
    with Engine(settings) as engine:
        segment = engine.allocate(nbytes, name=SEGMENT)
        segment.view[:] = 1
        print(base64.b64encode(engine.descriptor()).decode(), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
