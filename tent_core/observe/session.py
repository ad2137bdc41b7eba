"""How any node of the directory is observed: a small engine of our own, and a session to it like any other."""

from __future__ import annotations

import dataclasses
import secrets
from types import TracebackType

from tent_core.config import Config
from tent_core.engine import Engine, Peer
from tent_core.errors import InvalidArgument, TentError
from tent_metadata import open_directory

__all__ = ["Observer"]


class Observer:
    """Sessions to nodes by name. Use with ``with``. The directory and the cluster's secret come from ``config``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        # Nobody is to reach an observer: it listens on loopback, and keeps no recording of itself.
        quiet = dataclasses.replace(
            config,
            node=dataclasses.replace(config.node, name="", bind=("127.0.0.1",), advertise=(), port=0),
            recorder=dataclasses.replace(config.recorder, memory=0, dir="", signal=False),
        )
        self.engine = Engine(quiet, name=f"observer-{secrets.token_hex(4)}")
        self._peers: dict[bytes, Peer] = {}

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.engine.close()

    def descriptors(self) -> dict[str, bytes]:
        """The nodes that the directory knows, with their descriptors. Raises DirectoryUnavailable."""
        directory = open_directory(self._config.directory, cluster_id=self._config.cluster.id)
        try:
            return {name: blob for name, (_incarnation, blob) in sorted(directory.nodes().items())}
        finally:
            directory.close()

    def descriptor(self, name: str) -> bytes:
        """The node's descriptor. Raises InvalidArgument for a name that the directory does not know."""
        known = self.descriptors()
        if name not in known:
            there = ", ".join(known) or "none at all"
            raise InvalidArgument(
                f"the directory knows no node {name!r} (it knows {there}): check the name, cluster.id and directory.url"
            )
        return known[name]

    def connect(self, descriptor: bytes) -> Peer:
        """A session to that node; the one there is already, while it lives."""
        peer = self._peers.get(descriptor)
        if peer is None or not peer.alive:
            peer = self._peers[descriptor] = self.engine.connect(descriptor)
        return peer

    def reachable(self, descriptors: dict[str, bytes]) -> tuple[dict[str, Peer], dict[str, str]]:
        """Sessions to all of these that answer, and why the others do not."""
        peers: dict[str, Peer] = {}
        failed: dict[str, str] = {}
        for name, blob in descriptors.items():
            try:
                peers[name] = self.connect(blob)
            except TentError as error:
                failed[name] = str(error)
        return peers, failed
