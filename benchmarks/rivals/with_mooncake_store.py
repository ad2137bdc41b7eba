"""Mooncake's store over TCP: the owner's process lends a segment and runs the master; pages go there and come back.

A block's key is its offset, and new with every measurement that writes: what is there already would not be written.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MODULES = ("mooncake",)
DISTRIBUTION = "mooncake-transfer-engine-non-cuda"
_HOST = "127.0.0.1"
_SEGMENT = 256 << 20


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _client(segment: int, buffer: int, master: str) -> Any:
    os.environ.setdefault("MC_LOG_LEVEL", "ERROR")
    from mooncake.store import MooncakeDistributedStore

    store = MooncakeDistributedStore()
    _demand([store.setup(_HOST, "P2PHANDSHAKE", segment, buffer, "tcp", "", master)])
    return store


def _demand(codes: list[int]) -> None:
    bad = [code for code in codes if code < 0]
    if bad:
        raise RuntimeError(f"it answered {bad[0]} for {len(bad)} of {len(codes)}")


def _start_master(port: int) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("mooncake_master")
    # It and its clients are stopped together between measurements: nobody is to be taken for dead after that.
    command = [str(program), f"-rpc_port={port}", f"-metrics_port={_free_port()}", "-client_ttl=600"]
    master = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(1, 9, 0, 0, 0),  # it ends with this process
    )
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((_HOST, port), timeout=1).close()
            return master
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{program} does not answer") from None
            time.sleep(0.05)


class Owner:
    def __init__(self, setup: str, address: int, nbytes: int) -> None:
        port = _free_port()
        self._master = _start_master(port)
        self.info = {"master": f"{_HOST}:{port}"}
        self._store = _client(_SEGMENT, 16 << 20, self.info["master"])

    def close(self) -> None:
        self._master.kill()
        self._master.wait()


class Caller:
    def __init__(self, setup: str, info: dict[str, Any], address: int, nbytes: int) -> None:
        self._store = _client(0, 64 << 20, info["master"])
        self._address = address
        self._epoch = 0
        self._written: set[int] = set()
        _demand([self._store.register_buffer(address, nbytes)])

    def before(self, op: str) -> None:
        if op == "write":
            self._store.remove_all(force=True)
            self._epoch += 1
            self._written.clear()

    def prepare(self, op: str, offsets: list[int], nbytes: int) -> Any:
        return op, offsets, [self._address + offset for offset in offsets], [nbytes] * len(offsets)

    def start(self, request: Any) -> Any:
        raise NotImplementedError("one request at a time")

    def wait(self, token: Any) -> None: ...

    def run(self, request: Any) -> None:
        op, offsets, addresses, lengths = request
        keys = [f"{self._epoch}-{offset}" for offset in offsets]
        if op == "read":
            _demand(self._store.batch_get_into(keys, addresses, lengths))
            return
        if not self._written.isdisjoint(offsets):
            raise RuntimeError("a page would be written twice")
        self._written.update(offsets)
        _demand(self._store.batch_put_from(keys, addresses, lengths))

    def free(self, request: Any) -> None: ...
