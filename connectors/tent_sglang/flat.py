"""SGLang's copying calls (`get`, `set` and their batches): pages as flat tensors of the caller.

SGLang uses them only where it does not know the zero-copy interface. The tensors live for one call, which is not
worth a registration each, so the bytes go through a registered bounce buffer. Flat pages have namespaces of their
own: their bytes stand in another order than those of the zero-copy calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core.errors import Unsupported

from .mover import Mover, Op, encode

Bytes = npt.NDArray[np.uint8]


class FlatPages:
    """Reads and writes flat pages. Thread-safe: one read and one write at a time. Raises what the store raises."""

    def __init__(self, store: Any, mover: Mover, namespace_of: Callable[[int], Any]) -> None:
        """`namespace_of(bytes)`: the namespace of flat pages of this length."""
        self._mover = mover
        self._make_namespace = namespace_of
        self._bounce: dict[Op, _Bounce] = {"get": _Bounce(store), "set": _Bounce(store)}
        self._lock = threading.Lock()
        self._namespaces: dict[int, Any] = {}

    def get(self, keys: Sequence[str], targets: Sequence[Any]) -> list[Any]:
        """Per key its target tensor, filled, or None."""
        length = _page_length(keys, targets)
        bounce = self._bounce["get"]
        with bounce.lock:
            rows = bounce.rows(len(keys), length)
            done = self._mover.move(
                "get", self._namespace(length), encode(keys), _addresses(rows), np.uint64(length)
            )
            for row, target, ok in zip(rows, targets, done, strict=True):
                if ok:
                    _bytes(target)[:] = row
        return [target if ok else None for target, ok in zip(targets, done, strict=True)]

    def set(self, keys: Sequence[str], sources: Sequence[Any]) -> bool:
        """True when every page is stored."""
        length = _page_length(keys, sources)
        bounce = self._bounce["set"]
        with bounce.lock:
            rows = bounce.rows(len(keys), length)
            for row, source in zip(rows, sources, strict=True):
                row[:] = _bytes(source)
            done = self._mover.move(
                "set", self._namespace(length), encode(keys), _addresses(rows), np.uint64(length)
            )
        return all(done)

    def namespaces(self) -> list[Any]:
        """Of the flat pages seen so far."""
        with self._lock:
            return list(self._namespaces.values())

    def close(self) -> None:
        """Deregisters the bounce buffers and lets go of the store. Nothing may be called after it."""
        for bounce in self._bounce.values():
            with bounce.lock:
                bounce.close()
        self._bounce.clear()

    def _namespace(self, length: int) -> Any:
        with self._lock:
            if length not in self._namespaces:
                self._namespaces[length] = self._make_namespace(length)
            return self._namespaces[length]


class _Bounce:
    """A registered buffer that grows to the largest batch seen. Hold `lock` while its rows are in use."""

    def __init__(self, store: Any) -> None:
        self.lock = threading.Lock()
        self._store = store
        self._buffer: Bytes = np.empty(0, np.uint8)
        self._segment: Any = None

    def rows(self, count: int, length: int) -> Bytes:
        needed = count * length
        if needed > len(self._buffer):
            self.close()
            self._buffer = np.empty(needed, np.uint8)
            self._segment = self._store.register((self._buffer.ctypes.data, needed))
        return self._buffer[:needed].reshape(count, length)

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
        self._buffer = np.empty(0, np.uint8)


def _addresses(rows: Bytes) -> npt.NDArray[np.uint64]:
    first = np.uint64(rows.ctypes.data)
    return first + np.arange(rows.shape[0], dtype=np.uint64) * np.uint64(rows.strides[0])


def _bytes(tensor: Any) -> Bytes:
    """The bytes of a contiguous CPU tensor, as a flat view of the same memory."""
    if isinstance(tensor, np.ndarray):
        return tensor.reshape(-1).view(np.uint8)
    import torch

    flat: Bytes = tensor.view(-1).view(torch.uint8).numpy()
    return flat


def _page_length(keys: Sequence[str], tensors: Sequence[Any]) -> int:
    """The byte length that all the tensors have, one a key."""
    if len(tensors) != len(keys) or any(tensor is None for tensor in tensors):
        raise Unsupported(f"one CPU tensor a key is needed, got {len(tensors)} for {len(keys)} keys")
    lengths = {len(_bytes(tensor)) for tensor in tensors}
    if len(lengths) != 1 or 0 in lengths:
        raise Unsupported(f"pages of one length are needed, got {sorted(lengths)} bytes")
    return lengths.pop()
