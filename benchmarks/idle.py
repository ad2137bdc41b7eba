"""What an engine costs that has peers and nothing to do: processor time of its process, in per cent of one core."""

from __future__ import annotations

import json
import subprocess
import sys

__all__ = ["PEERS", "idle_percent"]

PEERS = 64
_CONFIG = {"shm.enabled": False, "node.bind": ["127.0.0.1"], "recorder.memory": 0}

_OWNERS = """
import base64, json, sys
from tent_core import Engine
config, count = json.loads(sys.argv[1]), int(sys.argv[2])
engines = [Engine(config, name=f"idle-{n}") for n in range(count)]
segments = [engine.allocate(4096, name="kv") for engine in engines]
print(json.dumps([base64.b64encode(engine.descriptor()).decode() for engine in engines]), flush=True)
sys.stdin.read()
"""

# Every peer is used once, so that its links are there, too.
_IDLER = """
import base64, json, sys, time
import numpy as np
from tent_core import Engine
config, seconds = json.loads(sys.argv[1]), float(sys.argv[2])
engine, memory = Engine(config, name="idler"), np.zeros(4096, np.uint8)
segment = engine.register(memory, access="private")
for blob in json.loads(sys.stdin.readline()):
    peer = engine.connect(base64.b64decode(blob), 30)
    engine.read(peer, memory.ctypes.data, peer.segment("kv"), 0, 4096)
time.sleep(2)  # what comes after work is over
began, used = time.monotonic(), time.process_time()
time.sleep(seconds)
print((time.process_time() - used) / (time.monotonic() - began), flush=True)
"""


def _program(text: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, json.dumps(_CONFIG), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def idle_percent(seconds: float) -> float:
    """Of an engine with ``PEERS`` peers, sessions and links open, over so many seconds."""
    owners, idler = _program(_OWNERS, str(PEERS)), _program(_IDLER, str(seconds))
    try:
        assert owners.stdout is not None
        described = owners.stdout.readline()
        used, _ = idler.communicate(described, timeout=60 + 2 * seconds)
        return 100 * float(used)
    finally:
        for process in (owners, idler):
            process.kill()
            process.wait()
