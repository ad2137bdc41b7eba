"""Mooncake's Transfer Engine over TCP, which is all it has for host memory without RDMA, within a host as well."""

from __future__ import annotations

import os
from typing import Any

MODULES = ("mooncake",)
DISTRIBUTION = "mooncake-transfer-engine-non-cuda"
_HOST = "127.0.0.1"


def _engine(address: int, nbytes: int) -> Any:
    os.environ.setdefault("MC_LOG_LEVEL", "ERROR")
    from mooncake.engine import TransferEngine

    engine = TransferEngine()
    _demand(engine.initialize(_HOST, "P2PHANDSHAKE", "tcp", ""))
    _demand(engine.register_memory(address, nbytes))
    return engine


def _demand(code: int) -> None:
    if code != 0:
        raise RuntimeError(f"it answered {code}")


class Owner:
    def __init__(self, setup: str, address: int, nbytes: int) -> None:
        self._engine = _engine(address, nbytes)
        self.info = {"session": f"{_HOST}:{self._engine.get_rpc_port()}", "address": address}

    def close(self) -> None: ...


class Caller:
    def __init__(self, setup: str, info: dict[str, Any], address: int, nbytes: int) -> None:
        self._engine = _engine(address, nbytes)
        self._session = info["session"]
        self._bases = address, info["address"]

    def before(self, op: str) -> None: ...

    def prepare(self, op: str, offsets: list[int], nbytes: int) -> Any:
        local, remote = ([base + offset for offset in offsets] for base in self._bases)
        return op, (self._session, local, remote, [nbytes] * len(offsets))

    def start(self, request: Any) -> Any:
        op, where = request
        engine = self._engine
        batch = (engine.batch_transfer_async_write if op == "write" else engine.batch_transfer_async_read)(
            *where
        )
        if batch == 0:
            raise RuntimeError("it took no more requests")
        return batch

    def wait(self, token: Any) -> None:
        _demand(self._engine.get_batch_transfer_status([token]))

    def run(self, request: Any) -> None:
        op, (session, local, remote, lengths) = request
        engine = self._engine
        if len(local) == 1:
            one = engine.transfer_sync_write if op == "write" else engine.transfer_sync_read
            _demand(one(session, local[0], remote[0], lengths[0]))
        else:
            many = engine.batch_transfer_sync_write if op == "write" else engine.batch_transfer_sync_read
            _demand(many(session, local, remote, lengths))

    def free(self, request: Any) -> None: ...
