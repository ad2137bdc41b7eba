"""Kernel limits: locked memory, /dev/shm, reading a peer's memory, huge pages, the cgroup's memory, descriptors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from tent_core.cli.checks.finding import BROKEN, INFO, OK, WEAK, Finding
from tent_core.config import Config, format_size
from tent_core.topology import host

__all__ = ["check"]

AREA = "limits"
_PLENTY_LOCKED = 1 << 30
_FEW_DESCRIPTORS = 4096

# Prints the address of a page, then stays until its standard input closes.
_HOLDER = (
    "import ctypes, sys; b = ctypes.create_string_buffer(b'tent', 4096); "
    "print(ctypes.addressof(b), flush=True); sys.stdin.read()"
)
# A sibling of the holder, as two serving processes are: reads that page.
_READER = """
import ctypes, os, sys
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
pid, address = int(sys.argv[1]), int(sys.argv[2])
into = ctypes.create_string_buffer(4)
libc = ctypes.CDLL(None, use_errno=True)
local, remote = Vector(ctypes.addressof(into), 4), Vector(address, 4)
got = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
print("yes" if got == 4 and into.raw == b"tent" else os.strerror(ctypes.get_errno()))
"""


def check(config: Config) -> list[Finding]:
    return [_locked(), _shared(), _pull(config), _memfd(), _huge(), _memory(config), _descriptors(), _numa()]


def _locked() -> Finding:
    limit = host.memlock_limit()
    if limit is None:
        return Finding(AREA, "locked memory", OK, "unlimited")
    shown = f"{format_size(limit)} may be locked"
    if limit < _PLENTY_LOCKED and host.rdma_devices():
        return Finding(
            AREA, "locked memory", WEAK, f"{shown}; RDMA registers by locking", "ulimit -l unlimited"
        )
    return Finding(AREA, "locked memory", OK, f"{shown}; only RDMA needs more")


def _shared() -> Finding:
    size = host.shared_memory_size()
    if size is None:
        return Finding(AREA, "/dev/shm", INFO, "absent; TENT does not use it, serving engines may")
    if size < 1 << 30:
        return Finding(
            AREA,
            "/dev/shm",
            INFO,
            f"{format_size(size)}; TENT does not use it, serving engines may want more",
            "mount -o remount,size=8G /dev/shm   (container: docker run --shm-size=8g)",
        )
    return Finding(AREA, "/dev/shm", OK, f"{size / 2**30:.1f} GiB (TENT itself uses memfds)")


def can_read_sibling() -> str:
    """Empty when one process may read another's memory, else why not. Tried for real, between two children."""
    try:
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    except OSError as error:
        return str(error)
    try:
        assert holder.stdout is not None
        address = holder.stdout.readline().strip()
        done = subprocess.run(
            [sys.executable, "-c", _READER, str(holder.pid), address],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        answer = done.stdout.strip() or done.stderr.strip()[-200:]
        return "" if answer == "yes" else answer
    except subprocess.TimeoutExpired:
        return "the reader did not answer"
    finally:
        holder.communicate()


def _pull(config: Config) -> Finding:
    name = "reading a peer's memory"
    if not config.shm.pull:
        return Finding(AREA, name, INFO, "switched off by shm.pull")
    why = can_read_sibling()
    if not why:
        return Finding(AREA, name, OK, "process_vm_readv between two processes works")
    scope = host.ptrace_scope()
    if scope:
        fix = "sysctl -w kernel.yama.ptrace_scope=0"
        detail = f"{why} (kernel.yama.ptrace_scope is {scope})"
    else:
        fix = "container: docker run --cap-add SYS_PTRACE, and a seccomp profile that allows process_vm_readv"
        detail = why
    return Finding(AREA, name, WEAK, f"{detail}; private memory of one host then goes over TCP", fix)


def _memfd() -> Finding:
    try:
        descriptor = os.memfd_create("tent-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return Finding(
            AREA, "memfd", BROKEN, f"memfd_create: {error.strerror}", "use a kernel of 3.17 or later"
        )
    os.close(descriptor)
    return Finding(AREA, "memfd", OK, "sealed memory files can be made")


def _huge() -> Finding:
    facts = host.huge_pages()
    detail = (
        f"{facts['free']} of {facts['total']} reserved pages free; transparent: {facts['transparent']}, "
        f"for shared memory: {facts['transparent_shmem']}"
    )
    if facts["transparent_shmem"] in ("never", "deny") and not facts["free"]:
        return Finding(
            AREA,
            "huge pages",
            WEAK,
            f"{detail}; copies would be faster with them",
            "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
        )
    return Finding(AREA, "huge pages", OK, detail)


def _memory(config: Config) -> Finding:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = host.cgroup_memory_limit()
    have = min(pages, limit) if limit else pages
    source = (
        f"cgroup limit {format_size(limit)}"
        if limit and limit < pages
        else f"{have / 2**30:.1f} GiB in this host"
    )
    wanted = config.store.capacity
    detail = f"{source}; store.capacity is {format_size(wanted)}"
    if wanted > have * 0.9:
        fix = f"set TENT_STORE_CAPACITY={format_size(max(1 << 20, int(have * 0.5) >> 20 << 20))}, or raise the limit"
        return Finding(AREA, "memory", BROKEN, detail, fix)
    return Finding(AREA, "memory", OK, detail)


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 < soft < _FEW_DESCRIPTORS:
        ceiling = hard if hard > soft else 65536
        return Finding(
            AREA, "open files", WEAK, f"{soft}; many peers need more", f"ulimit -n {min(ceiling, 65536)}"
        )
    return Finding(AREA, "open files", OK, f"up to {soft}")


def _numa() -> Finding:
    nodes = host.numa_nodes()
    cores = len(os.sched_getaffinity(0))
    return Finding(AREA, "cores", OK, f"{cores} cores, {len(nodes)} NUMA node{'s' if len(nodes) > 1 else ''}")
