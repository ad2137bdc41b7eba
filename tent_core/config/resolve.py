"""What the native engine is given: the schema's values, with what is left empty filled in.

The one place that reads secrets from files. Where no secret is configured, the user's own key is used: a file that
only the user can read, made on first use, so that two processes of one user find each other without set-up and no
other user's process gets in.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from tent_core.config.environment import state_home
from tent_core.config.schema import Config, NativeValue, settings
from tent_core.config.values import parse_rates
from tent_core.errors import ConfigError

__all__ = ["has_configured_secret", "native_values", "resolve_secret", "user_key_path"]

_MAX_SECRET = 4096


def has_configured_secret(config: Config) -> bool:
    """True when the configuration names a secret, so that TENT may listen beyond loopback."""
    return bool(config.cluster.secret or config.cluster.secret_file)


def user_key_path() -> Path:
    """Where the user's own key lies: ``$XDG_STATE_HOME/tent/key``, or ``~/.local/state/tent/key``."""
    return state_home() / "tent" / "key"


def resolve_secret(config: Config) -> str:
    """The secret of the cluster. Raises ConfigError when its file is missing, empty or readable by others."""
    if config.cluster.secret:
        return config.cluster.secret
    if config.cluster.secret_file:
        origin = config.origin("cluster.secret_file")
        return _read_private(Path(config.cluster.secret_file), f"cluster.secret_file ({origin})")
    path = user_key_path()
    if not path.exists():
        _make_key(path)
    return _read_private(path, "the user's own key")


def _read_private(path: Path, what: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as stream:
        state = os.fstat(stream.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ConfigError(f"{what}: {path} is not a regular file")
        if state.st_uid not in (os.geteuid(), 0):
            raise ConfigError(f"{what}: {path} belongs to user {state.st_uid}, not to this process's user")
        if state.st_mode & 0o077:
            raise ConfigError(f"{what}: {path} can be read by others: chmod 600 {path}")
        data = stream.read(_MAX_SECRET + 1)
    try:
        secret = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        secret = ""
    if not secret or len(data) > _MAX_SECRET:
        raise ConfigError(f"{what}: {path} must hold one line of text, at most {_MAX_SECRET} bytes")
    return secret


def _make_key(path: Path) -> None:
    """Make the user's key. Linking a finished file in makes it whole at once, and the first of several makers wins."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".key-")
        try:
            with os.fdopen(descriptor, "w") as stream:
                stream.write(secrets.token_hex(32) + "\n")
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
        finally:
            os.unlink(draft)
    except OSError as error:
        raise ConfigError(
            f"cannot make the user's own key {path}: {error.strerror}: set cluster.secret_file, or XDG_STATE_HOME to a "
            "folder that can be written"
        ) from None


def native_values(config: Config) -> dict[str, NativeValue]:
    """See `Config.native`."""
    from tent_core.topology.host import host_identity

    values: dict[str, NativeValue] = {}
    for key in settings():
        value = config.get(key)
        values[key] = list(value) if isinstance(value, tuple) else value
    values["cluster.secret"] = resolve_secret(config)
    values["node.host_identity"] = config.node.host_identity or host_identity()
    values["node.bind"] = _addresses(config)
    values["rails.rates"] = parse_rates(config.rails.rates)
    return values


def _addresses(config: Config) -> list[str]:
    """What to listen on, one address a rail: interfaces by name become their first address. Empty: the engine looks
    for rails itself, and keeps looking."""
    from tent_core.topology.host import interfaces

    if not config.node.bind:
        return [] if has_configured_secret(config) else ["127.0.0.1"]
    by_name = {item.name: item.addresses[0] for item in interfaces()}
    return [
        by_name.get(name, "127.0.0.1" if name == "localhost" else name.strip("[]"))
        for name in config.node.bind
    ]
