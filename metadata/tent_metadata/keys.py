"""The names of everything TENT keeps in Redis.

All keys of a cluster begin with ``tent:<cluster>:``, so two clusters share one Redis without meeting and an ACL needs
one pattern. ``{..}`` is Redis Cluster's hash tag: a page lies in the bucket of its digest's first byte, with a copy of
its namespace's generation beside it; node and segment records lie together in one more.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import numpy.typing as npt

from tent_core.errors import InvalidArgument

__all__ = ["BUCKETS", "DIGEST_BYTES", "NODE_BUCKET", "KeySpace"]

BUCKETS = 256
NODE_BUCKET = 256  # the number of the bucket of node and segment records
DIGEST_BYTES = 16
_PLAIN_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")


class KeySpace:
    """Builds the keys of one cluster id. Immutable; thread-safe."""

    def __init__(self, cluster_id: str) -> None:
        if not cluster_id:
            raise InvalidArgument("cluster.id must not be empty")
        if not _PLAIN_ID.match(cluster_id):  # braces, blanks or length would break tags and patterns
            cluster_id = "h-" + hashlib.blake2b(cluster_id.encode(), digest_size=16).hexdigest()
        self.prefix = f"tent:{cluster_id}:".encode()
        page = self.prefix + b"{00}:p:" + b"0" * (2 * DIGEST_BYTES)
        self._template = np.frombuffer(b"$%d\r\n%b\r\n" % (len(page), page), dtype=np.uint8)
        self._tag_at = bytes(self._template).index(b"{") + 1
        self._digest_at = len(self._template) - 2 - 2 * DIGEST_BYTES

    def page(self, digest: bytes) -> bytes:
        return self.prefix + b"{%02x}:p:%b" % (digest[0], digest.hex().encode())

    def generation(self, bucket: int, namespace: bytes) -> bytes:
        return self.prefix + b"{%02x}:g:%b" % (bucket, namespace.hex().encode())

    def node(self, name: bytes) -> bytes:
        return self.prefix + b"{nodes}:n:" + name

    def segments(self, name: bytes) -> bytes:
        return self.prefix + b"{nodes}:s:" + name

    @property
    def node_index(self) -> bytes:
        return self.prefix + b"{nodes}:all"

    @property
    def spaces(self) -> bytes:
        return self.prefix + b"{nodes}:spaces"

    def packed_pages(self, digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The keys of N digests (uint8, shape [N, 16]) as they go over the wire, one row each: no loop over keys."""
        count = len(digests)
        rows = np.empty((count, len(self._template)), dtype=np.uint8)
        rows[:] = self._template
        digits = np.frombuffer(digests.tobytes().hex().encode(), dtype=np.uint8).reshape(
            count, 2 * DIGEST_BYTES
        )
        rows[:, self._tag_at : self._tag_at + 2] = digits[:, :2]
        rows[:, self._digest_at : -2] = digits
        return rows


def tag_of(bucket: int) -> bytes:
    """The hash tag of a bucket, without its braces."""
    return b"nodes" if bucket == NODE_BUCKET else b"%02x" % bucket
