"""NIXL over UCX: two agents, prepared requests, and the caller's progress thread off: its best set-up.

Setup ``tcp`` confines UCX to TCP; ``memory`` leaves it its choice, which within a host is cross-memory attach.
"""

from __future__ import annotations

import base64
import os
from typing import Any

MODULES = ("nixl",)
DISTRIBUTION = "nixl"


def _agent(setup: str, name: str, progress_thread: bool) -> Any:
    os.environ.setdefault("NIXL_LOG_LEVEL", "ERROR")
    if setup == "tcp":
        os.environ["UCX_TLS"] = "tcp"
    from nixl._api import nixl_agent, nixl_agent_config

    return nixl_agent(name, nixl_agent_config(enable_prog_thread=progress_thread, backends=["UCX"]))


class Owner:
    def __init__(self, setup: str, address: int, nbytes: int) -> None:
        self._agent = _agent(setup, "owner", progress_thread=True)
        self._memory = self._agent.register_memory([(address, nbytes, 0, "")], "DRAM")
        metadata = base64.b64encode(self._agent.get_agent_metadata()).decode()
        self.info = {"metadata": metadata, "address": address}

    def close(self) -> None: ...


class Caller:
    def __init__(self, setup: str, info: dict[str, Any], address: int, nbytes: int) -> None:
        self._agent = _agent(setup, "caller", progress_thread=False)
        self._memory = self._agent.register_memory([(address, nbytes, 0, "")], "DRAM")
        name = self._agent.add_remote_agent(base64.b64decode(info["metadata"]))
        self._owner = name.decode() if isinstance(name, bytes) else name
        self._bases = address, info["address"]

    def before(self, op: str) -> None: ...

    def prepare(self, op: str, offsets: list[int], nbytes: int) -> Any:
        local, remote = (
            self._agent.get_xfer_descs([(base + offset, nbytes, 0) for offset in offsets], "DRAM")
            for base in self._bases
        )
        return self._agent.initialize_xfer(op.upper(), local, remote, self._owner)

    def start(self, request: Any) -> Any:
        return request, self._agent.transfer(request)

    def wait(self, token: Any) -> None:
        request, state = token
        while state == "PROC":
            state = self._agent.check_xfer_state(request)
        if state != "DONE":
            raise RuntimeError(f"a transfer ended as {state}")

    def run(self, request: Any) -> None:
        self.wait(self.start(request))

    def free(self, request: Any) -> None:
        self._agent.release_xfer_handle(request)
