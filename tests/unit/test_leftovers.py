"""The check for leftovers must itself be able to fail: each kind of leftover is made and must be found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

_KINDS = {
    "child": "subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)",
    "orphan": "subprocess.run([sys.executable, '-c', ORPHAN], check=True)",
    "file": "pathlib.Path(os.environ['XDG_RUNTIME_DIR'], 'left').write_text('x')",
    "shared_memory": "open('/dev/shm/tent-left-behind', 'w').close()",
    "memfd": "kept.append(os.memfd_create('tent-extent'))",
    "socket": "kept.append(socket.create_server(('127.0.0.1', 0)))",
    "abstract_socket": "s = socket.socket(socket.AF_UNIX); s.bind('\\0tent-left'); s.listen(); kept.append(s)",
}
_HEAD = """
import os, pathlib, socket, subprocess, sys
kept = []
ORPHAN = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)"
"""
# The nested run is impatient, and cleans up after itself what it left on purpose.
_CONFTEST = f"""
import os, pathlib, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import support.leftovers as leftovers
leftovers.wait_until_gone.__kwdefaults__["patience"] = 0.2
pytest_plugins = ("support.plugin",)

def pytest_unconfigure(config):
    for name, _ in leftovers._processes(os.environ[leftovers.RUN_VARIABLE]):
        os.kill(int(name.split()[1].split("/")[0]), signal.SIGKILL)
    pathlib.Path("/dev/shm/tent-left-behind").unlink(missing_ok=True)
"""


def _run(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(_CONFTEST)
    (folder / "test_it.py").write_text(_HEAD + tests)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_each_kind_of_leftover_is_found_and_nothing_else(tmp_path: Path) -> None:
    tests = "".join(f"def test_{kind}():\n    {body}\n" for kind, body in _KINDS.items())
    tests += "def test_clean():\n    socket.create_server(('127.0.0.1', 0)).close()\n"
    done = _run(tmp_path, tests)
    blamed = re.findall(r"^left behind by test_it\.py::test_(\w+):$", done.stdout, re.MULTILINE)
    assert sorted(blamed) == sorted(_KINDS), done.stdout + done.stderr
    assert f"{len(_KINDS)} errors" in done.stdout


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_skip_is_a_failure_in_ci(
    ci: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    done = _run(tmp_path, "import pytest\ndef test_it():\n    pytest.skip('no such thing here')\n")
    assert done.returncode == code, done.stdout + done.stderr
