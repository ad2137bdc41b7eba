"""Segments: this node's, and those that peers expose to us."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tent_core.errors import InvalidArgument, error_for_code

if TYPE_CHECKING:
    from tent_core.engine import Engine

__all__ = ["RemoteSegment", "Segment", "memory_of"]


def memory_of(buffer: Any) -> tuple[int, int, bool, Any]:
    """Address, bytes, writable and the object that keeps the memory alive, of anything that exposes memory."""
    if isinstance(buffer, tuple) and len(buffer) == 2:
        address, nbytes = buffer
        return int(address), int(nbytes), True, None
    if hasattr(buffer, "data_ptr") and hasattr(buffer, "untyped_storage"):  # a torch tensor
        if not buffer.is_contiguous():
            raise InvalidArgument(
                "the tensor is not contiguous: register its storage, or call contiguous() first"
            )
        return int(buffer.data_ptr()), int(buffer.numel() * buffer.element_size()), True, buffer
    if hasattr(buffer, "__dlpack__") and not isinstance(buffer, np.ndarray):
        buffer = np.from_dlpack(buffer)
    try:
        view = memoryview(buffer)
    except TypeError as error:
        raise InvalidArgument(
            f"{type(buffer).__name__} exposes no memory: pass an array, a buffer, a tensor or (address, nbytes)"
        ) from error
    if not view.contiguous:
        raise InvalidArgument("the buffer is not contiguous: copy it, or register the array it is a view of")
    array = np.frombuffer(view, dtype=np.uint8)
    return int(array.ctypes.data), int(array.nbytes), not view.readonly, array


class Segment:
    """A byte range of this node: memory that the engine allocated, or that you registered. ``close()`` ends it."""

    def __init__(
        self,
        engine: Engine,
        fields: tuple[int, str, int, int, int, int],
        exposed: bool,
        keep: Any,
        writable: bool = True,
    ) -> None:
        self._engine = engine
        self.writable = writable  # by us; what peers may do is the access it was made with
        self.id, self.name, self.address, self.nbytes, self._epochs, self.extent = fields
        self.exposed = exposed
        self._keep = keep
        self._closed = False

    @property
    def view(self) -> npt.NDArray[np.uint8]:
        """The bytes, without a copy. Valid until ``close()``."""
        if self._closed:
            raise error_for_code("segment_gone", f"segment '{self.name}' was closed")
        pointer = (ctypes.c_uint8 * self.nbytes).from_address(self.address)
        return np.frombuffer(memoryview(pointer), dtype=np.uint8)

    def unregister(self, timeout: float = 10.0) -> None:
        """Revokes what peers were granted and returns when nothing touches the memory any more. Blocks up to
        ``timeout``; raises Busy when something still does: the memory must then stay, and you may call again."""
        if self._closed:
            return
        self._engine._native.unregister(self.id, timeout)
        self._closed = True
        self._keep = None
        self._engine._segments.pop(self.id, None)

    close = unregister

    def __repr__(self) -> str:
        return f"<Segment {self.name!r} {self.nbytes} bytes at {self.address:#x}>"


@dataclass(frozen=True)
class RemoteSegment:
    """A peer's segment, as it exposes it to us."""

    id: int
    name: str
    length: int
    extent: int
    rights: str
