"""Two processes, eight client threads, mixed operations over the same keys with different bytes: no wrong page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.stores import Server

SECONDS = float(os.environ.get("TENT_TEST_STORE_SECONDS", "8"))

_CLIENTS = r"""
import json, sys, threading, time
import numpy as np
sys.path.insert(0, sys.argv[2])
from support.stores import Client, page
from tent_core.store import PageStatus, PageStore

config, seconds, process = json.loads(sys.argv[1]), float(sys.argv[3]), int(sys.argv[4])
KEYS, SIZE, ROWS, THREADS = 120, 60_000, 4, 4
# Which process and thread computed a page is in its bytes: flavour = process * THREADS + thread.
known = {}
for key in range(KEYS):
    for flavour in range(2 * THREADS):
        known[key, page(b"%d" % key, SIZE, flavour)[:16].tobytes()] = flavour

counts = {"hit": 0, "stored": 0, "present": 0, "unstable": 0, "wrong": 0, "torn": 0, "raised": 0}
lock = threading.Lock()

def work(store, thread):
    random = np.random.default_rng(process * 100 + thread)
    client = Client(store, SIZE, ROWS)
    counters = np.zeros(ROWS, dtype=np.uint64)
    tokens = counters.ctypes.data + np.arange(ROWS, dtype=np.uint64) * np.uint64(8)
    mine = {name: 0 for name in counts}
    flavour = process * THREADS + thread
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        picked = random.choice(KEYS, ROWS, replace=False)
        keys = [b"%d" % key for key in picked]
        what = random.integers(10)
        if what < 3:
            for row, key in enumerate(keys):
                client.buffer[row] = page(key, SIZE, flavour)
            put = store.submit_put(client.space, keys, client.addresses(ROWS), SIZE, token=tokens)
            if random.integers(2):  # a source that gets another owner in mid-put
                counters[1] += np.uint64(1)
                client.buffer[1] = 0xEE
            assert put.wait(60) and put.wait_released(60)
            status = put.status
            mine["stored"] += int((status == PageStatus.STORED).sum())
            mine["present"] += int((status == PageStatus.PRESENT).sum())
            mine["unstable"] += int((status == PageStatus.UNSTABLE).sum())
        elif what < 8:
            status = client.get(keys)
            for row in np.flatnonzero(status == PageStatus.HIT).tolist():
                mine["hit"] += 1
                found = known.get((int(picked[row]), client.buffer[row][:16].tobytes()))
                if found is None:
                    mine["wrong"] += 1
                elif not (client.buffer[row] == page(keys[row], SIZE, found)).all():
                    mine["torn"] += 1
        elif what < 9:
            client.exists(keys)
        else:
            store.remove(client.space, keys[:1])
    client.segment.close()
    with lock:
        for name, value in mine.items():
            counts[name] += value

with PageStore.open(config) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    def run(thread):
        try:
            work(store, thread)
        except BaseException:
            import traceback; traceback.print_exc()
            with lock:
                counts["raised"] += 1
    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    counts["reclaimed"] = store.stats()["reclaimed_extents"]
    print(json.dumps(counts), flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.timeout(120 + 2 * SECONDS)
def test_mixed_operations_never_give_a_wrong_page(server: Server) -> None:
    config = {
        "directory.url": server.url,
        "directory.timeout_ms": 5000,
        "store.capacity": "4MiB",  # holds half of the keys: eviction goes on all the time
        "store.extent": "1MiB",
    }
    folder = str(Path(__file__).parents[1])
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", _CLIENTS, json.dumps(config), folder, str(SECONDS), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for client in clients:
            assert client.stdout is not None and client.stdout.readline() == "ready\n"
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        results = [json.loads(client.stdout.readline()) for client in clients if client.stdout is not None]
    finally:
        for client in clients:
            client.communicate(timeout=60)
    total = {name: sum(result[name] for result in results) for name in results[0]}
    assert total["raised"] == total["wrong"] == total["torn"] == 0, total
    for name in ("hit", "stored", "present", "unstable", "reclaimed"):
        assert total[name] > 0, f"the test did not get to see {name}: {total}"
