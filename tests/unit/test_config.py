from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tent_core.config import (
    Config,
    format_size,
    load_config,
    parse_size,
    resolve_secret,
    settings,
    variable_name,
)
from tent_core.config.resolve import user_key_path
from tent_core.errors import ConfigError, InvalidArgument

SECRET = "correct horse battery staple"


def test_layers_file_dict_environment(tmp_path: Path) -> None:
    file = tmp_path / "tent.toml"
    file.write_text('[engine]\nspin_us = 1\ndeadline_ms = 1000\n[store]\ncapacity = "2GiB"\n')
    env = {"TENT_CONFIG": str(file), "TENT_ENGINE_DEADLINE_MS": "3000"}
    config = load_config({"engine": {"spin_us": 2, "deadline_ms": 2000}}, env=env)
    assert (config.engine.spin_us, config.engine.deadline_ms, config.store.capacity) == (2, 3000, 2 << 30)
    assert config.origin("engine.spin_us") == "argument"
    assert config.origin("engine.deadline_ms") == "environment TENT_ENGINE_DEADLINE_MS"
    assert config.origin("store.capacity") == f"file {file}"
    assert config.origin("tcp.enabled") == "default"


def test_file_by_path_json_and_toml_agree(tmp_path: Path) -> None:
    tree = {"log": {"level": "debug"}, "node": {"bind": ["127.0.0.1", "::1"]}, "tcp": {"enabled": False}}
    (tmp_path / "a.json").write_text(json.dumps(tree))
    (tmp_path / "a.toml").write_text(
        '[log]\nlevel = "debug"\n[node]\nbind = ["127.0.0.1", "::1"]\n[tcp]\nenabled = false\n'
    )
    configs = [load_config(str(tmp_path / name), env={}) for name in ("a.json", "a.toml")]
    assert configs[0] == configs[1] == load_config(tree, env={})
    assert configs[0].node.bind == ("127.0.0.1", "::1")


