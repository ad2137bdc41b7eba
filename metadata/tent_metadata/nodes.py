"""Node and segment records: who is there, under which incarnation, and how to reach it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tent_core.errors import InvalidArgument, NameInUse, SegmentGone
from tent_metadata import resp, scripts
from tent_metadata.core import Core, is_fault
from tent_metadata.keys import NODE_BUCKET

__all__ = ["Nodes"]

INCARNATION_BYTES = 16
_MAX_BLOB = 1 << 20
_MAX_NODES = 65536
_LIMIT = 64 << 20
_NAME = re.compile(r"[^\x00-\x20\x7f]{1,255}")


class Nodes:
    """Part of `Directory`, which documents the methods."""

    def __init__(self, core: Core, ttl_ms: int) -> None:
        self._core = core
        self._ttl_ms = ttl_ms

    def put_node(self, name: str, incarnation: bytes, blob: bytes, ttl_ms: int | None) -> None:
        core = self._core
        deadline = core.enter("put_node")
        node = _checked_name(name, "node")
        _check_incarnation(incarnation)
        _check_blob(blob)
        ttl = self._ttl_ms if ttl_ms is None else ttl_ms
        if ttl <= 0:
            raise InvalidArgument(f"a node record's time to live must be positive, not {ttl} ms")
        keys = [core.keys.node(node), core.keys.segments(node), core.keys.node_index]
        left = self._run(
            scripts.PUT_NODE, keys, [incarnation, blob, b"%d" % ttl, node], deadline, "take nodes"
        )
        if left != -1:
            raise NameInUse(
                f"the node name {name!r} is held by another live process; choose another node.name, or wait: "
                f"its record expires {left} ms after the last sign of life"
            )

    def get_node(self, name: str) -> tuple[bytes, bytes] | None:
        core = self._core
        deadline = core.enter("get_node")
        key = core.keys.node(_checked_name(name, "node"))
        reply = core.only(
            core.router.call([(NODE_BUCKET, resp.command(b"MGET", key))], deadline, _LIMIT), "tell nodes"
        )
        if type(reply) is not list or len(reply) != 1:
            core.nonsense(reply, "tell nodes")
        return self._split(reply[0])

    def nodes(self) -> dict[str, tuple[bytes, bytes]]:
        core = self._core
        deadline = core.enter("nodes")
        command = resp.command(b"SMEMBERS", core.keys.node_index)
        replies = core.router.call([(NODE_BUCKET, command)], deadline, _LIMIT)
        if is_fault(replies[0]) and replies[0].kind == "wrong_type":
            core.counters.count("garbage", "node_index")
            return {}
        names = self._listed(core.only(replies, "list nodes"))
        if not names:
            return {}
        command = resp.command(b"MGET", *(core.keys.node(name) for name in names))
        records = core.only(core.router.call([(NODE_BUCKET, command)], deadline, _LIMIT), "list nodes")
        if type(records) is not list or len(records) != len(names):
            core.nonsense(records, "list nodes")
        found = {}
        for name, record in zip(names, records, strict=True):
            split = self._split(record)
            if split is not None:
                found[name.decode()] = split
        self._prune([name for name, record in zip(names, records, strict=True) if record is None], deadline)
        return found

    def remove_node(self, name: str, incarnation: bytes) -> bool:
        core = self._core
        deadline = core.enter("remove_node")
        node = _checked_name(name, "node")
        _check_incarnation(incarnation)
        keys = [core.keys.node(node), core.keys.segments(node), core.keys.node_index]
        removed: int = self._run(scripts.REMOVE_NODE, keys, [incarnation, node], deadline, "remove nodes")
        return removed == 1

    def put_segment(self, node: str, incarnation: bytes, name: str, blob: bytes) -> None:
        _check_blob(blob)
        if not blob:
            raise InvalidArgument("a segment's record must not be empty")
        self._change_segment(node, incarnation, name, blob, "put_segment")

    def remove_segment(self, node: str, incarnation: bytes, name: str) -> None:
        self._change_segment(node, incarnation, name, b"", "remove_segment")

    def _change_segment(self, node: str, incarnation: bytes, name: str, blob: bytes, operation: str) -> None:
        core = self._core
        deadline = core.enter(operation)
        key = _checked_name(node, "node")
        _check_incarnation(incarnation)
        keys = [core.keys.node(key), core.keys.segments(key)]
        arguments = [incarnation, _checked_name(name, "segment"), blob]
        if self._run(scripts.PUT_SEGMENT, keys, arguments, deadline, "take segments") != 1 and blob:
            raise SegmentGone(
                f"segment {name!r}: the directory has no record of node {node!r} in this incarnation"
            )

    def segments(self, node: str) -> tuple[bytes, dict[str, bytes]] | None:
        return self.segments_of([node]).get(node)

    def segments_of(self, nodes: Sequence[str]) -> dict[str, tuple[bytes, dict[str, bytes]]]:
        core = self._core
        deadline = core.enter("segments")
        keys = [core.keys.segments(_checked_name(node, "node")) for node in nodes]
        commands = [(NODE_BUCKET, resp.command(b"HGETALL", key)) for key in keys]
        found: dict[str, tuple[bytes, dict[str, bytes]]] = {}
        if not commands:
            return found
        for node, reply in zip(nodes, core.router.call(commands, deadline, _LIMIT), strict=True):
            if is_fault(reply) and reply.kind == "wrong_type":
                core.counters.count("garbage", "segments")
                continue
            segments = self._segments_in(core.only([reply], "tell segments"))
            if segments is not None:
                found[node] = segments
        return found

    def _segments_in(self, reply: Any) -> tuple[bytes, dict[str, bytes]] | None:
        if type(reply) is not list or len(reply) % 2 or any(type(part) is not bytes for part in reply):
            self._core.nonsense(reply, "tell segments")
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        incarnation = fields.pop(b"", b"")
        if len(incarnation) != INCARNATION_BYTES:
            return None
        return incarnation, {name.decode(): blob for name, blob in fields.items() if _is_name(name)}

    def _run(
        self, script: scripts.Script, keys: list[bytes], arguments: list[bytes], deadline: float, what: str
    ) -> Any:
        core = self._core
        words = b"".join([resp.bulk(word) for word in (*keys, *arguments)])
        calls = [(NODE_BUCKET, len(keys), len(arguments), words)]
        reply = core.only(scripts.run(core.router, script, calls, deadline, 1 << 20), what)
        if type(reply) is not int:
            core.nonsense(reply, what)
        return reply

    def _prune(self, names: list[bytes], deadline: float) -> None:
        """Forgets names whose record expired; whoever lists nodes sweeps. A fault leaves it to the next."""
        core = self._core
        calls = []
        for name in names[:256]:
            words = (core.keys.node(name), core.keys.node_index, name)
            calls.append((NODE_BUCKET, 2, 1, b"".join([resp.bulk(word) for word in words])))
        if calls:
            scripts.run(core.router, scripts.PRUNE_NODE, calls, deadline, 1 << 20)

    def _listed(self, reply: Any) -> list[bytes]:
        if type(reply) is not list or len(reply) > _MAX_NODES:
            self._core.nonsense(reply, "list nodes")
        return [name for name in reply if type(name) is bytes and _is_name(name)]

    def _split(self, record: Any) -> tuple[bytes, bytes] | None:
        if record is None:
            return None
        if type(record) is not bytes or not INCARNATION_BYTES <= len(record) <= INCARNATION_BYTES + _MAX_BLOB:
            self._core.counters.count("garbage", "node")
            return None
        return record[:INCARNATION_BYTES], record[INCARNATION_BYTES:]


def _is_name(name: bytes) -> bool:
    try:
        return len(name) <= 255 and _NAME.fullmatch(name.decode()) is not None
    except UnicodeDecodeError:
        return False


def _checked_name(name: str, what: str) -> bytes:
    raw = name.encode("utf-8", "replace")
    if _NAME.fullmatch(name) is None or len(raw) > 255:
        raise InvalidArgument(f"a {what}'s name has 1 to 255 bytes and no blanks: {name!r:.80}")
    return raw


def _check_incarnation(incarnation: bytes) -> None:
    if len(incarnation) != INCARNATION_BYTES:
        raise InvalidArgument(f"an incarnation has {INCARNATION_BYTES} bytes, not {len(incarnation)}")


def _check_blob(blob: bytes) -> None:
    if len(blob) > _MAX_BLOB:
        raise InvalidArgument(f"a descriptor of {len(blob)} bytes; at most {_MAX_BLOB}")
