"""What can become of a page: one list, used by the store, the connectors and the metrics.

Mirrors ``csrc/store/reason.h``; numbers are stable.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["PageStatus", "status_of_code"]


class PageStatus(IntEnum):
    """The first four are no misses; from 16 on, the page is to be computed (or was not stored)."""

    HIT = 0  # get, lookup, exists: there; a get's bytes are in place and verified
    STORED = 1  # put: this call's bytes are the page
    PRESENT = 2  # put: somebody published the page first; theirs stays
    PENDING = 3  # not decided yet
    ABSENT = 16  # no such page
    DIRECTORY_DOWN = 17  # the directory did not answer in time
    OWNER_UNREACHABLE = 18  # no way to the owner, or it has no live node record
    STALE_INCARNATION = 19  # the record names an owner that has died or restarted
    STALE_EPOCH = 20  # the owner has reused that memory
    CHECK_FAILED = 21  # the bytes are not what was promised
    LENGTH_MISMATCH = 22  # the page has another length than the caller expects
    CLEARED = 23  # published before its namespace was cleared
    BAD_RECORD = 24  # the directory's record is garbage
    NO_SPACE = 25  # put: nothing can be evicted, or the node contributes no memory
    UNSTABLE = 26  # put: the source changed while it was copied
    TOO_LARGE = 27  # put: larger than an extent
    DEADLINE = 28  # time ran out
    CANCELLED = 29  # the caller gave up
    LINK_FAILED = 30  # every route to the owner failed
    REFUSED = 31  # the owner, or a full queue, said no
    QUOTA = 32  # the writer, or its tenant, holds its share already
    CLOSED = 33  # the store was closed
    VERSION = 34  # written by a newer TENT
    INTERNAL = 35  # a fault of TENT itself

    @property
    def is_miss(self) -> bool:
        return self >= 16


_BY_CODE = {
    "stale_epoch": PageStatus.STALE_EPOCH,
    "stale_incarnation": PageStatus.STALE_INCARNATION,
    "segment_gone": PageStatus.OWNER_UNREACHABLE,
    "out_of_range": PageStatus.BAD_RECORD,
    "permission_denied": PageStatus.REFUSED,
    "auth_failed": PageStatus.REFUSED,
    "cluster_mismatch": PageStatus.REFUSED,
    "busy": PageStatus.REFUSED,
    "overlapping": PageStatus.REFUSED,
    "read_only": PageStatus.REFUSED,
    "unregistered": PageStatus.REFUSED,
    "invalid_argument": PageStatus.REFUSED,
    "version_mismatch": PageStatus.VERSION,
    "peer_unreachable": PageStatus.OWNER_UNREACHABLE,
    "peer_dead": PageStatus.OWNER_UNREACHABLE,
    "link_failed": PageStatus.LINK_FAILED,
    "protocol": PageStatus.LINK_FAILED,
    "deadline": PageStatus.DEADLINE,
    "cancelled": PageStatus.CANCELLED,
    "check_failed": PageStatus.CHECK_FAILED,
    "no_memory": PageStatus.NO_SPACE,
    "closed": PageStatus.CLOSED,
}


def status_of_code(code: str) -> PageStatus:
    """The page's status for an error code of the engine."""
    return _BY_CODE.get(code, PageStatus.INTERNAL)
