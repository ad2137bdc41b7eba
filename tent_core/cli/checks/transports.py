"""The native engine and its transports: tcp, shm; what is known of rdma and cuda."""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path

from tent_core.cli.checks.finding import BROKEN, INFO, OK, WEAK, Finding
from tent_core.config import Config, format_size, has_configured_secret
from tent_core.topology import host

__all__ = ["check"]

AREA = "transports"


def check(config: Config) -> list[Finding]:
    return [_native(), _shm(config), _tcp(config), _buffers(config), _reach(config), _rdma(config), _cuda()]


def _native() -> Finding:
    try:
        module = importlib.import_module("tent_core._native")
    except ImportError as error:
        fix = "pip install tent-kv   (from sources: pip install . ; needs g++)"
        return Finding(AREA, "native engine", BROKEN, f"does not load: {error}", fix)
    return Finding(AREA, "native engine", OK, str(getattr(module, "__file__", "built in")))


def _shm(config: Config) -> Finding:
    if not config.shm.enabled:
        return Finding(AREA, "shm", INFO, "switched off by shm.enabled")
    return Finding(AREA, "shm", OK, f"with processes of host {host.host_identity()[:8]}")


def _tcp(config: Config) -> Finding:
    if not config.tcp.enabled:
        return Finding(AREA, "tcp", INFO, "switched off by tcp.enabled")
    rails = [
        f"{item.name} ({', '.join(item.addresses)}{f', {item.speed_mbps} Mbit/s' if item.speed_mbps else ''})"
        for item in host.interfaces()
    ]
    available = _sysctl("net/ipv4/tcp_available_congestion_control").split()
    wanted = config.tcp.congestion
    if wanted and available and wanted not in available:
        detail = f"congestion control {wanted} is not available (there is: {', '.join(available)})"
        return Finding(AREA, "tcp", WEAK, detail, f"modprobe tcp_{wanted}")
    return Finding(AREA, "tcp", OK, "; ".join(rails) or "no interface with an address")


def _buffers(config: Config) -> Finding:
    small = []
    for name, wanted in (("wmem_max", config.tcp.sndbuf), ("rmem_max", config.tcp.rcvbuf)):
        text = _sysctl(f"net/core/{name}")
        if text.isdigit() and int(text) < wanted:
            small.append((name, int(text), wanted))
    if not small:
        return Finding(AREA, "tcp buffers", OK, "the kernel grants what tcp.sndbuf and tcp.rcvbuf ask for")
    detail = ", ".join(f"net.core.{name} is {format_size(have)}" for name, have, _ in small)
    fix = "sysctl -w " + " ".join(f"net.core.{name}={wanted}" for name, _, wanted in small)
    return Finding(AREA, "tcp buffers", WEAK, f"{detail}: a long fat link may not be filled", fix)


def _reach(config: Config) -> Finding:
    if has_configured_secret(config):
        bound = ", ".join(config.node.bind) or "every rail"
        return Finding(AREA, "other hosts", OK, f"a secret is set; listening on {bound}")
    detail = "no secret is set: only this user's processes on this host are peers"
    fix = "to reach other hosts: (umask 077; openssl rand -hex 32 > tent.secret) and set cluster.secret_file everywhere"
    return Finding(AREA, "other hosts", INFO, detail, fix)


def _rdma(config: Config) -> Finding:
    devices = host.rdma_devices()
    if not devices:
        return Finding(AREA, "rdma", INFO, "no RDMA device on this host")
    names = ", ".join(devices)
    if not config.rdma.enabled:
        return Finding(AREA, "rdma", INFO, f"{names}; switched off by rdma.enabled")
    if not _loads("libibverbs.so.1"):
        return Finding(
            AREA, "rdma", WEAK, f"{names}; libibverbs does not load", "apt install ibverbs-providers"
        )
    return Finding(AREA, "rdma", OK, f"{names}; used on rails whose address one of their ports has (RoCE v2)")


def _cuda() -> Finding:
    if not _loads("libcuda.so.1"):
        return Finding(AREA, "cuda", INFO, "no CUDA driver on this host")
    library = ctypes.CDLL("libcuda.so.1")
    count = ctypes.c_int(0)
    if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return Finding(AREA, "cuda", INFO, "a CUDA driver, but no usable device")
    detail = (
        f"{count.value} GPU; this version moves host memory: KV cache passes through the engine's host pool"
    )
    return Finding(AREA, "cuda", INFO, detail)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""
