"""Redis Cluster: which server has each of our 257 buckets, learnt from the cluster and from its redirections."""

from __future__ import annotations

import binascii
import dataclasses
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

from tent_metadata import resp
from tent_metadata.counters import Counters
from tent_metadata.faults import Refusal, Unreachable
from tent_metadata.keys import NODE_BUCKET, tag_of
from tent_metadata.resolve import Resolver
from tent_metadata.router import ask_any
from tent_metadata.server import Call, Server, ServerSettings, finish_all
from tent_metadata.url import Address, Endpoint

__all__ = ["ClusterRouter", "slot_of_bucket"]

_SLOTS = 16384
_MOST_SERVERS = 1024
_REFRESH_S = 0.1
_ROUNDS = 3  # first try, and two redirections (a slot that moves twice at once is left to the next call)
_ASKING = resp.command(b"ASKING")


def slot_of_bucket(bucket: int) -> int:
    """Redis's slot of every key of a bucket: CRC-16/XMODEM of its hash tag."""
    return binascii.crc_hqx(tag_of(bucket), 0) % _SLOTS


_BUCKET_SLOTS = [slot_of_bucket(bucket) for bucket in range(NODE_BUCKET + 1)]


@dataclasses.dataclass
class _Errand:
    """One command on its way."""

    index: int
    bucket: int
    command: bytes
    server: Server | None = None  # where a redirection sends it
    asking: bool = False


