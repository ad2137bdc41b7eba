"""The directory: hints about nodes, segments and cached pages, on Redis. `open_directory` makes one."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tent_core.errors import AuthFailed, ConfigError, PermissionDenied
from tent_metadata import resp
from tent_metadata.cluster import ClusterRouter
from tent_metadata.core import Core, is_fault
from tent_metadata.counters import Counters
from tent_metadata.embedded.member import Membership, join
from tent_metadata.faults import Refusal, Unreachable
from tent_metadata.keys import BUCKETS, DIGEST_BYTES, KeySpace
from tent_metadata.lives import Lives
from tent_metadata.nodes import Nodes
from tent_metadata.pages import Pages
from tent_metadata.resolve import Resolver
from tent_metadata.router import Router, SentinelRouter, StandaloneRouter
from tent_metadata.server import ServerSettings
from tent_metadata.spaces import Spaces
from tent_metadata.url import Address, Endpoint, parse_url

__all__ = ["Directory", "DirectorySettings", "open_directory"]

log = logging.getLogger("tent.directory")
_OPEN_S = 1.0  # the least patience of the first greeting: TLS and a name look-up may be in it
_LIVE: weakref.WeakSet[Directory] = weakref.WeakSet()


class DirectorySettings(Protocol):
    """What `open_directory` reads of a configuration (``tent_core.config.DirectoryConfig`` has it)."""

    @property
    def url(self) -> str: ...
    @property
    def timeout_ms(self) -> int: ...
    @property
    def node_ttl_ms(self) -> int: ...
    @property
    def embedded_dir(self) -> str: ...


def open_directory(config: DirectorySettings, *, cluster_id: str, metrics: Any = None) -> Directory:
    """Opens the directory that ``config.url`` names; an empty URL starts or joins the embedded one of this host.

    Returns even while Redis is down (operations then raise DirectoryUnavailable until it is back). Raises ConfigError
    for a URL that cannot be right or a host without any Redis server to embed, AuthFailed for a wrong password,
    PermissionDenied for a user without the commands or keys, DirectoryUnavailable when the embedded server does not
    start. ``metrics``: a registry with ``counter(name, **labels)``, or None.
    """
    if config.timeout_ms <= 0 or config.node_ttl_ms <= 0:
        raise ConfigError("directory.timeout_ms and directory.node_ttl_ms must be positive")
    address = parse_url(config.url) if config.url else None
    membership: Membership | None = None
    if address is None or address.kind == "embedded":
        membership = join(config.embedded_dir if address is None else address.endpoints[0].path)
    try:
        return Directory(config, address, membership, cluster_id, Counters(metrics))
    except BaseException:
        if membership is not None:
            membership.leave()
        raise


class Directory:
    """One cluster's directory. Thread-safe; after a fork the child's copy raises Forked and must open its own.

    Every operation ends within ``directory.timeout_ms``, or within microseconds while a server is known to be down,
    and raises, apart from the caller's own mistakes (InvalidArgument, Closed, Forked), nothing but
    DirectoryUnavailable. Digests and incarnations are 16 bytes; records are opaque, at most 4,096 bytes.
    """

    def __init__(
        self,
        config: DirectorySettings,
        address: Address | None,
        membership: Membership | None,
        cluster_id: str,
        counters: Counters,
    ) -> None:
        self._membership = membership
        if membership is not None:
            address = Address("standalone", (Endpoint(path=membership.socket_path),), membership.url,
                              password=membership.secret())  # fmt: skip
        assert address is not None
        self.url = membership.url if membership is not None else config.url
        self.shown_url = address.shown
        self._lives = Lives()
        router = _router(address, counters, membership, self._lives)
        self._core = Core(router, KeySpace(cluster_id), config.timeout_ms, address.shown, counters)
        self._pages = Pages(self._core)
        self._nodes = Nodes(self._core, config.node_ttl_ms)
        self._spaces = Spaces(self._core)
        try:
            self._greet(max(_OPEN_S, config.timeout_ms / 1000))
        except BaseException:
            router.close()
            raise
        _LIVE.add(self)

    # ---- pages

    def lookup(
        self, namespace: bytes, digests: Sequence[bytes] | npt.NDArray[np.uint8]
    ) -> tuple[list[bytes | None], int]:
        """The records of many pages, in order, None where there is none, and the namespace's generation.

        ``digests``: bytes objects, or one array of uint8, shape [N, 16]. One round trip to each shard, all at once. A
        record published under an older generation was cleared: the caller compares. Pages of a shard that is down are
        None; DirectoryUnavailable when no shard answered. What is no record at all (wrong type, longer than any) is
        None and counted.
        """
        return self._pages.lookup(namespace, digests)

    def publish(
        self, namespace: bytes, items: Sequence[tuple[bytes, bytes]], generation: int
    ) -> list[bool | bytes]:
        """Enters ``(digest, record)`` pairs; the first publisher of a page wins.

        Per item True: stored (or this very record was there already), bytes: the record of an earlier publisher,
        False: not stored, because the namespace was cleared after ``generation``, or its shard is down, read-only or
        full. DirectoryUnavailable when nothing could be stored for the latter reasons.
        """
        return self._pages.publish(namespace, items, generation)

    def replace(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
        """Compare and set: ``(digest, old record, new record)``. True where the record is the new one now."""
        return self._pages.replace(items)

    def unpublish(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        """Compare and delete: ``(digest, record)``. How many were deleted. Raises if any shard did not answer."""
        return self._pages.unpublish(items)

    def generation(self, namespace: bytes) -> int:
        """How often the namespace was cleared, as far as this process or Redis knows: the larger counts."""
        return self._pages.generation(namespace)

    def clear(self, namespace: bytes) -> int:
        """Raises the namespace's generation in every bucket, and returns it: every look-up from then on sees it.

        If it raises, some shards may have the new generation: who sees it takes it over. `clear` may be repeated.
        """
        return self._pages.clear(namespace)

    def keep_generation(self, namespace: bytes, generation: int) -> None:
        """A directory that was emptied, or restored from an old snapshot, learns again how often it was cleared."""
        self._pages.keep_generation(namespace, generation)

    # ---- nodes and their segments

    def put_node(self, name: str, incarnation: bytes, blob: bytes, ttl_ms: int | None = None) -> None:
        """Enters this node, or renews its record (which expires ``ttl_ms`` later by the server's clock).

        Raises NameInUse while another live incarnation holds the name. Default TTL: ``directory.node_ttl_ms``.
        """
        self._nodes.put_node(name, incarnation, blob, ttl_ms)

    def get_node(self, name: str) -> tuple[bytes, bytes] | None:
        """``(incarnation, descriptor)`` of a live node, or None."""
        return self._nodes.get_node(name)

    def nodes(self) -> dict[str, tuple[bytes, bytes]]:
        """Every live node: name -> ``(incarnation, descriptor)``."""
        return self._nodes.nodes()

    def remove_node(self, name: str, incarnation: bytes) -> bool:
        """Removes the node and its segments if this incarnation still holds the name. Whether it did."""
        return self._nodes.remove_node(name, incarnation)

    def put_segment(self, node: str, incarnation: bytes, name: str, blob: bytes) -> None:
        """Enters one segment of a node; it lives and is renewed with the node's record. SegmentGone without that."""
        self._nodes.put_segment(node, incarnation, name, blob)

    def remove_segment(self, node: str, incarnation: bytes, name: str) -> None:
        """Removes one segment's record. Nothing happens if it is gone."""
        self._nodes.remove_segment(node, incarnation, name)

    def segments(self, node: str) -> tuple[bytes, dict[str, bytes]] | None:
        """``(incarnation, {segment: record})`` of a node with segments, or None."""
        return self._nodes.segments(node)

    def segments_of(self, nodes: Sequence[str]) -> dict[str, tuple[bytes, dict[str, bytes]]]:
        """`segments` of many nodes, in one round trip; nodes without any are left out."""
        return self._nodes.segments_of(nodes)

    # ---- what namespaces mean

    def put_space(self, digest: bytes, facts: bytes) -> None:
        """Notes what a namespace's digest stands for. For people; nothing else reads it."""
        self._spaces.put_space(digest, facts)

    def spaces(self) -> dict[bytes, bytes]:
        """Every namespace that was noted: digest -> facts."""
        return self._spaces.spaces()

    # ---- the directory itself

    def ping(self) -> float:
        """Asks every shard for a sign of life; seconds it took. Raises AuthFailed or DirectoryUnavailable."""
        started = time.monotonic()
        self._sign_of_life(self._core.enter("ping"))
        return time.monotonic() - started

    @property
    def lives(self) -> int | None:
        """How many server processes have answered so far. The same as before: none of them has lost its memory since,
        by a restart or a failover. None: they do not say who they are (a user without the right to ``INFO``)."""
        return self._lives.seen

    def counters(self) -> dict[str, int]:
        """What happened so far, ``"<what>:<kind>" -> count``: calls, failures, garbage, topology changes."""
        return self._core.counters.read()

    def close(self) -> None:
        """Closes all connections; the embedded server goes with its last user. Idempotent."""
        self._core.close()
        if self._membership is not None:
            self._membership.leave()
            self._membership = None

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Directory {self.shown_url}>"

    def _greet(self, patience_s: float) -> None:
        """The first contact: mistakes of the configuration are errors now, a Redis that is down is not."""
        try:
            self._sign_of_life(time.monotonic() + patience_s)
        except ConnectionError as error:  # DirectoryUnavailable
            log.warning("%s", str(error))  # the error itself would keep its frames alive with the record

    def _sign_of_life(self, deadline: float) -> None:
        core = self._core
        namespace = bytes(
            DIGEST_BYTES
        )  # reads like a look-up, so a user without the right to them is told now
        buckets = range(BUCKETS) if core.router.spread else range(1)
        commands = [(b, resp.command(b"MGET", core.keys.generation(b, namespace))) for b in buckets]
        for reply in core.router.call(commands, deadline, 1 << 20):
            if not is_fault(reply):
                continue
            if reply.kind == "auth":
                raise AuthFailed(f"directory.url = {self.shown_url!r}: {_text(reply)}")
            if reply.kind == "denied":
                raise PermissionDenied(f"directory.url = {self.shown_url!r}: {_text(reply)}")
            raise core.unavailable(reply, "be reached")


def _text(fault: Refusal | Unreachable) -> str:
    return fault.explain() if isinstance(fault, Refusal) else str(fault)


def _router(address: Address, counters: Counters, membership: Membership | None, lives: Lives) -> Router:
    settings = ServerSettings(address.username, address.password, address.db, address.tls, lives)
    resolver = Resolver()
    if address.kind == "cluster":
        return ClusterRouter(address, settings, resolver=resolver, counters=counters)
    if address.kind == "sentinel":
        return SentinelRouter(address, settings, resolver=resolver, counters=counters)
    revive = None if membership is None else membership.revive
    return StandaloneRouter(
        address.endpoints[0], settings, resolver=resolver, counters=counters, on_lost=revive
    )


def _after_fork_in_child() -> None:
    for directory in list(_LIVE):
        directory._core.abandon()


os.register_at_fork(after_in_child=_after_fork_in_child)
