"""The embedded directory: a private Redis for the TENT processes of one user on one host.

The first process starts it, an owner-only folder holds its unix socket, and a watchdog ends it when the last process
that uses it is gone, however that process ended. `member` says how they agree on all that.
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import quote

from tent_metadata.embedded import watchdog
from tent_metadata.embedded.member import Membership, join
from tent_metadata.url import parse_url

__all__ = ["Membership", "embedded_secret", "join", "plain_url"]


class _Where(Protocol):
    @property
    def url(self) -> str: ...
    @property
    def embedded_dir(self) -> str: ...


def embedded_secret(config: _Where) -> str:
    """The secret shared by this user's processes on this host; "" when ``config.url`` names another directory.

    Starts or joins the embedded directory: the secret lives as long as anyone uses that, and this process counts as a
    user of it until it closes the last Directory opened on it, or ends. Raises as `tent_metadata.open_directory` does.
    """
    folder = config.embedded_dir
    if config.url:
        address = parse_url(config.url)
        if address.kind != "embedded":
            return ""
        folder = address.endpoints[0].path
    return join(folder, keep=True).secret()


def plain_url(url: str) -> str:
    """A directory's URL as redis-py itself takes it, password included, for tools that look at the server directly.

    ``url``: a directory's ``url``; the embedded directory must be running. A cluster's or sentinel's stays as it is.
    """
    if not url.startswith("embedded://"):
        return url
    folder = parse_url(url).endpoints[0].path
    return f"unix://:{watchdog.read_secret(folder)}@{quote(folder)}/{watchdog.SOCKET}"