class ClusterRouter:
    """Sends each command to its bucket's master, all masters at once, and follows MOVED and ASK."""

    spread = True

    def __init__(
        self, address: Address, settings: ServerSettings, *, resolver: Resolver, counters: Counters
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._counters = counters
        self._lock = threading.Lock()  # of _servers
        self._refreshing = threading.Lock()
        self._servers: dict[Endpoint, Server] = {}
        self._table: list[Server | None] | None = None
        self._seeds: list[Server] = []
        self._seeds = [self._server(endpoint) for endpoint in address.endpoints]
        self._doubted = True
        self._next_refresh = 0.0
        self._why = Unreachable("no node of the cluster has been asked yet")

    def call(self, commands: Sequence[tuple[int, bytes]], deadline: float, limit: int) -> list[Any]:
        if self._doubted:
            self._refresh(deadline)
        table = self._table
        if table is None:
            return [self._why] * len(commands)
        results: list[Any] = [None] * len(commands)
        errands = [_Errand(i, bucket, command) for i, (bucket, command) in enumerate(commands)]
        for _ in range(_ROUNDS):
            self._run(errands, table, results, deadline, limit)
            errands = [errand for errand in errands if self._redirected(errand, results[errand.index])]
            if not errands:
                break
        return results

    def _run(
        self,
        errands: list[_Errand],
        table: list[Server | None],
        results: list[Any],
        deadline: float,
        limit: int,
    ) -> None:
        """One round: everything is sent before the first reply is read."""
        by_server: dict[Server, list[_Errand]] = {}
        for errand in errands:
            server = errand.server or table[errand.bucket]
            if server is None:
                results[errand.index] = Unreachable(
                    "the cluster has a hole: no master for one of its slots", "down"
                )
                self._doubted = True
            else:
                by_server.setdefault(server, []).append(errand)
        calls: list[tuple[Call, list[_Errand]]] = []
        # Those in doubt last, so that connecting to one in vain takes no time from the others.
        for server, group in sorted(by_server.items(), key=lambda item: item[0].breaker.is_open):
            payload = b"".join([_ASKING + e.command if e.asking else e.command for e in group])
            count = sum(2 if e.asking else 1 for e in group)
            try:
                calls.append((server.begin(payload, count, deadline, limit), group))
            except Unreachable as error:
                self._lost(error, group, results)
        outcomes = finish_all([call for call, _ in calls], deadline)
        for (_, group), outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, Unreachable):
                self._lost(outcome, group, results)
                continue
            replies = iter(outcome)
            for errand in group:
                if errand.asking:
                    next(replies)
                results[errand.index] = next(replies)

    def _lost(self, error: Unreachable, group: list[_Errand], results: list[Any]) -> None:
        self._doubted = True
        for errand in group:
            results[errand.index] = error

    def _redirected(self, errand: _Errand, reply: Any) -> bool:
        """Whether the reply says to ask elsewhere; then the errand knows where."""
        if type(reply) is not Refusal or reply.kind not in ("moved", "ask"):
            return False
        endpoint = _endpoint_in(reply.text, errand.server)
        if endpoint is None:
            return False
        self._counters.count("topology", reply.kind)
        errand.server, errand.asking = self._server(endpoint), reply.kind == "ask"
        if reply.kind == "moved":
            self._doubted = True
        return True

    def _server(self, endpoint: Endpoint) -> Server:
        with self._lock:
            server = self._servers.get(endpoint)
            if server is None:
                if len(self._servers) >= _MOST_SERVERS:  # a cluster renamed again and again, or a hostile one
                    self._servers = {
                        s.endpoint: s for s in (*self._seeds, *(self._table or [])) if s is not None
                    }
                server = Server(endpoint, self._settings, resolver=self._resolver, counters=self._counters)
                self._servers[endpoint] = server
            return server

    def _refresh(self, deadline: float) -> None:
        """Learns the table anew, one caller at a time and at a bounded pace; the others go on with the old one."""
        first = self._table is None
        timeout = max(0.0, deadline - time.monotonic()) if first else -1
        if not self._refreshing.acquire(blocking=first, timeout=timeout):
            return
        try:
            now = time.monotonic()
            if not self._doubted or now < self._next_refresh:
                return
            self._next_refresh = now + _REFRESH_S * (0.5 + random.random())
            with self._lock:
                known = list(dict.fromkeys([*self._servers.values(), *self._seeds]))
            answer = ask_any(known, resp.command(b"CLUSTER", b"SLOTS"), _is_slot_list, deadline)
            if isinstance(answer, Unreachable):
                self._why = answer
                return
            self._doubted = False
            self._table = self._read_table(*answer)
        finally:
            self._refreshing.release()

    def _read_table(self, reply: list[Any], told_by: Server) -> list[Server | None]:
        owners: dict[int, Endpoint] = {}
        wanted = set(_BUCKET_SLOTS)
        for first, last, (host, port, *_), *_ in reply:
            name = host.decode("ascii", "replace") if host else ""
            endpoint = Endpoint(host=told_by.endpoint.host if name in ("", "?") else name, port=port)
            owners.update({slot: endpoint for slot in wanted if first <= slot <= last})
        self._counters.count("topology", "refresh")
        return [self._server(owners[slot]) if slot in owners else None for slot in _BUCKET_SLOTS]

    def close(self) -> None:
        with self._lock:
            servers = list(self._servers.values())
        for server in servers:
            server.close()

    def abandon(self) -> None:
        for server in list(self._servers.values()):
            server.abandon()


def _is_slot_list(reply: Any) -> bool:
    return isinstance(reply, list) and 0 < len(reply) <= _SLOTS and all(_is_slot_row(row) for row in reply)


def _is_slot_row(row: Any) -> bool:
    if not isinstance(row, list) or len(row) < 3:
        return False
    first, last, master = row[0], row[1], row[2]
    return (
        isinstance(first, int)
        and isinstance(last, int)
        and isinstance(master, list)
        and len(master) >= 2
        and (master[0] is None or isinstance(master[0], bytes))
        and isinstance(master[1], int)
        and 0 < master[1] < 65536
    )


def _endpoint_in(text: str, asked: Server | None) -> Endpoint | None:
    """The place in ``MOVED 3999 127.0.0.1:6381``. An empty host is that of the server which said so."""
    place = text.split(" ")[-1]
    host, _, port = place.rpartition(":")
    if not host and asked is not None:
        host = asked.endpoint.host
    if not host or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        return None
    return Endpoint(host=host.strip("[]"), port=int(port))
