"""Maps the pool's memory in the background: a first touch is many times slower than a warm copy."""

from __future__ import annotations

import ctypes
import threading

__all__ = ["Prefault"]

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14: maps pages writable and changes no byte
_PIECE = 8 << 20


class Prefault:
    """One thread, which ends by itself. ``close`` before the memory goes."""

    def __init__(self, address: int, nbytes: int) -> None:
        self._address = address
        self._nbytes = nbytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tent-prefault", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        libc = ctypes.CDLL(None)
        for at in range(0, self._nbytes, _PIECE):
            length = min(_PIECE, self._nbytes - at)
            where = ctypes.c_void_p(self._address + at)
            # An older kernel does not know it: pages are then touched by their first use.
            if self._stop.is_set() or libc.madvise(where, ctypes.c_size_t(length), _POPULATE_WRITE) != 0:
                return
