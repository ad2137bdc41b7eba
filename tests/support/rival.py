"""A rival that needs no installation: copies through a file of shared memory that its owner made.

Its set-up says how it behaves. ``good``: as it should, and it complains when two requests under way share a block.
``lies``: moves nothing. ``orphan``: its owner ends at once. ``hangs``: a request of 8 KiB never ends. ``refuses``: so
does a read of 8 KiB, with an error.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from typing import Any

MODULES: tuple[str, ...] = ("ctypes",)
DISTRIBUTION = "numpy"

print("a library that greets on standard output")


def _address(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


class Owner:
    def __init__(self, setup: str, address: int, nbytes: int) -> None:
        if setup == "orphan":
            os._exit(3)
        self._file = os.memfd_create("rival")
        os.ftruncate(self._file, nbytes)
        self.info = {"path": f"/proc/{os.getpid()}/fd/{self._file}"}

    def close(self) -> None:
        os.close(self._file)


class Caller:
    def __init__(self, setup: str, info: dict[str, Any], address: int, nbytes: int) -> None:
        self._setup = setup
        with open(info["path"], "r+b") as file:
            self._mapping = mmap.mmap(file.fileno(), nbytes)
        self._bases = address, _address(self._mapping)
        self._under_way: set[int] = set()

    def before(self, op: str) -> None:
        assert not self._under_way, "a measurement began before the one ahead of it had ended"

    def prepare(self, op: str, offsets: list[int], nbytes: int) -> Any:
        return op, offsets, nbytes

    def start(self, request: Any) -> Any:
        op, offsets, nbytes = request
        blocks = {offset + at for offset in offsets for at in range(0, nbytes, 4096)}
        assert len(blocks) == len(offsets) * nbytes // 4096, "a request has one block twice"
        assert not blocks & self._under_way, "two requests under way share a block"
        self._under_way |= blocks
        if nbytes == 8192 and self._setup == "hangs":
            signal.pause()
        if nbytes == 8192 and self._setup == "refuses" and op == "read":
            raise OSError("reads are\nnot for sale")
        if self._setup != "lies":
            local, remote = self._bases
            to, of = (remote, local) if op == "write" else (local, remote)
            for offset in offsets:
                ctypes.memmove(to + offset, of + offset, nbytes)
        return blocks

    def wait(self, token: Any) -> None:
        self._under_way -= token

    def run(self, request: Any) -> None:
        self.wait(self.start(request))

    def free(self, request: Any) -> None: ...
