"""Loading the configuration: a file, then the caller's dict, then the environment; later layers win.

* file: TOML or JSON, named by the caller or by ``TENT_CONFIG``;
* dict: nested (``{"engine": {"spin_us": 0}}``) or flat (``{"engine.spin_us": 0}``). A serving engine's extra-config
  JSON is such a dict;
* environment: ``TENT_SECTION_KEY``, for example ``TENT_ENGINE_SPIN_US=0``.

Nothing is ignored: a key that does not exist is refused and the nearest one named.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tent_core.config.files import read_table
from tent_core.config.schema import SECTIONS, Config, Setting, StoreConfig, settings, show_value
from tent_core.config.values import Kind, format_size, parse_rates, read_value
from tent_core.errors import ConfigError

__all__ = ["load_config"]

Source = str | os.PathLike[str] | Mapping[str, Any] | Config | None

# Variables that are not settings: where the file is, and what only tests, demos and CI read.
_RESERVED = frozenset({"TENT_CONFIG"})
_RESERVED_PREFIXES = ("TENT_TEST_", "TENT_E2E_", "TENT_DEMO_", "TENT_CI_", "TENT_BENCH_")
# Kubernetes describes a service called "tent…" to every pod with such variables; they are not ours.
_SERVICE_NAME = re.compile(
    r"^TENT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_\w+)?)$"
)
_SERVICE_URL = re.compile(r"^(tcp|udp|sctp)://")


def load_config(source: Source = None, *, env: Mapping[str, str] | None = None) -> Config:
    """The configuration from ``source`` and the environment (``os.environ`` unless ``env`` is given).

    ``source`` is a path, a dict, None, or a `Config`, which is returned unchanged. Raises `ConfigError` naming the
    key, the value, where it came from and what would be right; secrets are never in the message.
    """
    if isinstance(source, Config):
        return source
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, raw, origin, from_text in _layers(source, env):
        values[key] = _read(key, raw, origin, from_text)
        origins[key] = origin
    _fit_extent(values, origins)
    config = _build(values, origins)
    _check_together(config)
    return config


def _fit_extent(values: dict[str, Any], origins: dict[str, str]) -> None:
    """A capacity below the default extent is one extent; an extent that somebody chose is never changed."""
    capacity = values.get("store.capacity", 0)
    least = settings()["store.extent"].low or 0
    if "store.extent" not in values and least <= capacity < StoreConfig.extent:
        values["store.extent"] = capacity
        origins["store.extent"] = "fitted to store.capacity"


def _layers(source: Source, env: Mapping[str, str]) -> Iterator[tuple[str, Any, str, bool]]:
    path = source if isinstance(source, str | os.PathLike) else env.get("TENT_CONFIG", "")
    if path:
        origin = f"file {os.fspath(path)}"
        for key, raw in _flatten(read_table(Path(path), "configuration file"), origin):
            yield key, raw, origin, False
    if isinstance(source, Mapping):
        for key, raw in _flatten(source, "argument"):
            yield key, raw, "argument", False
    elif source is not None and not isinstance(source, str | os.PathLike):
        raise ConfigError(f"a configuration is a path, a dict, a Config or None, not {type(source).__name__}")
    yield from _environment(env)


def _flatten(tree: Mapping[str, Any], origin: str) -> Iterator[tuple[str, Any]]:
    """Sections and dotted keys -> ``(section.key, raw)``, each known to the schema."""
    for name, value in tree.items():
        if not isinstance(name, str):
            raise ConfigError(f"a configuration key must be text, not {name!r} ({origin})")
        if name in SECTIONS:
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"'{name}' ({origin}) is a section: give it keys, such as {_first_key(name)}, not {value!r}"
                )
            for key, raw in value.items():
                yield _known(f"{name}.{key}", origin), raw
        else:
            yield _known(name, origin), value


def _first_key(section: str) -> str:
    return next(key for key in settings() if key.startswith(section + "."))


def _known(key: str, origin: str) -> str:
    if key in settings():
        return key
    raise ConfigError(f"unknown configuration key '{key}' ({origin}){_nearest(key)}")


def _nearest(key: str) -> str:
    known = list(settings())
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:
        # The right key in the wrong section, or a key without its section.
        last = {name: name.partition(".")[2] for name in known}
        match = difflib.get_close_matches(key.rpartition(".")[2], list(last.values()), n=1, cutoff=0.75)
        close = [name for name in known if match and last[name] == match[0]]
    if close:
        return f": did you mean '{close[0]}'?"
    return ": 'tent config' lists the keys there are"


def _environment(env: Mapping[str, str]) -> Iterator[tuple[str, Any, str, bool]]:
    by_variable = {variable_name(key): key for key in settings()}
    for variable in sorted(env):
        if (
            not variable.startswith("TENT_")
            or variable in _RESERVED
            or variable.startswith(_RESERVED_PREFIXES)
        ):
            continue
        key = by_variable.get(variable)
        if key is None and _SERVICE_NAME.match(variable):
            continue
        if variable.endswith("_PORT") and _SERVICE_URL.match(env[variable]):
            continue
        if key is None:
            close = difflib.get_close_matches(variable, list(by_variable), n=1, cutoff=0.6)
            hint = f": did you mean {close[0]}?" if close else ": 'tent config' lists the keys there are"
            raise ConfigError(f"unknown environment variable {variable}{hint}")
        yield key, env[variable], f"environment {variable}", True


def variable_name(key: str) -> str:
    """The environment variable of a key: ``engine.spin_us`` -> ``TENT_ENGINE_SPIN_US``."""
    return "TENT_" + key.replace(".", "_").upper()


def _shown(meta: Setting, raw: Any) -> str:
    if meta.secret:
        return "(not shown)"
    return show_value(meta, raw) if meta.url else repr(raw)


def _read(key: str, raw: Any, origin: str, from_text: bool) -> Any:
    meta = settings()[key]
    where = f"{key} = {_shown(meta, raw)} ({origin})"
    try:
        value = read_value(meta.kind, raw, meta.unit, from_text=from_text)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    if meta.choices and value not in meta.choices:
        close = difflib.get_close_matches(str(value), meta.choices, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{where}: choose one of {', '.join(meta.choices)}{hint}")
    if isinstance(value, int) and not isinstance(value, bool):
        _check_range(meta, value, where)
    return value


def _check_range(meta: Setting, value: int, where: str) -> None:
    write = format_size if meta.kind is Kind.size else str
    unit = f" {meta.unit}" if meta.unit and meta.kind is not Kind.size else ""
    if meta.low is not None and value < meta.low:
        raise ConfigError(f"{where}: must be at least {write(meta.low)}{unit}")
    if meta.high is not None and value > meta.high:
        raise ConfigError(f"{where}: must be at most {write(meta.high)}{unit}")


def _build(values: Mapping[str, Any], origins: Mapping[str, str]) -> Config:
    parts = {}
    for section, cls in SECTIONS.items():
        own = {item.name: values[key] for item in fields(cls) if (key := f"{section}.{item.name}") in values}
        parts[section] = cls(**own)
    return Config(**parts, origins=dict(origins))


def _check_together(config: Config) -> None:
    """Rules over more than one key."""
    engine = config.engine
    if engine.slice_min > engine.slice_max:
        raise _clash(config, "engine.slice_min", "engine.slice_max", "must not be larger than")
    if engine.heartbeat_ms * 3 > engine.session_lease_ms:
        raise _clash(config, "engine.heartbeat_ms", "engine.session_lease_ms", "must be at most a third of")
    if engine.idle_heartbeat_ms >= config.directory.node_ttl_ms:
        raise _clash(config, "engine.idle_heartbeat_ms", "directory.node_ttl_ms", "must be shorter than")
    if 0 < config.store.capacity < config.store.extent:
        raise _clash(config, "store.extent", "store.capacity", "must not be larger than")
    if config.cluster.secret and config.cluster.secret_file:
        raise ConfigError(
            f"both cluster.secret ({config.origin('cluster.secret')}) and cluster.secret_file "
            f"({config.origin('cluster.secret_file')}) are set: give one of them"
        )
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", config.cluster.id):
        raise _bad_name(config, "cluster.id", "1 to 64 letters, digits, '.', '_' or '-'")
    if not re.fullmatch(r"[A-Za-z0-9._:-]{0,128}", config.node.name):
        raise _bad_name(config, "node.name", "at most 128 letters, digits, '.', '_', ':' or '-'")
    if not re.fullmatch(r"[a-z0-9_]{0,15}", config.tcp.congestion):
        raise _bad_name(config, "tcp.congestion", "a name such as cubic, or nothing")
    _check_bind(config)
    try:
        parse_rates(config.rails.rates)
    except ValueError as error:
        raise ConfigError(f"rails.rates ({config.origin('rails.rates')}): {error}") from None


def _clash(config: Config, key: str, other: str, rule: str) -> ConfigError:
    meta = settings()
    return ConfigError(
        f"{key} = {show_value(meta[key], config.get(key))} ({config.origin(key)}) {rule} "
        f"{other} = {show_value(meta[other], config.get(other))} ({config.origin(other)})"
    )


def _bad_name(config: Config, key: str, form: str) -> ConfigError:
    return ConfigError(f"{key} = {config.get(key)!r} ({config.origin(key)}): expected {form}")


def _check_bind(config: Config) -> None:
    """Without a secret anyone could read the cache: only loopback may be listened on."""
    if config.cluster.secret or config.cluster.secret_file:
        return
    for name in config.node.bind:
        if name not in ("lo", "localhost") and not _is_loopback(name):
            raise ConfigError(
                f"node.bind = {name!r} ({config.origin('node.bind')}) is reachable from other hosts, and there is no "
                "secret: set cluster.secret_file, or bind 127.0.0.1"
            )


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
