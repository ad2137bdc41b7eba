"""Tickets: what a producer hands to whoever brings it to the consumer. Text that fits into JSON.

A ticket names a node (its descriptor) and an offer there (a secret of 128 random bits), and is sealed with the
cluster's secret: nobody outside the cluster can make one up or change one. It grants nothing by itself: the node that
it names decides, by what it has offered. Every byte of it is hostile until `unseal` returned.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass, field

from tent_core.errors import AuthFailed, InvalidArgument, ProtocolError, VersionMismatch

__all__ = ["NAME_BYTES", "Ticket"]

VERSION = 1
NAME_BYTES = 16
_PREFIX = "tent-ticket-"
_DOMAIN = b"tent hand-off ticket\0"
_HEAD = struct.Struct("<HB16sQIHI")  # version, flags, name, bytes, ranges, bytes of form, bytes of descriptor
_SEAL = hashlib.sha256().digest_size
_PROMISED = 1
_MOST_FORM, _MOST_DESCRIPTOR = 1024, 64 << 10
_MOST_TEXT = 4 * (_HEAD.size + _MOST_FORM + _MOST_DESCRIPTOR + _SEAL) // 3 + 64


@dataclass(frozen=True)
class Ticket:
    """``form`` says in the caller's own words what lies in the ranges; both ends must agree on it. ``nbytes`` and
    ``ranges``: 0 where they were not known yet. ``promised``: the offer may be made later than its ticket."""

    descriptor: bytes
    name: bytes = field(default_factory=lambda: secrets.token_bytes(NAME_BYTES))
    nbytes: int = 0
    ranges: int = 0
    form: bytes = b""
    promised: bool = False

    def seal(self, secret: str) -> str:
        """The ticket as text. ``secret``: the cluster's."""
        if len(self.name) != NAME_BYTES:
            raise InvalidArgument(f"an offer's name has {NAME_BYTES} bytes, not {len(self.name)}")
        if len(self.form) > _MOST_FORM or len(self.descriptor) > _MOST_DESCRIPTOR:
            raise InvalidArgument(f"a ticket holds at most {_MOST_FORM} bytes of form")
        flags = _PROMISED if self.promised else 0
        head = _HEAD.pack(
            VERSION, flags, self.name, self.nbytes, self.ranges, len(self.form), len(self.descriptor)
        )
        body = head + self.form + self.descriptor
        text = base64.urlsafe_b64encode(body + _mac(secret, body)).decode().rstrip("=")
        return f"{_PREFIX}{VERSION}.{text}"

    @staticmethod
    def unseal(text: str, secret: str) -> Ticket:
        """Raises ProtocolError for what is no ticket, VersionMismatch for a later one's, AuthFailed for one that this
        cluster's secret did not seal."""
        data = _decode(text)
        body, seal = data[:-_SEAL], data[-_SEAL:]
        if not hmac.compare_digest(seal, _mac(secret, body)):
            raise AuthFailed(
                "the hand-off's ticket was not sealed by this cluster, or changed on its way: "
                "give producer and consumer the same cluster.secret"
            )
        version, flags, name, nbytes, ranges, form, descriptor = _HEAD.unpack_from(body)
        if version != VERSION or flags & ~_PROMISED:
            raise VersionMismatch(f"the hand-off's ticket says version {version}, flags {flags:#x}")
        if len(body) != _HEAD.size + form + descriptor or form > _MOST_FORM:
            raise ProtocolError("the hand-off's ticket does not hold what its head says")
        at = _HEAD.size + form
        return Ticket(body[at:], name, nbytes, ranges, body[_HEAD.size : at], bool(flags & _PROMISED))


def _mac(secret: str, body: bytes) -> bytes:
    return hmac.digest(secret.encode(), _DOMAIN + body, hashlib.sha256)


def _decode(text: str) -> bytes:
    if not isinstance(text, str) or not text.startswith(_PREFIX) or len(text) > _MOST_TEXT:
        raise ProtocolError(f"no ticket of a hand-off: {str(text)[:40]!r}")
    version, _, rest = text[len(_PREFIX) :].partition(".")
    if version != str(VERSION):
        raise VersionMismatch(
            f"the hand-off's ticket has version {version[:10]!r}, this TENT reads version {VERSION}: "
            "use one TENT version in a cluster"
        )
    try:
        data = base64.b64decode(rest + "=" * (-len(rest) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"the hand-off's ticket is no base64: {error}") from None
    if len(data) < _HEAD.size + _SEAL:
        raise ProtocolError("the hand-off's ticket is cut short")
    return data
