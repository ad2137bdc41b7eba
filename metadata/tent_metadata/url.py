"""``directory.url``: what it may say, checked before anything is connected.

redis://[user:password@]host[:port][/db]          rediss://…   the same over TLS
unix://[user:password@]/path/to/socket[?db=N]
redis+cluster://host:port,host:port               rediss+cluster://…   (or redis://host:port?cluster=1)
redis+sentinel://host:port,host:port/service[/db] rediss+sentinel://…
embedded:///folder                                the embedded directory of that folder
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tent_core.errors import ConfigError

__all__ = ["Address", "Endpoint", "parse_url", "redacted"]

_TLS_OPTIONS = {
    "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname"
}  # fmt: skip
_OPTIONS = _TLS_OPTIONS | {"db", "cluster", "service", "sentinel_username", "sentinel_password"}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path")
_SCHEMES = {
    "redis": ("standalone", False),
    "rediss": ("standalone", True),
    "unix": ("standalone", False),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "embedded": ("embedded", False),
}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where one server listens: a host and port, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True)
class Address:
    """A parsed ``directory.url``. ``repr`` hides the passwords."""

    kind: str  # standalone, cluster, sentinel or embedded
    endpoints: tuple[Endpoint, ...]
    shown: str  # the URL with its password hidden
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    db: int = 0
    tls: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)
    service: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = dataclasses.field(default=None, repr=False)


def redacted(url: str) -> str:
    """The URL with every password in it replaced by ``***``."""
    head, separator, rest = url.partition("://")
    if not separator:
        return url if "@" not in url else "***@" + url.rpartition("@")[2]
    body, question, query = rest.partition("?")
    authority, at, place = body.rpartition("@")
    if at:
        user = authority.partition(":")[0]
        body = f"{user}:***@{place}" if ":" in authority else f"***@{place}"
    pairs = [pair.split("=", 1) for pair in query.split("&")] if question else []
    shown = "&".join("=".join([p[0], "***"] if "password" in p[0].lower() else p) for p in pairs)
    return f"{head}://{body}{question}{shown}"


def parse_url(url: str) -> Address:
    """The address in ``url``. Raises ConfigError, naming directory.url and what is wrong with it."""
    shown = redacted(url)
    scheme = url.partition("://")[0].lower()
    if "://" not in url or scheme not in _SCHEMES:
        raise _wrong(shown, f"the scheme must be one of {', '.join(s + '://' for s in _SCHEMES)}")
    kind, tls = _SCHEMES[scheme]
    parts = _split(url)
    options = _options(parts.query, shown)
    cluster = options.pop("cluster", None)
    if cluster is not None and _flag(cluster, "cluster", shown):
        if scheme not in ("redis", "rediss"):
            raise _wrong(shown, "the option 'cluster' belongs to redis:// and rediss://")
        kind = "cluster"
    username, password = _credentials(parts, shown)
    place = parts.netloc.rpartition("@")[2]
    segments = [unquote(part) for part in parts.path.split("/") if part]
    if scheme in ("unix", "embedded"):
        if place or not parts.path:
            raise _wrong(shown, f"write {scheme}:///absolute/path, with three slashes")
        endpoints: tuple[Endpoint, ...] = (Endpoint(path=unquote(parts.path)),)
        segments = []
    else:
        default = 26379 if kind == "sentinel" else 6379
        endpoints = tuple(_endpoint(one, default, shown) for one in place.split(","))
    if kind == "standalone" and len(endpoints) > 1:
        raise _wrong(shown, "several hosts need redis+cluster:// or redis+sentinel://")
    service = options.pop("service", "") or (segments.pop(0) if kind == "sentinel" and segments else "")
    if (kind == "sentinel") != bool(service):
        raise _wrong(shown, "redis+sentinel://host:port/SERVICE names the service, and only it does")
    db = _database(options.pop("db", segments.pop(0) if segments else "0"), shown)
    if segments or (kind == "cluster" and db):
        raise _wrong(
            shown, "a cluster has database 0 alone" if kind == "cluster" else "its path has too many parts"
        )
    return Address(
        kind=kind, endpoints=endpoints, shown=shown, username=username, password=password, db=db,
        service=service, sentinel_username=options.pop("sentinel_username", None),
        sentinel_password=options.pop("sentinel_password", None), tls=_tls(options, tls, shown),
    )  # fmt: skip


class _Parts(NamedTuple):
    netloc: str
    path: str
    query: str


def _split(url: str) -> _Parts:
    """As urlsplit does, which in newer Pythons refuses an IPv6 address that is one of several hosts."""
    rest, _, query = url.partition("://")[2].partition("#")[0].partition("?")
    netloc, slash, path = rest.partition("/")
    return _Parts(netloc, slash + path, query)


def _wrong(shown: str, why: str) -> ConfigError:
    return ConfigError(f"directory.url = {shown!r}: {why}")


def _options(query: str, shown: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, 1)
            raise _wrong(shown, f"unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if name in found:
            raise _wrong(shown, f"the option {name!r} is there twice")
        found[name] = value
    return found


def _credentials(parts: _Parts, shown: str) -> tuple[str | None, str | None]:
    username, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    if username and not colon:
        raise _wrong(shown, "a user without a password (a password alone is written redis://:PASSWORD@host)")
    return (unquote(username) or None, unquote(password) or None) if colon else (None, None)


def _endpoint(text: str, default_port: int, shown: str) -> Endpoint:
    try:
        parts = urlsplit("//" + text)
        port = parts.port
    except ValueError as error:
        raise _wrong(shown, str(error)) from None
    if not parts.hostname:
        raise _wrong(shown, "it names no host")
    if port == 0:
        raise _wrong(shown, "port 0 cannot be connected to")
    return Endpoint(host=unquote(parts.hostname), port=port or default_port)


def _database(text: str, shown: str) -> int:
    if not text.isdigit() or len(text) > 5:
        raise _wrong(shown, f"the database must be a small number, not {text!r}")
    return int(text)


def _flag(text: str, name: str, shown: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise _wrong(shown, f"the option {name!r} takes 1 or 0, not {text!r}")


def _tls(options: dict[str, str], wanted: bool, shown: str) -> dict[str, Any] | None:
    if not wanted:
        if options:
            raise _wrong(shown, f"the option {min(options)!r} needs TLS: write rediss://")
        return None
    tls: dict[str, Any] = dict(options)
    for name in _FILES:
        if name in tls and not os.path.exists(tls[name]):
            raise _wrong(shown, f"{name}: there is no {tls[name]!r}")
    if tls.get("ssl_cert_reqs", "required") not in ("required", "optional", "none"):
        raise _wrong(shown, "ssl_cert_reqs must be required, optional or none")
    if "ssl_check_hostname" in tls:
        tls["ssl_check_hostname"] = _flag(tls["ssl_check_hostname"], "ssl_check_hostname", shown)
    return tls
