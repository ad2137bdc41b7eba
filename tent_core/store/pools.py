"""What each node gives to the pool: a record beside the node's own in the directory."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any

from tent_metadata import Directory

__all__ = ["Pool", "Pools"]

_SEGMENT = "pages"  # under which the record stands
_VERSION = 1
_MOST_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Pool:
    """One node's part of the pool. Bytes."""

    node: str
    incarnation: bytes
    host: str  # nodes of one host have the same
    capacity: int
    extent: int
    daemon: bool  # a `tent node`: outlives serving processes
    leaving: bool = False  # takes nothing new

    def encode(self) -> bytes:
        facts = {"host": self.host, "capacity": self.capacity, "extent": self.extent}
        flags = {"daemon": self.daemon, "leaving": self.leaving}
        return json.dumps({"version": _VERSION, **facts, **flags}, separators=(",", ":")).encode()

    @staticmethod
    def decode(node: str, incarnation: bytes, record: bytes) -> Pool | None:
        """None: not a record of ours, or of a version that we do not know. It is hostile until checked."""
        if len(record) > _MOST_BYTES:
            return None
        try:
            facts: Any = json.loads(record)
        except (ValueError, RecursionError):
            return None
        if type(facts) is not dict or facts.get("version") != _VERSION:
            return None
        kinds = {"host": str, "capacity": int, "extent": int, "daemon": bool, "leaving": bool}
        if any(type(facts.get(name)) is not kind for name, kind in kinds.items()):
            return None
        if not (0 < facts["extent"] <= facts["capacity"] < 1 << 62):
            return None
        return Pool(node, incarnation, **{name: facts[name] for name in kinds})


class Pools:
    """The pools of all nodes as the directory told them last. Any thread; ``refresh`` by one at a time."""

    def __init__(self, directory: Directory, node: str, host: str) -> None:
        self._directory = directory
        self._node = node
        self.host = host
        self._refreshing = threading.Lock()
        self.known: dict[str, Pool] = {}
        self.nodes: dict[str, bytes] = {}  # every live node and its incarnation, those without a pool, too
        self.lost = threading.Event()  # a pool that was known is gone: copies may be missing

    def refresh(self) -> None:
        """Asks the directory: three round trips. Raises DirectoryUnavailable."""
        with self._refreshing:
            nodes = {name: incarnation for name, (incarnation, _blob) in self._directory.nodes().items()}
            known: dict[str, Pool] = {}
            for name, (incarnation, records) in self._directory.segments_of(list(nodes)).items():
                pool = Pool.decode(name, incarnation, records.get(_SEGMENT, b""))
                if pool is not None and nodes[name] == incarnation:
                    known[name] = pool
            if any(nodes.get(name) != pool.incarnation for name, pool in self.known.items()):
                self.lost.set()
            self.known, self.nodes = known, nodes

    def announce(self, pool: Pool) -> None:
        """Enters this node's own. Raises DirectoryUnavailable, or SegmentGone without a node record."""
        self._directory.put_segment(pool.node, pool.incarnation, _SEGMENT, pool.encode())

    @property
    def home(self) -> str | None:
        """The `tent node` of this host that takes pages, if there is one other than this node."""
        here = [
            name
            for name, pool in self.known.items()
            if pool.daemon and not pool.leaving and pool.host == self.host and name != self._node
        ]
        return min(here, default=None)

    def others(self) -> list[Pool]:
        """Pools that take pages, of other nodes; those of `tent node`s alone where there are any."""
        found = [pool for name, pool in self.known.items() if not pool.leaving and name != self._node]
        return [pool for pool in found if pool.daemon] or found
