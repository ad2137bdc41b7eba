"""How rivals are measured, with a stand-in for one: none has to be installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tent_core.cli.bench_command import load
from tent_core.errors import InvalidArgument

host = load("rivals.host")
common = load("common")
report = load("report")
STAND_IN = str(Path(__file__).resolve().parents[1] / "support" / "rival.py")


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _stopped(pid: int) -> bool:
    """Whether it is stopped, within a time that no signal takes."""
    deadline = time.monotonic() + 10
    while _state(pid) != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    return _state(pid) == "T"


def test_a_rival_measures_every_command() -> None:
    with host.Rival(STAND_IN, "good") as rival:
        assert rival.version
        for op in ("write", "read"):
            for size, count, ranges in ((4096, 50, 1), (4096, 5, 128), (1 << 20, 8, 1), (64 << 20, 1, 1)):
                assert rival.timed(op, size, count, ranges) > 0
                assert rival.timed(op, size, count, ranges) > 0, "the way that was chosen is kept"
            median, high = rival.latency(op, 4096, 50)
            assert 0 < median <= high


def test_a_rival_is_stopped_while_it_is_not_asked() -> None:
    with host.Rival(STAND_IN, "good") as rival:
        pid = rival._process.pid
        owner = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        assert _stopped(pid)
        assert _stopped(owner)
        rival.timed("write", 4096, 10)
        assert _stopped(pid)
        assert _stopped(owner)


@pytest.mark.parametrize(
    "command", [("write", 0, 1), ("read", 1 << 40, 1), ("put", 4096, -1), ("sing", 1, 1), ("write", "x", 1)]
)
def test_a_command_that_makes_no_sense_is_answered(command: tuple[Any, ...]) -> None:
    with host.Rival(STAND_IN, "good") as rival:
        with pytest.raises(host.Absent, match="error: "):
            rival.ask(*command)
        assert rival.timed("write", 4096, 10) > 0, "it is still there"


@pytest.mark.parametrize(
    ("setup", "reason"), [("lies", "have changed"), ("orphan", "ended before it was ready")]
)
def test_a_rival_that_does_not_work_is_absent(setup: str, reason: str) -> None:
    with pytest.raises(host.Absent, match=reason):
        with host.Rival(STAND_IN, setup):
            pass


def test_a_rival_that_is_not_installed_is_absent(tmp_path: Path) -> None:
    adaptor = tmp_path / "with_ghost.py"
    adaptor.write_text("MODULES = ('tent_ghost',)\n")
    with pytest.raises(host.Absent, match="ghost: not installed for "):
        with host.Rival(str(adaptor), "good"):
            pass


def test_an_adaptor_that_does_not_load_says_its_last_words(tmp_path: Path) -> None:
    adaptor = tmp_path / "with_ghost.py"
    adaptor.write_text("raise ImportError('libghost.so.1: cannot open')\n")
    with pytest.raises(host.Absent, match=r"libghost\.so\.1"):
        with host.Rival(str(adaptor), "good"):
            pass


def test_an_error_of_a_rival_comes_in_one_line() -> None:
    with host.Rival(STAND_IN, "refuses") as rival:
        with pytest.raises(host.Absent, match="OSError: reads are not for sale"):
            rival.timed("read", 8192, 10)


def test_a_rival_that_hangs_is_ended() -> None:
    with host.Rival(STAND_IN, "hangs", answer_s=1) as rival:
        with pytest.raises(host.Absent, match="did not answer within 1 s"):
            rival.timed("write", 8192, 10)


def test_a_stopped_rival_does_not_outlive_whoever_asked() -> None:
    program = f"""
import time
from tent_core.cli.bench_command import load
with load("rivals.host").Rival({STAND_IN!r}, "good") as rival:
    print(rival._process.pid, flush=True)
    time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as asker:
        assert asker.stdout is not None
        pid = int(asker.stdout.readline())
        assert _stopped(pid)
        asker.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}/cmdline") and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.01)


