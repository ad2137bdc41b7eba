"""Namespaces: everything that changes the bytes of a page, as one digest."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tent_core.errors import InvalidArgument

__all__ = ["Namespace", "Value"]

Value = str | int | bool | float | None
_PREFIX = b"tent namespace 1\0"
_MOST_FACTS = 16 << 10


@dataclass(frozen=True)
class Namespace:
    """Pages of one namespace never meet those of another. Equal fields give equal digests, in any process."""

    digest: bytes
    fields: Mapping[str, Value]

    @staticmethod
    def of(fields: Mapping[str, Value]) -> Namespace:
        """From names and plain values. Raises InvalidArgument for an empty mapping or a value of another type."""
        if not fields:
            raise InvalidArgument("a namespace needs at least one field, e.g. {'model': ...}")
        digest = hashlib.blake2b(_PREFIX, digest_size=16)
        for name in sorted(fields):
            for part in (name.encode(), _encoded(name, fields[name])):
                digest.update(struct.pack("<I", len(part)) + part)
        return Namespace(digest.digest(), MappingProxyType(dict(fields)))

    def facts(self, model: str = "") -> bytes:
        """The fields as JSON, for the directory's note of what a digest stands for. Empty where no model is named."""
        facts = {**({"model": model} if model else {}), **self.fields}
        text = json.dumps(facts, sort_keys=True).encode()
        return text if "model" in facts and len(text) <= _MOST_FACTS else b""

    def __hash__(self) -> int:
        return hash(self.digest)


def _encoded(name: str, value: Value) -> bytes:
    # The type is part of it: 1, True and "1" are three values.
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"b1" if value else b"b0"
    if isinstance(value, int):
        return b"i%d" % value
    if isinstance(value, float):
        return b"f" + value.hex().encode()
    if isinstance(value, str):
        return b"s" + value.encode()
    raise InvalidArgument(
        f"namespace field {name!r} is a {type(value).__name__}: use str, int, float, bool or None"
    )
