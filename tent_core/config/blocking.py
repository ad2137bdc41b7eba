"""Every call that can block, and what bounds it. docs/blocking.md is made from this; tests hold both to the code."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BLOCKING", "Blocking"]


class Blocking(NamedTuple):
    """``call`` is importable as written; ``keys`` are the settings that bound it, ``argument`` the caller's own bound.

    ``then`` says what the caller sees when the bound is reached.
    """

    call: str
    waits_for: str
    argument: str
    keys: tuple[str, ...]
    then: str


BLOCKING: tuple[Blocking, ...] = (
    Blocking(
        "tent_core.Engine.connect",
        "the peer's handshake",
        "timeout",
        ("engine.connect_timeout_ms",),
        "PeerUnreachable, or the reason of the refusal (AuthFailed, ClusterMismatch, VersionMismatch)",
    ),
    Blocking(
        "tent_core.Engine.read",
        "the transfer",
        "deadline",
        ("engine.deadline_ms",),
        "DeadlineExceeded; what completed before it stays complete",
    ),
    Blocking(
        "tent_core.Engine.write",
        "the transfer, until the owner says that the bytes are in place",
        "deadline",
        ("engine.deadline_ms",),
        "DeadlineExceeded; what completed before it stays complete",
    ),
    Blocking(
        "tent_core.Transfer.wait",
        "the transfer's result",
        "timeout",
        ("engine.deadline_ms",),
        "False when only the timeout ran out: the transfer goes on until its deadline",
    ),
    Blocking(
        "tent_core.Transfer.wait_released",
        "every attempt to be fenced",
        "timeout",
        ("engine.deadline_ms", "engine.session_lease_ms"),
        "False; at the latest one session lease after the deadline the owner takes nothing more",
    ),
    Blocking(
        "tent_core.Engine.notifications",
        "a notification",
        "timeout",
        (),
        "an empty list",
    ),
    Blocking(
        "tent_core.Segment.unregister",
        "peers' attempts on the segment to be fenced, and our own over it to end",
        "timeout",
        ("engine.session_lease_ms",),
        "Busy: the segment stays registered",
    ),
    Blocking(
        "tent_core.handoff.Handoff.pull",
        "what was offered to be here, checked",
        "timeout",
        ("engine.deadline_ms",),
        "DeadlineExceeded; nothing touches the local ranges any more",
    ),
    Blocking(
        "tent_core.handoff.Handoff.push",
        "the owner to say that the bytes are in place",
        "timeout",
        ("engine.deadline_ms", "engine.session_lease_ms"),
        "DeadlineExceeded; nothing reads the local ranges any more",
    ),
    Blocking(
        "tent_core.handoff.Offer.wait",
        "the offer's end",
        "timeout",
        (),
        "an empty text: it goes on",
    ),
    Blocking(
        "tent_core.Peer.stats",
        "the peer's answer (5 s where no timeout is given)",
        "timeout",
        (),
        "DeadlineExceeded",
    ),
    Blocking(
        "tent_core.Peer.recording",
        "the peer's recording, in parts (5 s where no timeout is given)",
        "timeout",
        (),
        "DeadlineExceeded",
    ),
    Blocking(
        "tent_core.Engine.close",
        "threads to end and peers' attempts to be fenced",
        "timeout",
        ("engine.session_lease_ms",),
        "everything is closed all the same; memory still lent stays mapped until the process ends",
    ),
    Blocking(
        "tent_core.store.PageStore.open",
        "the directory, and the embedded server's start where there is none",
        "",
        ("directory.timeout_ms",),
        "the store opens without a directory; look-ups miss until it answers",
    ),
    Blocking(
        "tent_core.store.PageStore.put",
        "the copies and the owner's commit",
        "timeout",
        ("engine.deadline_ms", "directory.timeout_ms"),
        "a miss reason for each page that was not stored",
    ),
    Blocking(
        "tent_core.store.PageStore.get",
        "the look-up and the bytes",
        "timeout",
        ("engine.deadline_ms", "directory.timeout_ms"),
        "a miss reason for each page that did not come; the leading pages are kept",
    ),
    Blocking(
        "tent_core.store.PageStore.lookup",
        "one round trip to the directory; with pin_ms also one to each owner",
        "",
        ("directory.timeout_ms",),
        "DIRECTORY_DOWN for each page",
    ),
    Blocking(
        "tent_core.store.PageStore.exists",
        "one round trip to the directory",
        "",
        ("directory.timeout_ms",),
        "DIRECTORY_DOWN for each page",
    ),
    Blocking(
        "tent_core.store.PageStore.remove",
        "the directory and the owners",
        "",
        ("directory.timeout_ms",),
        "a miss reason for each page",
    ),
    Blocking(
        "tent_core.store.PageStore.clear",
        "the directory",
        "",
        ("directory.timeout_ms",),
        "DirectoryUnavailable: nothing was cleared elsewhere",
    ),
    Blocking(
        "tent_core.store.PageStore.drain",
        "other nodes to fetch this one's pages, and their records to leave the directory",
        "timeout",
        ("directory.timeout_ms",),
        "pages that nobody took by then are dropped, and counted as lost",
    ),
    Blocking(
        "tent_core.store.PageStore.close",
        "as Engine.close, and the directory to take back this node's record",
        "",
        ("engine.session_lease_ms", "directory.timeout_ms"),
        "everything is closed all the same; the record ends with its time to live",
    ),
)
