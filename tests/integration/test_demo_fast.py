"""``tent demo --fast``, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from tent_core.cli import demo_fast


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tent_core.cli", "demo", "--fast", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_every_byte_arrives_both_ways() -> None:
    done = _demo("--bytes", "64MiB", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"]
    assert [phase["bytes"] for phase in report["phases"]] == [64 << 20] * 2


def test_the_table_names_the_links_that_carried_it() -> None:
    done = _demo("--bytes", "8MiB")
    assert done.returncode == 0, done.stderr
    carried = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("shm ", "tcp "))]
    assert carried == ["shm", "tcp"]


def test_more_than_fits_is_refused_in_a_line() -> None:
    done = _demo("--bytes", "900TiB")
    assert done.returncode == 1
    assert "try --bytes" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_verification_can_fail() -> None:
    view = np.zeros(4 << 20, dtype=np.uint8)
    demo_fast._fill(view)
    assert demo_fast._wrong_cells(view) == 0
    view[5] ^= 1
    view[2 << 20 : 3 << 20] = view[3 << 20 :]
    assert demo_fast._wrong_cells(view) == 2