def test_a_config_is_passed_through_and_immutable() -> None:
    config = load_config({"engine.spin_us": 3}, env={})
    assert load_config(config, env={"TENT_ENGINE_SPIN_US": "9"}) is config
    with pytest.raises(AttributeError):
        config.engine.spin_us = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"engine": {"spn_us": 1}}, ["engine.spn_us", "argument", "did you mean 'engine.spin_us'"]),
        ({"spin_us": 1}, ["did you mean 'engine.spin_us'"]),
        ({"store": {"timeout_ms": 1}}, ["did you mean", "timeout_ms"]),
        ({"qqqqqq": 1}, ["qqqqqq", "tent config"]),
        ({"engine": 3}, ["section", "engine."]),
        ({"store": {"capacity": "1Gig"}}, ["store.capacity", "1Gig", "64MiB"]),
        ({"store": {"capacity": -1}}, ["store.capacity", "-1", "at least 0"]),
        ({"store": {"capacity": True}}, ["store.capacity", "size"]),
        ({"node": {"port": 65536}}, ["node.port", "65536", "at most 65535"]),
        ({"node": {"port": 1.5}}, ["node.port", "whole number"]),
        ({"node": {"port": "80"}}, ["node.port", "without quotes"]),
        ({"engine": {"deadline_ms": "1us"}}, ["engine.deadline_ms", "whole number of ms"]),
        ({"tcp": {"enabled": "yes"}}, ["tcp.enabled", "true or false"]),
        ({"log": {"level": "warn"}}, ["log.level", "did you mean warning"]),
        ({"cluster": {"id": "a b"}}, ["cluster.id", "a b"]),
        ({"engine": {"slice_min": "8MiB"}}, ["engine.slice_min", "8MiB", "engine.slice_max", "4MiB"]),
        ({"engine": {"session_lease_ms": 100, "heartbeat_ms": 50}}, ["engine.heartbeat_ms", "third"]),
        ({"store": {"capacity": "8MiB", "extent": "16MiB"}}, ["store.extent", "store.capacity"]),
        ({"node": {"bind": "192.0.2.1"}}, ["node.bind", "192.0.2.1", "cluster.secret_file"]),
        ({"cluster": {"secret": "a", "secret_file": "b"}}, ["cluster.secret", "one of them"]),
        (7, ["path, a dict"]),
    ],
)
def test_mistakes_are_named_with_their_fix(source: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(source, env={})
    assert isinstance(caught.value, InvalidArgument)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"TENT_ENGINE_SPN_US": "1"}, ["TENT_ENGINE_SPN_US", "did you mean TENT_ENGINE_SPIN_US"]),
        ({"TENT_TCP_ENABLED": "perhaps"}, ["tcp.enabled", "environment TENT_TCP_ENABLED"]),
        ({"TENT_CONFIG": "/nonexistent/tent.toml"}, ["/nonexistent/tent.toml", "No such file"]),
    ],
)
def test_mistakes_in_the_environment(env: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(env=env)
    for word in words:
        assert word in str(caught.value)


def test_variables_of_a_kubernetes_service_called_tent_are_not_ours() -> None:
    env = {
        "TENT_SERVICE_HOST": "10.0.0.1",
        "TENT_SERVICE_PORT": "80",
        "TENT_PORT": "tcp://10.0.0.1:80",
        "TENT_PORT_80_TCP_ADDR": "10.0.0.1",
        "TENT_NODE_PORT": "tcp://10.0.0.1:80",
        "TENT_REDIS_SERVICE_PORT_CLIENT": "6379",
    }
    assert load_config(env=env) == Config()


@pytest.mark.parametrize("content", ["not toml =", "[engine]\nspin_us = 1\n[engine]\n", "\xff"])
def test_broken_files(content: str, tmp_path: Path) -> None:
    file = tmp_path / "tent.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"tent\.toml"):
        load_config(str(file), env={})


def test_every_setting_can_be_set_from_each_source() -> None:
    for key in settings():
        value = Config().get(key)
        raw = list(value) if isinstance(value, tuple) else value
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        from_dict = load_config({key: raw}, env={})
        from_env = load_config(env={variable_name(key): text})
        assert from_dict.get(key) == from_env.get(key) == value
        assert from_dict.origin(key) == "argument"


@pytest.mark.parametrize("url", ["redis://user:hunter2@host:6379/0", "rediss://:hunter2@host"])
def test_secrets_are_never_printed(url: str, tmp_path: Path) -> None:
    config = load_config({"cluster.secret": SECRET, "directory.url": url}, env={})
    shown = f"{config!r} {config.effective()}"
    assert SECRET not in shown
    assert "hunter2" not in shown
    assert "host" in shown
    for bad in ({"cluster": {"secret": [SECRET]}}, {"directory": {"url": [url]}}):
        with pytest.raises(ConfigError) as caught:
            load_config(bad, env={})
        assert SECRET not in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_native_gets_the_secret_and_numbers() -> None:
    native = load_config({"cluster.secret": SECRET, "store.capacity": "2MiB"}, env={}).native()
    assert native["cluster.secret"] == SECRET
    assert native["store.capacity"] == 2 << 20
    assert native["node.host_identity"]
    assert set(native) == set(settings())


def test_native_lists_addresses_to_listen_on() -> None:
    def bound(**values: Any) -> Any:
        return load_config({"node": values, "cluster": {"secret": SECRET}}, env={}).native()["node.bind"]

    assert bound() == [], "the engine looks for rails itself"
    assert bound(bind="lo,[::1], localhost") == ["127.0.0.1", "::1", "127.0.0.1"]
    assert load_config(env={}).native()["node.bind"] == ["127.0.0.1"]


def test_rates_of_rails() -> None:
    native = load_config({"rails.rates": "eth0=25Gbit, ib0=800Mbit"}, env={}).native()
    assert native["rails.rates"] == {"eth0": 3_125_000_000, "ib0": 100_000_000}
    for wrong in ("eth0", "eth0=fast", "eth0=0Gbit", "=1Gbit"):
        with pytest.raises(ConfigError, match=r"rails\.rates.*eth0=25Gbit"):
            load_config({"rails.rates": wrong}, env={})


def test_secret_file_must_be_private(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    config = load_config({"cluster.secret_file": str(file)}, env={})
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        resolve_secret(config)
    file.chmod(0o600)
    assert resolve_secret(config) == SECRET
    file.write_text("")
    with pytest.raises(ConfigError, match="one line"):
        resolve_secret(config)
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        resolve_secret(config)
    os.mkfifo(file, 0o600)
    with pytest.raises(ConfigError, match="regular file"):
        resolve_secret(config)


def test_users_key_is_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = load_config(env={}).native()
    assert first == load_config(env={}).native()
    assert len(str(first["cluster.secret"])) == 64
    assert first["node.bind"] == ["127.0.0.1"], "the user's key alone must not open other interfaces"
    assert stat.S_IMODE(user_key_path().stat().st_mode) == 0o600
    assert [path.name for path in user_key_path().parent.iterdir()] == ["key"]


def test_a_key_that_cannot_be_made_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="XDG_STATE_HOME"):
        load_config(env={}).native()


def test_default_extent_fits_a_small_capacity() -> None:
    config = load_config({"store.capacity": "32MiB"}, env={})
    assert config.store.extent == 32 << 20
    assert config.origin("store.extent") == "fitted to store.capacity"


@given(st.integers(min_value=0, max_value=1 << 50))
def test_sizes_survive_being_written(value: int) -> None:
    assert parse_size(format_size(value)) == value


@given(st.text(max_size=12))
def test_any_text_as_a_size_is_a_number_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError:
        pass


def test_no_setting_is_a_dead_knob() -> None:
    """Every setting is read by something: natively by its name, or in Python as an attribute of its section."""
    root = Path(__file__).resolve().parents[2]
    native = "".join(path.read_text(encoding="utf-8") for path in (root / "csrc").rglob("*.cpp"))
    folders = [root / name for name in ("tent_core", "metadata", "connectors")]
    files = [path for folder in folders for path in folder.rglob("*.py") if "config" not in path.parts]
    python = "".join(path.read_text(encoding="utf-8") for path in files)
    resolved = (root / "tent_core/config/resolve.py").read_text(encoding="utf-8")
    dead = []
    for key in settings():
        section, _, name = key.partition(".")
        used = f'"{key}"' in native or f".{key}" in python or f"config.{key}" in resolved
        # The directory and the connectors are handed their section alone.
        if not used and not (section == "directory" and f".{name}" in python):
            dead.append(key)
    assert not dead
