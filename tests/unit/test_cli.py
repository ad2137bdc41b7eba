"""The command line, run as a user runs it: a process, its output and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tent_core.cli.checks import directory, engines, host, transports
from tent_core.cli.checks.finding import BROKEN, INFO, WEAK
from tent_core.cli.columns import columns
from tent_core.config import load_config, user_key_path


def tent(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tent_core.cli", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("command", [[], ["demo"], ["doctor"], ["config"], ["bench"]])
def test_help(command: list[str]) -> None:
    done = tent(*command, "--help")
    assert done.returncode == 0
    assert "usage: tent" in done.stdout


def test_version() -> None:
    done = tent("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("tent ")


def test_config_shows_values_and_origins() -> None:
    done = tent("config", "--json", TENT_ENGINE_SPIN_US="7", TENT_CLUSTER_SECRET="hunter2")
    shown = json.loads(done.stdout)
    assert shown["engine.spin_us"] == {
        "value": "7",
        "origin": "environment TENT_ENGINE_SPIN_US",
        "unit": "us",
    }
    assert shown["tcp.congestion"]["origin"] == "default"
    assert "hunter2" not in done.stdout
    changed = tent("config", "--changed", TENT_ENGINE_SPIN_US="7").stdout.splitlines()
    assert [line.split()[0] for line in changed] == ["key", "engine.spin_us"]


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (["config"], {"TENT_LOG_LEVEL": "wrn"}, "did you mean warning?"),
        (["config"], {"TENT_ENGNE_SPIN_US": "1"}, "did you mean TENT_ENGINE_SPIN_US?"),
        (["config", "/nonexistent.toml"], {}, "/nonexistent.toml"),
        (["demo", "--engine", "tgi"], {}, "invalid choice"),
        (["demo", "--fast", "--bytes", "1Gig"], {}, "64MiB"),
        (["bench", "disk"], {}, "invalid choice"),
        (["bench", "memory", "--rivals", "/nonexistent"], {}, "/nonexistent: there is no such Python"),
        (["dotcor"], {}, "invalid choice"),
    ],
)
def test_mistakes_end_with_a_line_and_no_traceback(
    arguments: list[str], env: dict[str, str], words: str
) -> None:
    done = tent(*arguments, **env)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_reports_and_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = tent("doctor", "--json", "--no-engines")
    report = json.loads(done.stdout)
    areas = {item["area"] for item in report["findings"]}
    assert areas == {"config", "transports", "limits", "directory"}
    broken = [item for item in report["findings"] if item["state"] == BROKEN]
    assert report["ok"] == (not broken)
    assert done.returncode == (1 if broken else 0)
    assert all(item["fix"] for item in broken), broken
    assert not user_key_path().exists(), "the doctor must not make the user's key"


def test_doctor_names_a_broken_setting_and_goes_on() -> None:
    done = tent("doctor", "--no-engines", TENT_STORE_CAPACITY="lots")
    assert done.returncode == 1
    assert "store.capacity = 'lots'" in done.stdout
    assert "redis-py" in done.stdout


def test_doctor_says_when_the_directory_does_not_answer() -> None:
    config = load_config({"directory.url": "redis://user:hunter2@127.0.0.1:1/0"}, env={})
    finding = directory.check(config)[0]
    assert finding.state == BROKEN
    assert "127.0.0.1:1" in finding.detail
    assert "hunter2" not in finding.detail
    assert "directory.url" in finding.fix


def test_doctor_without_any_server_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(directory.importlib.util, "find_spec", lambda name: None)
    finding = directory.check(load_config(env={}))[0]
    assert finding.state == BROKEN
    assert "apt-get install redis-server" in finding.fix


def test_doctor_passes_over_a_server_that_is_too_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\necho Redis server v=6.0.16 sha=0 malloc=libc bits=64 build=0\n")
    binary.chmod(0o755)
    assert directory.server_version(str(binary)) == (6, 0, 16)
    monkeypatch.setattr(
        directory.shutil, "which", lambda name: str(binary) if name == "redis-server" else None
    )
    monkeypatch.setattr(directory.importlib.util, "find_spec", lambda name: None)
    finding = directory.check(load_config(env={}))[0]
    assert finding.state == BROKEN
    assert "6.0.16 is older than 6.2" in finding.detail


def test_doctor_sees_that_the_capacity_does_not_fit() -> None:
    findings = host.check(load_config({"store.capacity": "900TiB"}, env={}))
    memory = next(item for item in findings if item.name == "memory")
    assert memory.state == BROKEN
    assert "TENT_STORE_CAPACITY=" in memory.fix


def test_doctor_looks_at_the_congestion_control() -> None:
    findings = transports.check(load_config({"tcp.congestion": "nosuch"}, env={}))
    tcp = next(item for item in findings if item.name == "tcp")
    assert tcp.state == WEAK
    assert "nosuch" in tcp.detail
    off = transports.check(load_config({"tcp.enabled": False}, env={}))
    assert next(item for item in off if item.name == "tcp").state == INFO


def test_doctor_survives_an_engine_that_crashes_on_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "vllm.py").write_text("import os\nprint('half of it')\nos.kill(os.getpid(), 11)\n")
    (tmp_path / "sglang.py").write_text("raise ImportError('libcudart.so.99: cannot open')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {item.name: item for item in engines.check(load_config(env={}))}
    assert found["vLLM"].state == found["SGLang"].state == BROKEN
    assert "libcudart.so.99" in found["SGLang"].detail


def test_columns_align() -> None:
    assert columns([("a", "bb"), ("ccc", "")]) == "a    bb\nccc"
