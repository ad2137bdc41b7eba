"""``tent net check`` on hosts whose network is sick in one place: it names that place."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.beds import MakeBed
from tent_core.testbed import Testbed

_SETTINGS = {"cluster.secret": "only for this test", "engine.connect_timeout_ms": 500}
_NODE = """
import json, sys
from tent_core import Engine
with Engine(json.loads(sys.argv[1]), name=sys.argv[2]) as engine:
    open(sys.argv[3], "wb").write(engine.descriptor())
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def nodes(bed: Testbed, folder: Path) -> Iterator[list[str]]:
    """A node on each host. Gives the files of their descriptors."""
    with ExitStack() as stack:
        files = []
        for host in range(bed.hosts):
            file = str(folder / f"n{host}")
            argv = [sys.executable, "-c", _NODE, json.dumps(_SETTINGS), f"n{host}", file]
            node = bed.run(host, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(node.wait, 60)
            stack.callback(node.stdin.close)
            assert node.stdout.readline() == "ready\n"
            files.append(file)
        yield files


def check(bed: Testbed, folder: Path, files: list[str]) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(_SETTINGS))
    arguments = ["net", "check", "--json", "--for", "100ms", "--config", str(folder / "config.json")]
    for file in files:
        arguments += ["--descriptor", file]
    done = bed.run(0, [sys.executable, "-m", "tent_core.cli", *arguments], stdout=subprocess.PIPE, text=True)
    shown: dict[str, Any] = json.loads(done.communicate(timeout=200)[0])
    assert done.returncode == (0 if shown["ok"] else 1)
    return shown


def named(shown: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["kind"], item["name"]) for item in shown["findings"]]


def test_the_rail_that_is_slow_or_silent_between_two_hosts_is_named(
    make_bed: MakeBed, tmp_path: Path
) -> None:
    bed = make_bed(400, 400, 400)
    with nodes(bed, tmp_path) as files:
        before = [one.received for one in bed.counters(0)]
        well = check(bed, tmp_path, files)
        assert well["ok"], well
        assert len(well["links"]) == 6
        carried = [one.received - old for one, old in zip(bed.counters(0), before, strict=True)]
        assert min(carried) > 1 << 20, f"each rail was tried, and nothing else: {carried}"
        bed.shape(1, 20)
        assert named(check(bed, tmp_path, files)) == [("rail", "rail1")]
        bed.shape(1, 400)
        bed.cut(2, "blackhole")
        assert named(check(bed, tmp_path, files)) == [("rail", "rail2")]
        bed.heal(2)


def test_the_nic_that_is_sick_among_three_hosts_is_named(make_bed: MakeBed, tmp_path: Path) -> None:
    bed = make_bed(400, 400, hosts=3)
    with nodes(bed, tmp_path) as files:
        bed.cut(1, "one-way", host=2)
        assert named(check(bed, tmp_path, files)) == [("NIC", "n2/rail1")]
        bed.heal(1)
