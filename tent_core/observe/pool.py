"""The pool as an operator sees it: nodes, namespaces and pages, asked of the directory and of the nodes themselves."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np

from tent_core import _native
from tent_core.config import Config
from tent_core.engine import Intent, Peer
from tent_core.errors import InvalidArgument, TentError, Unsupported, error_for_code
from tent_core.observe.session import Observer
from tent_core.store.batch import Digests, Words
from tent_core.store.lookup import Messages
from tent_core.store.pools import Pools
from tent_core.store.reason import PageStatus
from tent_metadata import open_directory

__all__ = ["NodeRow", "PoolView", "SpaceRow", "Verified"]

_CALL_S = 5.0
_READ_S = 30.0
_UP_S = 10.0  # for pages to come up from a disk, without any that does
_PAUSE_S = 0.02  # between questions to a node that is at work
_LARGEST_PAGE = 16 << 30  # store.extent is no larger
_VERIFY_BYTES = 64 << 20  # read at a time


@dataclasses.dataclass(frozen=True)
class NodeRow:
    """One node. Bytes; the figures are None where it does not answer."""

    node: str
    host: str
    kind: str  # node, engine or reader (gives nothing)
    state: str  # serving, leaving or unreachable
    capacity: int
    used: int | None = None
    pages: int | None = None
    pinned: int | None = None
    lent: int | None = None
    disk_capacity: int | None = None  # None: an older TENT, or it does not answer; 0: it keeps none on disk
    disk_used: int | None = None
    disk_pages: int | None = None
    disk_off: bool = False  # given up after too many errors
    why: str = ""


@dataclasses.dataclass(frozen=True)
class SpaceRow:
    """What one node holds of one namespace."""

    node: str
    space: str  # digest, hexadecimal
    facts: dict[str, Any]
    generation: int
    pages: int = 0
    bytes: int = 0
    disk_pages: int = 0
    disk_bytes: int = 0


@dataclasses.dataclass
class Verified:
    """What a scrub of one node's memory, or of its disk, found."""

    node: str
    where: str = "memory"  # or disk
    pages: int = 0
    bytes: int = 0
    bad: int = 0
    removed: int = 0
    moved: int = 0  # gone or reused while it was looked at
    unread: int = 0
    why: str = ""


