"""Facts of this host, read from the kernel. Every reader copes with a file that is not there."""

from __future__ import annotations

import os
import resource
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Interface",
    "cgroup_memory_limit",
    "host_identity",
    "huge_pages",
    "interfaces",
    "memlock_limit",
    "numa_nodes",
    "ptrace_scope",
    "rdma_devices",
    "shared_memory_size",
]

_UNLIMITED_ABOVE = 1 << 60


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def host_identity() -> str:
    """What all processes under one kernel have in common: its boot id. Containers of one host share it."""
    return _read("/proc/sys/kernel/random/boot_id") or f"host:{socket.gethostname()}"


@dataclass(frozen=True)
class Interface:
    """A network interface that is up. ``speed_mbps`` is None where the driver does not say (virtual ones)."""

    name: str
    addresses: tuple[str, ...]
    speed_mbps: int | None
    mtu: int | None
    numa_node: int | None


def interfaces() -> list[Interface]:
    """The interfaces of this network namespace that are up and have an address, loopback first."""
    by_name: dict[str, list[str]] = {}
    for name, address in _ipv4_addresses() + _ipv6_addresses():
        by_name.setdefault(name, []).append(address)
    found = []
    for _, name in socket.if_nameindex():
        base = f"/sys/class/net/{name}"
        if name not in by_name or _read(f"{base}/operstate") == "down":
            continue
        speed = _number(_read(f"{base}/speed"))
        node = _number(_read(f"{base}/device/numa_node"))
        mtu = _number(_read(f"{base}/mtu"))
        found.append(Interface(name, tuple(by_name[name]), speed or None, mtu, node))
    return sorted(found, key=lambda item: (item.name != "lo", item.name))


def _ipv4_addresses() -> list[tuple[str, str]]:
    """(interface, primary IPv4 address), by the SIOCGIFADDR request."""
    import fcntl

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), 0x8915, request)
            except OSError:
                continue
            found.append((name, socket.inet_ntoa(answer[20:24])))
    return found


def _ipv6_addresses() -> list[tuple[str, str]]:
    found = []
    for line in _read("/proc/net/if_inet6").splitlines():
        parts = line.split()
        # Link-local addresses (scope 20) need a zone to be of use to a peer.
        if len(parts) == 6 and parts[3] != "20":
            found.append((parts[5], socket.inet_ntop(socket.AF_INET6, bytes.fromhex(parts[0]))))
    return found


def memlock_limit() -> int | None:
    """Bytes that this process may lock; None when there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def shared_memory_size() -> int | None:
    """Size of /dev/shm in bytes, or None without one. TENT itself uses memfds, which it does not bound."""
    try:
        state = os.statvfs("/dev/shm")
    except OSError:
        return None
    return state.f_frsize * state.f_blocks


def ptrace_scope() -> int | None:
    """Yama's setting: 0 lets processes of one user read each other's memory. None without Yama."""
    return _number(_read("/proc/sys/kernel/yama/ptrace_scope"))


def huge_pages() -> dict[str, int | str]:
    """Reserved huge pages (total, free, size in bytes) and the modes of transparent ones, also for memfds."""
    facts: dict[str, int | str] = {"total": 0, "free": 0, "size": 0}
    names = {"HugePages_Total": ("total", 1), "HugePages_Free": ("free", 1), "Hugepagesize": ("size", 1024)}
    for line in _read("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name in names:
            key, factor = names[name]
            facts[key] = int(rest.split()[0]) * factor
    for key, path in (("transparent", "enabled"), ("transparent_shmem", "shmem_enabled")):
        modes = _read(f"/sys/kernel/mm/transparent_hugepage/{path}")
        chosen = modes[modes.find("[") + 1 : modes.find("]")] if "[" in modes else "absent"
        facts[key] = chosen
    return facts


def cgroup_memory_limit(
    membership: str | Path = "/proc/self/cgroup", mount: str | Path = "/sys/fs/cgroup"
) -> int | None:
    """The tightest memory limit of this process's cgroup (v2 or v1) and its parents; None when there is none."""
    limits = []
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = Path(mount, "memory") if controllers else Path(mount)
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(root):
                break
            limit = _number(_read(place / name))
            if limit is not None and limit < _UNLIMITED_ABOVE:
                limits.append(limit)
    return min(limits) if limits else None


def numa_nodes() -> list[int]:
    """Numbers of this host's NUMA nodes."""
    try:
        names = os.listdir("/sys/devices/system/node")
    except OSError:
        return [0]
    return sorted(int(name[4:]) for name in names if name.startswith("node") and name[4:].isdigit()) or [0]


def rdma_devices() -> list[str]:
    """Names of the RDMA devices that the kernel has."""
    try:
        return sorted(os.listdir("/sys/class/infiniband"))
    except OSError:
        return []
