"""What directory.url may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tent_core.errors import ConfigError
from tent_metadata import redacted
from tent_metadata.url import Endpoint, parse_url


@pytest.mark.parametrize(
    ("url", "kind", "endpoints", "more"),
    [
        ("redis://h", "standalone", [Endpoint("h", 6379)], {}),
        ("redis://:p%40ss@h:1/3", "standalone", [Endpoint("h", 1)], {"password": "p@ss", "username": None, "db": 3}),
        ("redis://u:p@[::1]:7", "standalone", [Endpoint("::1", 7)], {"username": "u"}),
        ("unix:///run/r.sock?db=2", "standalone", [Endpoint(path="/run/r.sock")], {"db": 2}),
        ("unix://:secret@/run/r.sock", "standalone", [Endpoint(path="/run/r.sock")], {"password": "secret"}),
        ("rediss://h?ssl_cert_reqs=none", "standalone", [Endpoint("h", 6379)], {"tls": {"ssl_cert_reqs": "none"}}),
        ("redis://h:1?cluster=1", "cluster", [Endpoint("h", 1)], {"tls": None}),
        ("redis+cluster://a:1,b:2,[::1]", "cluster", [Endpoint("a", 1), Endpoint("b", 2), Endpoint("::1", 6379)], {}),
        ("redis+sentinel://a,b:2/mine/4", "sentinel", [Endpoint("a", 26379), Endpoint("b", 2)],
         {"service": "mine", "db": 4}),
        ("rediss+sentinel://:x@a/m?sentinel_password=y", "sentinel", [Endpoint("a", 26379)],
         {"password": "x", "sentinel_password": "y", "tls": {}}),
        ("embedded:///run/user/1000/tent", "embedded", [Endpoint(path="/run/user/1000/tent")], {}),
    ],
)  # fmt: skip
def test_forms(url: str, kind: str, endpoints: list[Endpoint], more: dict[str, object]) -> None:
    address = parse_url(url)
    assert (address.kind, list(address.endpoints)) == (kind, endpoints)
    assert {name: getattr(address, name) for name in more} == more


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:6379", "scheme"),
        ("http://h", "scheme"),
        ("redis://", "no host"),
        ("redis://h:0", "port 0"),
        ("redis://h:99999", "[Pp]ort"),
        ("redis://h:x", "[Pp]ort"),
        ("redis://user@h", "without a password"),
        ("redis://h/one", "database"),
        ("redis://h/1/2", "too many parts"),
        ("redis://a,b", "redis\\+cluster"),
        ("redis+cluster://a/1", "database 0"),
        ("redis+sentinel://a", "SERVICE"),
        ("redis://h?service=x", "SERVICE"),
        ("unix://relative/path", "three slashes"),
        ("redis://h?socket_timeout=1", "unknown option"),
        ("rediss://h?ssl_ca_cert=/x", "did you mean 'ssl_ca_certs'"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "/no/such/file"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=perhaps", "ssl_check_hostname"),
        ("redis://h?ssl_cert_reqs=none", "rediss://"),
        ("redis://h?db=1&db=2", "twice"),
        ("redis+cluster://h?cluster=1", "cluster"),
    ],
)
def test_mistakes_are_named(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_url(url)
    assert "directory.url" in str(caught.value)


def test_passwords_are_never_shown(tmp_path: Path) -> None:
    url = "redis+sentinel://user:s3cret@a,b/mine?sentinel_password=s3cret2"
    address = parse_url(url)
    assert "s3cret" not in address.shown
    assert "s3cret" not in repr(address)
    assert redacted(url) == "redis+sentinel://user:***@a,b/mine?sentinel_password=***"
    assert redacted("redis://a@b:s3cret@h") == "redis://a@b:***@h"
    with pytest.raises(ConfigError) as caught:
        parse_url("redis://u:s3cret@h:notaport")
    assert "s3cret" not in str(caught.value)
    (tmp_path / "ca").write_text("x")
    assert parse_url(f"rediss://h?ssl_ca_certs={tmp_path}/ca").tls == {"ssl_ca_certs": f"{tmp_path}/ca"}