class PoolView:
    """Use with ``with``. Raises DirectoryUnavailable where nothing can be told without the directory."""

    def __init__(self, config: Config) -> None:
        self._observer = Observer(config)
        try:
            self.directory = open_directory(config.directory, cluster_id=config.cluster.id)
        except BaseException:
            self._observer.close()
            raise
        self._pools = Pools(self.directory, "", "")

    def __enter__(self) -> PoolView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.directory.close()
        self._observer.close()

    # ---- nodes

    def peer(self, name: str) -> Peer:
        """Raises InvalidArgument for a node that the directory does not know, and what connecting raises."""
        return self._observer.connect(self._observer.descriptor(name))

    def nodes(self) -> list[NodeRow]:
        self._pools.refresh()
        rows = []
        for name in sorted(self._pools.nodes):
            pool = self._pools.known.get(name)
            if pool is None:
                rows.append(NodeRow(name, "", "reader", "serving", 0))
                continue
            row = NodeRow(
                name,
                pool.host,
                "node" if pool.daemon else "engine",
                "leaving" if pool.leaving else "serving",
                pool.capacity,
            )
            try:
                reply = self.peer(name).call(Messages.STAT, _native.bare_request(), _CALL_S)
                stat = _native.store_stat_reply(reply)
            except TentError as error:
                rows.append(dataclasses.replace(row, state="unreachable", why=str(error)))
                continue
            row = dataclasses.replace(
                row, used=stat["used"], pages=stat["pages"], pinned=stat["pinned"], lent=stat["lent"]
            )
            rows.append(self._with_disk(row))
        return rows

    def _with_disk(self, row: NodeRow) -> NodeRow:
        try:
            reply = self.peer(row.node).call(Messages.DISK, _native.bare_request(), _CALL_S)
            stat = _native.disk_stat_reply(reply)
        except TentError:
            return row
        return dataclasses.replace(
            row,
            disk_capacity=stat["capacity"],
            disk_used=stat["used"],
            disk_pages=stat["pages"],
            disk_off=bool(stat["off"]),
        )

    def owners(self) -> list[str]:
        """Nodes that give memory."""
        self._pools.refresh()
        return sorted(self._pools.known)

    def drain(self, name: str) -> None:
        self.peer(name).call(Messages.DRAIN, _native.bare_request(), _CALL_S)

    # ---- namespaces

    def facts(self) -> dict[bytes, dict[str, Any]]:
        """What each namespace stands for, as far as the directory was told."""
        found = {}
        for digest, raw in self.directory.spaces().items():
            try:
                facts = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if isinstance(facts, dict):
                found[digest] = facts
        return found

    def of_model(self, model: str) -> dict[bytes, dict[str, Any]]:
        """The namespaces whose ``model`` is this, or ends with it as a path does. Raises InvalidArgument."""
        known = self.facts()
        found = {digest: facts for digest, facts in known.items() if _is_model(facts, model)}
        if not found:
            models = sorted({str(facts.get("model")) for facts in known.values() if "model" in facts})
            raise InvalidArgument(
                f"no pages were ever put for a model {model!r}; the directory knows: {', '.join(models) or 'none'}"
            )
        return found

    def spaces(self) -> tuple[list[SpaceRow], dict[str, str]]:
        """What every node holds by namespace, and why nodes did not answer."""
        facts, failed = self.facts(), {}
        rows: list[SpaceRow] = []
        for name in self.owners():
            found: dict[bytes, SpaceRow] = {}
            try:
                reply = self.peer(name).call(Messages.SPACES, _native.bare_request(), _CALL_S)
                for space, generation, pages, nbytes in _native.space_list_reply(reply):
                    row = SpaceRow(name, space.hex(), facts.get(space, {}), generation, pages, nbytes)
                    found[space] = row
                for space, generation, pages, nbytes in self._disk_spaces(name):
                    row = found.get(space) or SpaceRow(name, space.hex(), facts.get(space, {}), generation)
                    found[space] = dataclasses.replace(row, disk_pages=pages, disk_bytes=nbytes)
            except TentError as error:
                failed[name] = str(error)
            rows += found.values()
        return rows, failed

    def _disk_spaces(self, name: str) -> list[tuple[bytes, int, int, int]]:
        try:
            return _native.space_list_reply(
                self.peer(name).call(Messages.DISK_SPACES, _native.bare_request(), _CALL_S)
            )
        except Unsupported:  # an older TENT
            return []

    def evict(self, spaces: list[bytes]) -> None:
        """Everything of these namespaces is a miss from now on, for everybody. Raises DirectoryUnavailable."""
        for space in spaces:
            self.directory.clear(space)

    # ---- pages

    def records(self, spaces: list[bytes], key: bytes) -> dict[bytes, tuple[bytes, dict[str, Any]]]:
        """Namespace -> digest and record of the page with this key, where there is one."""
        found = {}
        for space in spaces:
            digests = _native.page_digests(space, [key])
            records, generation = self.directory.lookup(space, digests)
            info = None if records[0] is None else _native.record_info(records[0])
            if info is not None and info["generation"] >= generation:
                found[space] = (digests[0].tobytes(), info)
        return found

    def keep(self, node: str, digests: Digests, pinned: bool) -> int:
        """Pins pages of a node, or unpins them. How many it had. Pages on its disk it brings up first: that is waited
        for as long as there is progress."""
        kept = 0
        for start in range(0, len(digests), Messages.MOST):
            some = digests[start : start + Messages.MOST]
            until = time.monotonic() + _UP_S
            while len(some):
                request = _native.keep_request(pinned, np.ascontiguousarray(some))
                status = _native.statuses_reply(self.peer(node).call(Messages.KEEP, request, _CALL_S))
                done = int((status == PageStatus.HIT).sum())
                kept += done
                some = some[status == PageStatus.PENDING]
                until = time.monotonic() + _UP_S if done else until
                if not len(some) or time.monotonic() > until:
                    break
                time.sleep(_PAUSE_S)
        return kept

    def pages(self, node: str, *, disk: bool = False) -> Iterator[Any]:
        """Pieces of the node's listing: segment, then columns (`_native.page_list_reply`). ``disk``: of what lies on
        its disk; nothing where the node has none, or cannot tell."""
        cursor, more = 0, True
        while more:
            request = _native.list_request(cursor, Messages.MOST_LISTED)
            try:
                reply = self.peer(node).call(Messages.LIST_DISK if disk else Messages.LIST, request, _CALL_S)
            except Unsupported:  # an older TENT
                if disk:
                    return
                raise
            cursor, *piece = _native.page_list_reply(reply)
            lengths: Any = piece[5]
            if len(lengths) and not 0 < int(lengths.min()) <= int(lengths.max()) <= _LARGEST_PAGE:
                raise error_for_code("protocol", f"node {node!r} lists a page of {int(lengths.max())} bytes")
            yield piece
            more = cursor != 0

    def verify(self, node: str, remove: bool, progress: Any = lambda _state: None) -> Verified:
        """Reads every page of the node and checks it; bad ones are removed, if told so."""
        done = Verified(node)
        try:
            for segment, digests, spaces, _g, offsets, lengths, checks, epochs, *_ in self.pages(node):
                for rows in _pieces(lengths):
                    columns = (digests[rows], offsets[rows], lengths[rows], checks[rows], epochs[rows])
                    bad = self._verify(node, segment, columns, done)
                    if remove and len(bad):
                        self._remove(node, digests[rows][bad], spaces[rows][bad], done)
                    progress(done)
        except TentError as error:
            done.why = str(error)
        return done

    def verify_disk(self, node: str, remove: bool, progress: Any = lambda _state: None) -> Verified | None:
        """The node reads every page on its disk and checks it. None where it keeps none there."""
        done = Verified(node, "disk")
        try:
            stat = _native.disk_stat_reply(
                self.peer(node).call(Messages.DISK, _native.bare_request(), _CALL_S)
            )
            if not stat["capacity"]:
                return None
            state = self._scrub_disk(node, "remove" if remove else "keep")
            while True:
                for name in ("pages", "bytes", "bad", "removed", "unread"):
                    setattr(done, name, state[name])
                progress(done)
                if not state["running"]:
                    return done
                time.sleep(_PAUSE_S)
                state = self._scrub_disk(node, "tell")
        except Unsupported:  # an older TENT
            return None
        except TentError as error:
            done.why = str(error)
        return done

    def _scrub_disk(self, node: str, wish: str) -> dict[str, int]:
        request = _native.scrub_request(wish)
        return _native.disk_scrub_reply(self.peer(node).call(Messages.SCRUB_DISK, request, _CALL_S))

    def _verify(self, node: str, segment: int, columns: Any, done: Verified) -> Any:
        """Positions of the bad ones. A page whose memory was reused meanwhile is none of them."""
        digests, offsets, lengths, checks, epochs = columns
        count = len(digests)
        buffer = np.empty(int(lengths.sum()), dtype=np.uint8)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.uint64)
        addresses: Words = np.uint64(buffer.ctypes.data) + starts
        engine = self._observer.engine
        memory = engine.register(buffer, access="private")
        try:
            intent = Intent(
                "read",
                self.peer(node),
                addresses,
                np.full(count, segment, dtype=np.uint32),
                np.ascontiguousarray(offsets),
                np.ascontiguousarray(lengths),
                np.arange(count, dtype=np.uint32),
                epoch=np.ascontiguousarray(epochs),
                priority="bulk",
                deadline=_READ_S,
            )
            transfer = engine.submit(intent)
            transfer.wait(_READ_S)
            transfer.cancel()
            transfer.wait_released(_READ_S)
            arrived = transfer.status == 1
            verdict = _native.verify_pages(
                np.ascontiguousarray(digests),
                addresses[:, None],
                np.ascontiguousarray(lengths[:, None]),
                np.ascontiguousarray(checks),
                engine._native,
            )
        finally:
            memory.close()
        stale = {index for index, code, _ in transfer._native.errors if code == "stale_epoch"}
        done.pages += count
        done.bytes += int(lengths[arrived].sum())
        done.moved += len(stale)
        done.unread += int((~arrived).sum()) - len(stale)
        bad = np.flatnonzero(arrived & (verdict != PageStatus.HIT))
        done.bad += len(bad)
        return bad

    def _remove(self, node: str, digests: Digests, spaces: Digests, done: Verified) -> None:
        for space in {row.tobytes() for row in spaces}:
            mine = np.ascontiguousarray(digests[(spaces == np.frombuffer(space, np.uint8)).all(axis=1)])
            reply = self.peer(node).call(Messages.REMOVE, _native.remove_request(space, mine), _CALL_S)
            done.removed += int((_native.statuses_reply(reply) == PageStatus.HIT).sum())


def _is_model(facts: dict[str, Any], model: str) -> bool:
    there = facts.get("model")
    return isinstance(there, str) and (there == model or there.rstrip("/").endswith("/" + model))


def _pieces(lengths: Words) -> Iterator[Any]:
    """Rows in pieces of bounded size."""
    start, total = 0, 0
    for row, nbytes in enumerate(lengths.tolist()):
        if total and total + nbytes > _VERIFY_BYTES:
            yield slice(start, row)
            start, total = row, 0
        total += nbytes
    if start < len(lengths):
        yield slice(start, len(lengths))
