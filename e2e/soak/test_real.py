"""Real engines over real rails with too little processor for them: nobody may blame a rail for that.

Both cores are kept busy, and the caller or the owner is stopped for 100 ms now and then. CI's tier ``soak`` has half a
minute of it; the long form is ten:

TENT_TEST_REAL_SECONDS=600 PYTEST_ARGS='-k starved' bash tests/run.sh soak
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support.beds import OWNER, MakeBed

_SECONDS = float(os.environ.get("TENT_TEST_REAL_SECONDS", "30"))
_SIZE = 8 << 20
_SETTINGS = {"cluster.secret": "only for this test", "engine.deadline_ms": 60_000}
_CALLER = """
import base64, json, select, sys
import numpy as np
from tent_core import Engine, Intent
with Engine(json.loads(sys.argv[1]), name="caller") as engine:
    peer = engine.connect(base64.b64decode(sys.argv[3]), 30)
    size = int(sys.argv[2])
    source, back = np.random.default_rng(7).integers(0, 256, size, dtype=np.uint8), np.zeros(size, np.uint8)
    segments = [engine.register(source), engine.register(back)]
    rounds = last_down = 0
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        back[:] = 0
        for op, memory in (("write", source), ("read", back)):
            engine.run(Intent(op, peer, [memory.ctypes.data], peer.segment("kv"), [0], size))
            last_down += all(row["state"] == "down" for row in peer.links())
        assert np.array_equal(source, back), "wrong bytes"
        rounds += 1
    rows = [{key: row[key] for key in ("name", "posted", "revoked", "failed")} for row in peer.links()]
    failed = engine.metrics()["transfers_failed"]
    print(json.dumps({"rounds": rounds, "last_down": last_down, "links": rows, "failed": failed}), flush=True)
    for segment in segments:
        segment.close()
    peer.close()
"""


@pytest.mark.timeout(_SECONDS + 120)
def test_starved_engines_raise_no_false_alarms(make_bed: MakeBed) -> None:
    bed = make_bed(800, 800, 400, 100)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 2)]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "cwd": Path.cwd(),
    }
    python, settings = [sys.executable, "-c"], json.dumps(_SETTINGS)
    owner = bed.run(1, [*python, OWNER, settings, str(_SIZE)], **pipes)
    caller = bed.run(0, [*python, _CALLER, settings, str(_SIZE), owner.stdout.readline().strip()], **pipes)
    try:
        assert caller.stdout.readline().strip() == "ready"
        chance, until, stops = random.Random(7), time.monotonic() + _SECONDS, 0
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.5, 2.5))
            one = chance.choice([caller, owner])
            one.send_signal(signal.SIGSTOP)
            time.sleep(0.1)  # how long it stands still
            one.send_signal(signal.SIGCONT)
            stops += 1
        said = json.loads(caller.communicate("\n", timeout=90)[0].splitlines()[-1])
    finally:
        for process in (*busy, caller, owner):
            process.kill()
            process.wait()
    posted = sum(row["posted"] for row in said["links"])
    again = sum(row["revoked"] + row["failed"] for row in said["links"])
    print(
        f"{said['rounds']} rounds, {stops} stops, {posted} slices, {again} of them re-issued: {said['links']}"
    )
    assert said["rounds"] > 0 and said["failed"] == 0
    assert said["last_down"] == 0
    assert again < posted / 100
