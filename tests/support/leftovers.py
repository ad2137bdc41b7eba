"""Counting what a test left behind: processes, unix sockets, shared memory, files and descriptors of TENT.

Every process that a test starts carries ``TENT_TEST_RUN`` in its environment, so that it is found even when its
parent was killed and it was given another one.
"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

__all__ = ["RUN_VARIABLE", "describe", "snapshot", "wait_until_gone"]

RUN_VARIABLE = "TENT_TEST_RUN"
# Helpers of Python's multiprocessing, which live until the interpreter ends.
_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def _parent_and_start(pid: int) -> tuple[int, str, str] | None:
    """(parent, state, start time): pid and start time together name a process for ever."""
    stat = _bytes(f"/proc/{pid}/stat").decode(errors="replace")
    fields = stat.rpartition(")")[2].split()
    return (int(fields[1]), fields[0], fields[19]) if len(fields) > 19 else None


def _is_ours(pid: str, run: str) -> bool:
    facts = _parent_and_start(int(pid))
    if facts is None:
        return False
    marked = f"{RUN_VARIABLE}={run}".encode() in _bytes(f"/proc/{pid}/environ").split(b"\0")
    return marked or facts[0] == os.getpid()


def _processes(run: str) -> set[tuple[str, str]]:
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid() or not _is_ours(name, run):
            continue
        command = _bytes(f"/proc/{name}/cmdline")
        facts = _parent_and_start(int(name))
        if facts is None or any(helper in command for helper in _HELPERS):
            continue
        shown = command.replace(b"\0", b" ").decode(errors="replace").strip() or f"(state {facts[1]})"
        found.add((f"process {name}/{facts[2]}", shown[:200]))
    return found


def _held_sockets(pid: str) -> set[str]:
    """Inodes of the sockets that a process has open."""
    held = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                held.add(target[len("socket:[") : -1])
    except OSError:
        pass  # it ended meanwhile
    return held


def _unix_sockets(run: str) -> set[tuple[str, str]]:
    """Listening unix sockets of this run that have tent in their name, abstract ones included.

    A listening socket lives as long as a process holds it, so those of other runs on this machine are told apart by
    who holds them.
    """
    listening = {}
    for line in _bytes("/proc/net/unix").decode(errors="replace").splitlines()[1:]:
        parts = line.split(maxsplit=7)
        if len(parts) == 8 and "tent" in parts[7] and int(parts[3], 16) & 0x10000:
            listening[parts[6]] = parts[7]
    if not listening:
        return set()
    held: set[str] = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and (int(name) == os.getpid() or _is_ours(name, run)):
            held |= _held_sockets(name)
    return {(f"unix socket {listening[inode]}", f"inode {inode}") for inode in held & set(listening)}


def _files(folder: Path) -> set[tuple[str, str]]:
    found = set()
    for path in folder.rglob("*"):
        if not path.is_dir() or path.is_symlink():
            found.add((f"file {path}", ""))
    return found


def _descriptors() -> set[tuple[str, str]]:
    """Descriptors of this process that are memfds of TENT or listening or connected sockets."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("/memfd:tent") or target.startswith("socket:["):
            found.add((f"descriptor {target}", f"fd {name}"))
    return found


def snapshot(run: str, runtime: Path, *, descriptors: bool) -> set[tuple[str, str]]:
    """All that is there now, as (identity, description) pairs."""
    found = _processes(run) | _unix_sockets(run) | _files(runtime)
    for path in Path("/dev/shm").glob("*tent*"):
        found.add((f"shared memory {path}", ""))
    if descriptors:
        found |= _descriptors()
    return found


def wait_until_gone(
    run: str, runtime: Path, known: set[str], *, descriptors: bool, patience: float = 10.0
) -> set[tuple[str, str]]:
    """What is there beyond ``known`` (identities), once it has had ``patience`` seconds to go away."""
    deadline = time.monotonic() + patience
    while True:
        found = {item for item in snapshot(run, runtime, descriptors=descriptors) if item[0] not in known}
        if not found or time.monotonic() > deadline:
            return found
        gc.collect()
        time.sleep(0.02)


def describe(found: set[tuple[str, str]]) -> str:
    """One line each, fit for a test report."""
    return "\n".join(f"  {name}: {what}" if what else f"  {name}" for name, what in sorted(found))
