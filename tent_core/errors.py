"""Every error that TENT raises, with a stable code.

Each class carries ``code``, a short word that does not change between releases: programs compare codes, people
read messages. The native engine reports its failures by the same codes; :func:`error_for_code` turns one into
the class a caller can catch. A message names the thing that failed (segment, peer, link, key) and what to try.

Misuse by the caller (`InvalidArgument` and its neighbours) also derives from the matching Python built-in, so that
``except ValueError`` or ``except TimeoutError`` keep their meaning.
"""

from __future__ import annotations

__all__ = [
    "AuthFailed",
    "Busy",
    "Cancelled",
    "CheckFailed",
    "Closed",
    "ClusterMismatch",
    "ConfigError",
    "DeadlineExceeded",
    "DirectoryUnavailable",
    "Forked",
    "Internal",
    "IoFailed",
    "InvalidArgument",
    "LinkFailed",
    "NameInUse",
    "NoMemory",
    "NoSpace",
    "OutOfRange",
    "OverlappingRanges",
    "PeerDead",
    "PeerUnreachable",
    "PermissionDenied",
    "PortInUse",
    "ProtocolError",
    "ReadOnlyBuffer",
    "SegmentGone",
    "StaleEpoch",
    "StaleIncarnation",
    "TentError",
    "Unregistered",
    "Unsupported",
    "VersionMismatch",
    "all_errors",
    "error_for_code",
]


class TentError(Exception):
    """Base of all of TENT's errors. ``code`` is stable; the message names the thing and what to try."""

    code: str = "error"


class InvalidArgument(TentError, ValueError):
    """The call makes no sense as written: a zero or negative length, arrays of different sizes, a wrong type."""

    code = "invalid_argument"


class ConfigError(InvalidArgument):
    """A configuration key is unknown, or its value has the wrong type, unit or range."""

    code = "config_error"


class OutOfRange(InvalidArgument):
    """A range reaches past the end of its segment."""

    code = "out_of_range"


class Unregistered(InvalidArgument):
    """An address lies in no registered segment."""

    code = "unregistered"


class OverlappingRanges(InvalidArgument):
    """Two destination ranges of live transfers share bytes."""

    code = "overlapping"


class ReadOnlyBuffer(InvalidArgument):
    """A buffer that cannot be written was named as a destination."""

    code = "read_only"


class SegmentGone(TentError):
    """The segment was closed, or its owner took it back."""

    code = "segment_gone"


class Unsupported(TentError):
    """Not built (yet), or not possible on this host. Never silently ignored."""

    code = "unsupported"


class PermissionDenied(TentError):
    """The owner granted no such right on this range."""

    code = "permission_denied"


class AuthFailed(TentError):
    """The peer could not prove that it knows the cluster's secret, or we could not."""

    code = "auth_failed"


class ClusterMismatch(TentError):
    """The peer belongs to another cluster (``cluster.id``)."""

    code = "cluster_mismatch"


class VersionMismatch(TentError):
    """The peer or the record speaks a version that this build does not."""

    code = "version_mismatch"


class ProtocolError(TentError):
    """The peer sent bytes that no correct peer sends. The connection was closed."""

    code = "protocol"


class PeerUnreachable(TentError, ConnectionError):
    """No link to the peer is left."""

    code = "peer_unreachable"


class PeerDead(TentError, ConnectionError):
    """The peer's process is gone, or another incarnation has taken its name."""

    code = "peer_dead"


class StaleIncarnation(PeerDead):
    """The node has restarted since its descriptor was made: fetch the new one. The old memory is gone."""

    code = "stale_incarnation"


class StaleEpoch(SegmentGone):
    """The extent was reused since the reference was made."""

    code = "stale_epoch"


class LinkFailed(TentError, ConnectionError):
    """A link failed and no other route was left."""

    code = "link_failed"


class DeadlineExceeded(TentError, TimeoutError):
    """The transfer's deadline passed. What completed before it stays completed."""

    code = "deadline"


class Cancelled(TentError):
    """The transfer was cancelled by its caller."""

    code = "cancelled"


class CheckFailed(TentError):
    """The bytes that arrived are not the bytes that were promised. The destination's contents are undefined."""

    code = "check_failed"


class NoMemory(TentError, MemoryError):
    """Memory, a descriptor or room in an extent was asked for beyond what this process may have."""

    code = "no_memory"


class IoFailed(TentError, OSError):
    """A disk could not read or write what it was asked to."""

    code = "io_error"


class NoSpace(TentError, OSError):
    """A file system is full."""

    code = "no_space"


class Busy(TentError):
    """A limit on concurrent work was reached; try again when some of it has finished."""

    code = "busy"


class NameInUse(TentError):
    """Another live incarnation holds this node name."""

    code = "name_in_use"


class PortInUse(TentError, OSError):
    """The configured port is taken."""

    code = "port_in_use"


class DirectoryUnavailable(TentError, ConnectionError):
    """The directory did not answer in time, or refused. Look-ups are misses until it returns."""

    code = "directory_unavailable"


class Closed(TentError):
    """The engine, store, segment or peer was closed."""

    code = "closed"


class Forked(TentError):
    """This process is a child made by ``fork``: the engine lives in the parent. Make a new one here."""

    code = "forked"


class Internal(TentError):
    """A fault of TENT itself. Please report it with the message."""

    code = "internal"


def _index() -> dict[str, type[TentError]]:
    found: dict[str, type[TentError]] = {}
    pending: list[type[TentError]] = [TentError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return found


def all_errors() -> dict[str, type[TentError]]:
    """Code -> class, for every error defined here."""
    return dict(_BY_CODE)


def error_for_code(code: str, message: str) -> TentError:
    """The exception for a native status. An unknown code becomes :class:`Internal` and keeps the code in its text."""
    cls = _BY_CODE.get(code)
    if cls is None:
        return Internal(f"[{code}] {message}")
    return cls(message)


_BY_CODE = _index()