class _Ours:
    """A caller of which every answer is known."""

    def timed(self, op: str, nbytes: int, count: int, ranges: int = 1) -> float:
        return 1.0

    def latency(self, op: str, nbytes: int, count: int) -> tuple[float, float]:
        return 10.0, 20.0


class _Known(_Ours):
    version = "1.2"

    def __init__(self, name: str, setup: str, python: str | None) -> None:
        if name == "mooncake":
            raise host.Absent("mooncake: not installed for python3")

    def __enter__(self) -> _Known:
        return self

    def __exit__(self, *error: object) -> None: ...

    def timed(self, op: str, nbytes: int, count: int, ranges: int = 1) -> float:
        return 3.0

    def latency(self, op: str, nbytes: int, count: int) -> tuple[float, float]:
        return 40.0, 50.0


def test_figures_beside_rivals_have_the_names_that_are_aimed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "Rival", _Known)
    for kind, prefix in (("memory", "shm_"), ("tcp", "")):
        made = common.Report(kind)
        host.beside(made, prefix, kind, _Ours(), None, True)
        aimed = {name for name, target in common.targets(kind).items() if target.get("rival") == "nixl"}
        assert aimed
        assert aimed <= set(made.ratios)
        assert made.ratios[f"{prefix}read_64MiB_vs_nixl"] == 3.0, "ours is three times as fast"
        assert made.ratios[f"{prefix}read_4KiB_latency_vs_nixl"] == 0.25, "ours takes a quarter of the time"
        assert not any("mooncake" in name for name in made.ratios)
        assert any("mooncake: not installed" in note for note in made.notes)
        reached = {row[0]: row[1] for row in made.lines()}
        assert all(
            reached[name] == "not measured" for name in common.targets(kind) if name.endswith("_vs_mooncake")
        )


def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds that measure nothing, and one that does not run."""

    def measure(kind: str, quick: bool, rivals: str | None, say: Any) -> Any:
        say("something")
        return common.Report(kind, say, {"x": 1.5}, {"read": [1, 2]}, ["a note"])

    def broken(quick: bool, rivals: str | None, say: Any) -> Any:
        raise RuntimeError("no luck")

    package = report.__package__
    for name, program in {
        "one": SimpleNamespace(measure=lambda *given: measure("one", *given)),
        "two": SimpleNamespace(measure=lambda *given: measure("two", *given)),
        "bad": SimpleNamespace(measure=broken),
    }.items():
        module = ModuleType(name)
        module.__dict__.update(vars(program))
        monkeypatch.setitem(sys.modules, f"{package}.bench_{name}", module)


def test_several_kinds_are_one_object_of_ratios(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _benchmarks(monkeypatch)
    out = tmp_path / "bench.json"
    assert report.run(["one", "two"], as_json=True, out=out) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["ratios"] == {"one.x": 1.5, "two.x": 1.5}
    assert out.read_text() == printed.out.strip()
    assert printed.err == "", "progress is for terminals"
    assert report.run(["one"], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["ratios"] == {"x": 1.5}


def test_a_kind_that_does_not_run_leaves_the_others_their_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _benchmarks(monkeypatch)
    assert report.run(["bad", "two"]) == 1
    printed = capsys.readouterr()
    assert "--- two ---" in printed.out
    assert "did not run: bad" in printed.err
    with pytest.raises(RuntimeError, match="no luck"):
        report.run(["bad"])


def test_progress_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    _benchmarks(monkeypatch)
    main, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        report.run(["one", "two"])
        monkeypatch.undo()
    shown = ""
    with open(main, "rb", buffering=0) as screen:
        while True:
            try:
                shown += screen.read(4096).decode()
            except OSError:  # all of it was read, and the other end is closed
                break
    assert "1/2 one" in shown
    assert "something" in shown
    assert "2/2 two: done" in shown


def test_rivals_may_be_named_by_their_environment(tmp_path: Path) -> None:
    assert report.interpreter(None) is None
    assert report.interpreter(sys.executable) == sys.executable
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert report.interpreter(str(tmp_path)) == str(tmp_path / "bin" / "python")
    with pytest.raises(InvalidArgument, match="no such Python"):
        report.interpreter(str(tmp_path / "nowhere"))
