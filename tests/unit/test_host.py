from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tent_core.topology import host


def test_identity_is_the_same_in_every_process() -> None:
    code = "from tent_core.topology.host import host_identity; print(host_identity())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == host.host_identity()
    assert len(host.host_identity()) >= 6


def test_loopback_comes_first() -> None:
    found = host.interfaces()
    assert found[0].name == "lo"
    assert "127.0.0.1" in found[0].addresses
    assert all(item.addresses for item in found)


def _cgroup(folder: Path, membership: str, limits: dict[str, str]) -> int | None:
    (folder / "cgroup").write_text(membership)
    for path, text in limits.items():
        file = folder / "fs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return host.cgroup_memory_limit(folder / "cgroup", folder / "fs")


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "1073741824\n"}, 1 << 30),
        ("0::/a/b\n", {"a/b/memory.max": "4096\n", "a/memory.max": "8192\n"}, 4096),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/gone\n", {}, None),
        ("5:memory:/a\n0::/a\n", {"memory/a/memory.limit_in_bytes": "8192\n"}, 8192),
        ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("3:cpu,cpuacct:/a\n", {"a/memory.max": "1\n"}, None),
        ("", {}, None),
    ],
)
def test_cgroup_limit(membership: str, limits: dict[str, str], expected: int | None, tmp_path: Path) -> None:
    assert _cgroup(tmp_path, membership, limits) == expected


def test_huge_pages_are_bytes_and_modes() -> None:
    facts = host.huge_pages()
    assert set(facts) == {"total", "free", "size", "transparent", "transparent_shmem"}
    assert facts["size"] == 0 or int(facts["size"]) >= 1 << 20


def test_numa_nodes_start_at_the_first() -> None:
    assert host.numa_nodes()[0] == 0
