"""Finding pages: one round trip to the directory, decoded natively, with what this node owns as the fallback."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tent_core import _native
from tent_core.engine import Peer
from tent_core.errors import DirectoryUnavailable, InvalidArgument, TentError
from tent_core.store.batch import Batch, Digests, Rows, Statuses, Words
from tent_core.store.context import Context, Deadline
from tent_core.store.reason import PageStatus

__all__ = ["Located", "Lookup", "Messages", "elsewhere", "lease", "locate", "predict"]

U32 = npt.NDArray[np.uint32]


class Messages:
    """Numbers of the calls to an owner's store (csrc/proto/store_messages.h), and how many pages one may name."""

    LEND, GIVE_BACK, COMMIT, PIN, UNPIN, HITS, REMOVE, STAT, STALE = range(1, 10)
    ADOPT, LIST, KEEP, DRAIN, SPACES, DOUBT, STAGE, DISK = range(10, 18)
    DISK_SPACES, LIST_DISK, SCRUB_DISK = range(18, 21)
    MOST = 4096
    MOST_LISTED = 1024


@dataclass
class Located:
    """Where pages lie, one row a page. Only rows whose status is HIT mean anything."""

    digests: Digests
    status: Statuses
    node: U32  # index into `nodes`
    segment: U32
    epoch: U32
    offset: Words
    length: Words
    check: Words
    version: Digests  # (N, 16)
    which: npt.NDArray[np.uint8]  # the replica that was chosen: its place in the record
    replicas: npt.NDArray[np.uint8]  # how many the record has
    nodes: list[tuple[str, bytes]]
    records: list[bytes | None]

    def rows(self, rows: Rows) -> Located:
        return Located(
            self.digests[rows],
            self.status[rows],
            self.node[rows],
            self.segment[rows],
            self.epoch[rows],
            self.offset[rows],
            self.length[rows],
            self.check[rows],
            self.version[rows],
            self.which[rows],
            self.replicas[rows],
            self.nodes,
            [self.records[row] for row in rows.tolist()],
        )

    def of(self, batch: Batch) -> Located:
        """The rows that belong to a batch of the same pages, or of the first of them; its lengths are compared
        again. Raises InvalidArgument for other pages."""
        count = len(batch)
        if count > len(self.digests) or not np.array_equal(self.digests[:count], batch.digests):
            raise InvalidArgument(
                "the look-up is of other keys: hand in one of the same keys, or of more that begin so"
            )
        mine = self.rows(np.arange(count))
        wrong = (mine.status == PageStatus.HIT) & (mine.length != batch.totals)
        mine.status[wrong] = PageStatus.LENGTH_MISMATCH
        return mine

    def owned_by(self, index: int) -> Rows:
        found: Rows = np.flatnonzero((self.status == PageStatus.HIT) & (self.node == index))
        return found


def locate(context: Context, space: bytes, digests: Digests, lengths: Words | None) -> Located:
    """Looks pages up. With the directory down, pages that this node owns are found all the same."""
    try:
        records, generation = context.directory.lookup(space, digests)
    except DirectoryUnavailable:
        context.lost_directory()
        return _own_only(context, digests, lengths)
    context.saw_generation(space, generation)
    located = _decoded(context, space, digests, records, lengths, None)
    _add_own(context, located, lengths)
    return located


def elsewhere(
    context: Context,
    space: bytes,
    located: Located,
    lengths: Words | None,
    tried: npt.NDArray[np.uint8],
) -> Located:
    """The same records once more, without the replicas in the bit sets ``tried``: OWNER_UNREACHABLE where none is
    left."""
    return _decoded(context, space, located.digests, located.records, lengths, tried)


def _decoded(
    context: Context,
    space: bytes,
    digests: Digests,
    records: list[bytes | None],
    lengths: Words | None,
    tried: npt.NDArray[np.uint8] | None,
) -> Located:
    generation = context.generation(space)
    columns = _native.decode_records(records, context.name, generation, lengths, tried)
    if (columns[9] > 1).any():  # pages with several replicas: by what reading from their nodes takes now
        costs = context.costs()
        columns = _native.decode_records(records, context.name, generation, lengths, tried, costs)
    status, node, segment, epoch, offset, length, check, version, which, replicas, nodes = columns
    return Located(
        digests,
        status,
        node,
        segment,
        epoch,
        offset,
        length,
        check,
        version,
        which,
        replicas,
        nodes,
        records,
    )


