"""What a Redis server may answer instead of data, sorted into the few kinds that TENT tells apart.

Loading, read-only, out of memory, a moved slot or a lost script are states that a directory passes through; they are
expected here, named once, and never more than a refusal of one operation.
"""

from __future__ import annotations

import re

__all__ = ["BROKEN_KINDS", "Garbage", "Refusal", "Unreachable"]

# The first word of an error reply -> kind.
_KINDS = {
    "WRONGPASS": "auth",
    "NOAUTH": "auth",
    "NOPERM": "denied",
    "LOADING": "loading",
    "BUSY": "busy",
    "MASTERDOWN": "down",
    "CLUSTERDOWN": "down",
    "READONLY": "read_only",
    "NOREPLICAS": "read_only",
    "MISCONF": "read_only",
    "OOM": "no_room",
    "MOVED": "moved",
    "ASK": "ask",
    "TRYAGAIN": "try_again",
    "CROSSSLOT": "cross_slot",
    "NOSCRIPT": "no_script",
    "WRONGTYPE": "wrong_type",
}
# Kinds that speak of the server as a whole: no operation can succeed now, so its breaker opens.
BROKEN_KINDS = frozenset({"auth", "loading", "busy", "down"})
# What a script's own error wraps: "ERR Error running script (...): -OOM command not allowed ..."
_WRAPPED = re.compile(r"[\s-](OOM|READONLY|NOPERM|WRONGTYPE|LOADING|MASTERDOWN|NOREPLICAS|MISCONF)\b")
_FIX = {
    "auth": "check the user and password in directory.url",
    "denied": "give this Redis user the commands and keys listed in docs/directory.md",
    "loading": "it is reading its data set; it comes back by itself",
    "busy": "another client's script blocks it",
    "down": "its cluster or master is down",
    "read_only": "it is a read-only replica, or may not write to its disk",
    "no_room": "it is out of memory (maxmemory with noeviction)",
}


class Refusal(Exception):
    """An error reply. ``kind`` is one of the words above, or ``other``."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text[:300]
        self.kind = _kind(self.text)

    def explain(self) -> str:
        fix = _FIX.get(self.kind)
        return f"{self.text} ({fix})" if fix else self.text


class Garbage(Exception):
    """Bytes that no Redis sends, or more of them than any answer of ours can have."""


class Unreachable(Exception):
    """No answer from one server: refused, closed, timed out, or not tried because its breaker is open."""

    def __init__(self, text: str, kind: str = "unreachable") -> None:
        super().__init__(text)
        self.kind = kind


def _kind(text: str) -> str:
    word = text.split(" ", 1)[0]
    if word == "ERR":
        if (
            "invalid password" in text
            or "without any password" in text
            or "invalid username-password" in text
        ):
            return "auth"
        wrapped = _WRAPPED.search(text)
        return _KINDS[wrapped.group(1)] if wrapped else "other"
    return _KINDS.get(word, "other")
