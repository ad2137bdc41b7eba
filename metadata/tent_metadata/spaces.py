"""What namespaces mean: their facts by digest, for people who look at the pool. Nothing depends on them."""

from __future__ import annotations

from tent_core.errors import InvalidArgument
from tent_metadata import resp
from tent_metadata.core import Core, is_fault
from tent_metadata.keys import DIGEST_BYTES, NODE_BUCKET

__all__ = ["Spaces"]

_MAX_FACTS = 16 << 10
_LIMIT = 64 << 20


class Spaces:
    """Part of `Directory`, which documents the methods."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def put_space(self, digest: bytes, facts: bytes) -> None:
        core = self._core
        deadline = core.enter("put_space")
        if len(digest) != DIGEST_BYTES or not 0 < len(facts) <= _MAX_FACTS:
            raise InvalidArgument(
                f"a namespace has a digest of {DIGEST_BYTES} bytes and 1 to {_MAX_FACTS} bytes of facts"
            )
        command = resp.command(b"HSET", core.keys.spaces, digest, facts)
        core.only(core.router.call([(NODE_BUCKET, command)], deadline, 1 << 20), "take a namespace")

    def spaces(self) -> dict[bytes, bytes]:
        core = self._core
        deadline = core.enter("spaces")
        command = resp.command(b"HGETALL", core.keys.spaces)
        replies = core.router.call([(NODE_BUCKET, command)], deadline, _LIMIT)
        if is_fault(replies[0]) and replies[0].kind == "wrong_type":
            core.counters.count("garbage", "spaces")
            return {}
        reply = core.only(replies, "tell namespaces")
        if type(reply) is not list or len(reply) % 2 or any(type(part) is not bytes for part in reply):
            core.nonsense(reply, "tell namespaces")
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return {
            digest: facts
            for digest, facts in pairs
            if len(digest) == DIGEST_BYTES and len(facts) <= _MAX_FACTS
        }