def _add_own(context: Context, located: Located, lengths: Words | None) -> None:
    """Pages that this node owns and has not published yet: its own index is what counts for them."""
    absent = np.flatnonzero(located.status == PageStatus.ABSENT)
    if not context.owns_pages or not len(absent):
        return
    own, found = context.find_own(located.digests[absent])
    here = own == PageStatus.HIT
    if not here.any():
        return
    rows = absent[here]
    me = (context.name, context.incarnation)
    if me not in located.nodes:
        located.nodes.append(me)
    located.node[rows] = located.nodes.index(me)
    located.length[rows] = found[here]
    same = lengths is None or lengths[rows] == found[here]
    located.status[rows] = np.where(same, PageStatus.HIT, PageStatus.LENGTH_MISMATCH)


def _own_only(context: Context, digests: Digests, lengths: Words | None) -> Located:
    count = len(digests)
    status = np.full(count, PageStatus.DIRECTORY_DOWN, dtype=np.uint8)
    found = np.zeros(count, dtype=np.uint64)
    if context.owns_pages:
        own, found = context.find_own(digests)
        here = own == PageStatus.HIT
        status[here] = PageStatus.HIT
        if lengths is not None:
            status[here & (found != lengths)] = PageStatus.LENGTH_MISMATCH
    none8 = np.zeros(count, dtype=np.uint8)
    none32 = np.zeros(count, dtype=np.uint32)
    none64 = np.zeros(count, dtype=np.uint64)
    nodes = [(context.name, context.incarnation)]
    version = np.zeros((count, 16), dtype=np.uint8)
    return Located(
        digests, status, none32, none32, none32, none64, found, none64, version, none8, none8, nodes,
        [None] * count,
    )  # fmt: skip


@dataclass
class Lookup:
    """What a look-up found. Hand it to ``get`` to spare the directory a second trip."""

    status: Statuses
    located: Located = field(repr=False)

    @property
    def hits(self) -> int:
        """How many pages from the front are there."""
        hit = self.status == PageStatus.HIT
        return len(hit) if hit.all() else int(np.argmin(hit))

    @property
    def nbytes(self) -> int:
        """Bytes of all hits."""
        return int(self.located.length[self.status == PageStatus.HIT].sum())

    def release(self) -> None:
        """Says that the pages need not be kept any longer. Read leases are short and run out by themselves: an owner
        keeps one until then, since another reader may rely on it. Idempotent."""


def lease(context: Context, located: Located, milliseconds: int, deadline: Deadline) -> None:
    """Asks the owners to keep the pages that were found; those that are gone become misses in ``located.status``."""
    for index, (name, incarnation) in enumerate(located.nodes):
        rows = located.owned_by(index)
        for start in range(0, len(rows), Messages.MOST):
            some = rows[start : start + Messages.MOST]
            located.status[some] = _lease_at(
                context, name, incarnation, located.digests[some], milliseconds, deadline
            )


def _lease_at(
    context: Context, name: str, incarnation: bytes, digests: Digests, milliseconds: int, deadline: Deadline
) -> Statuses | PageStatus:
    if name == context.name and context.native is not None:
        kept: Statuses = context.native.lease(digests, milliseconds)
        return kept
    peer = context.peers.get(name, incarnation, deadline.left)
    if not isinstance(peer, Peer):
        return peer
    try:
        reply = peer.call(Messages.PIN, _native.pin_request(milliseconds, digests), max(0.001, deadline.left))
        answers: Statuses = _native.statuses_reply(reply)
    except TentError:
        return PageStatus.OWNER_UNREACHABLE
    return answers if len(answers) == len(digests) else PageStatus.OWNER_UNREACHABLE


def predict(context: Context, located: Located, rate: float) -> float:
    """Seconds that getting what was found would take now: ``rate`` bytes a second at best. No I/O."""
    sessions = context.peers.connected()
    longest = 0.0
    for index, node in enumerate(located.nodes):
        nbytes = int(located.length[located.owned_by(index)].sum())
        peer = sessions.get(node)
        seconds = nbytes / rate
        if peer is not None and nbytes:
            seconds = max(seconds, float(peer._native.predict(nbytes, "interactive")))
        longest = max(longest, seconds)
    return longest
