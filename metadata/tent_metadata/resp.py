"""Redis's wire format: commands packed in one piece, replies parsed by hiredis where it is installed.

`Parser` is what stands in for hiredis otherwise; both take bytes from a hostile peer. Replies are ``bytes``, ``int``,
``None``, ``list`` or `Refusal` (an error reply); bytes that are no reply raise `Garbage`.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from tent_metadata.faults import Garbage, Refusal

try:
    import hiredis
except ImportError:  # optional: extra "fast"
    hiredis = None  # type: ignore[assignment]

__all__ = ["HEADER_BYTES", "NOT_YET", "Parser", "Reader", "bulk", "command", "make_reader", "may_be_huge"]

NOT_YET: Any = object()
# hiredis makes a list as long as a header says before it has seen one element: a header of 2**31 would hold the
# interpreter up for half a minute. No answer of ours is that long; what may be such a header goes to `Parser`.
_HUGE = re.compile(rb"\r\n[*>~][+-]?\d{6}")
HEADER_BYTES = 11  # a header cut in two by a read is found by looking at so many bytes of the piece before
_MAX_ITEMS = 100_000
_MAX_DEPTH = 4
_MAX_LINE = 65536


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def command(*words: bytes) -> bytes:
    """One command, packed."""
    return b"*%d\r\n%b" % (len(words), b"".join([bulk(word) for word in words]))


class Reader(Protocol):
    """Bytes in, replies out. One per connection; not thread-safe."""

    def feed(self, data: bytes, /) -> None: ...

    def gets(self) -> Any:
        """The next reply, or `NOT_YET`."""

    def has_data(self) -> bool:
        """Whether bytes are left."""


def make_reader() -> Reader:
    if hiredis is not None:
        reader: Reader = hiredis.Reader(protocolError=Garbage, replyError=Refusal, notEnoughData=NOT_YET)
        return reader
    return Parser()


def may_be_huge(data: bytes) -> bool:
    """Whether these bytes, with the line end before them, could hold a header that hiredis must not be shown."""
    return _HUGE.search(data) is not None


class Parser:
    """RESP2 in Python. An incomplete reply is parsed again from its start when more bytes are there."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._need = 0
        self._items = 0

    def feed(self, data: bytes, /) -> None:
        self._data += data

    def gets(self) -> Any:
        if len(self._data) < self._need:
            return NOT_YET
        self._items = 0
        reply, end = self._parse(0, 0)
        if reply is NOT_YET:
            return NOT_YET
        del self._data[:end]
        self._need = 0
        return reply

    def has_data(self) -> bool:
        return bool(self._data)

    def _parse(self, at: int, depth: int) -> tuple[Any, int]:
        self._items += 1
        if self._items > _MAX_ITEMS:
            raise Garbage(f"more than {_MAX_ITEMS} values in one reply")
        line_end = self._data.find(b"\r\n", at)
        if line_end < 0:
            if len(self._data) - at > _MAX_LINE:
                raise Garbage("a line without an end")
            return NOT_YET, at
        mark, line, end = self._data[at : at + 1], bytes(self._data[at + 1 : line_end]), line_end + 2
        if mark == b"$":
            return self._bulk(_number(line), end)
        if mark == b"*":
            return self._array(_number(line), end, depth)
        if mark == b":":
            return _number(line), end
        if mark == b"+":
            return line, end
        if mark == b"-":
            return Refusal(line.decode("utf-8", "replace")), end
        raise Garbage(f"a reply cannot begin with {bytes(mark)!r}")

    def _bulk(self, length: int, at: int) -> tuple[Any, int]:
        if length < 0:
            return None, at
        end = at + length
        if len(self._data) < end + 2:
            self._need = max(self._need, end + 2)
            return NOT_YET, at
        if self._data[end : end + 2] != b"\r\n":
            raise Garbage("a value that does not end where it says")
        return bytes(self._data[at:end]), end + 2

    def _array(self, length: int, at: int, depth: int) -> tuple[Any, int]:
        if length < 0:
            return None, at
        if depth >= _MAX_DEPTH:
            raise Garbage("a reply nested too deeply")
        items = []
        for _ in range(length):
            item, at = self._parse(at, depth + 1)
            if item is NOT_YET:
                return NOT_YET, at
            items.append(item)
        return items, at


def _number(line: bytes) -> int:
    if not line.lstrip(b"-").isdigit() or len(line) > 20:
        raise Garbage(f"not a length: {line[:20]!r}")
    return int(line)
