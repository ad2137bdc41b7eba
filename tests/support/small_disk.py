"""A small disk: a tmpfs in a mount namespace of its own. It really gets full, and nothing is left of it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["SmallDisk"]

_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_BLOCK = 4096
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class SmallDisk:
    """`path` is the disk's root, for every process of this user. Skips the test where nothing may be mounted."""

    def __init__(self, nbytes: int) -> None:
        where = "/mnt"
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        mount = f"mount -t tmpfs -o size={nbytes} tent {where} && echo mounted && exec sleep infinity"
        if shutil.which("unshare") is None:
            pytest.skip("there is no unshare(1)")
        self._holder = subprocess.Popen(
            ["unshare", *user, "--mount", "sh", "-c", mount], stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "mounted\n":
            self.close()
            pytest.skip("this user may not mount a file system")
        self.path = Path(f"/proc/{self._holder.pid}/root{where}")

    @property
    def free(self) -> int:
        about = os.statvfs(self.path)
        return about.f_bavail * about.f_bsize

    def fill(self) -> None:
        """Not a block is left."""
        with (self.path / "ballast").open("ab") as file:
            while self.free:
                try:
                    file.write(bytes(min(self.free, 1 << 20)))
                    file.flush()
                except OSError:
                    break

    def empty(self) -> None:
        """What `fill` took is free again."""
        (self.path / "ballast").unlink(missing_ok=True)

    def take_blocks(self, path: Path, start: int, nbytes: int) -> None:
        """The file keeps its length and loses these blocks: they read as zeros, and writing there needs new ones."""
        with path.open("r+b") as file:
            first, end = start // _BLOCK * _BLOCK, (start + nbytes) // _BLOCK * _BLOCK
            if _libc.fallocate(file.fileno(), _PUNCH_HOLE | _KEEP_SIZE, first, end - first) != 0:
                raise OSError(ctypes.get_errno(), "punching a hole")

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
