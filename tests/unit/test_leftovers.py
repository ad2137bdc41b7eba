"""The check for leftovers must itself be able to fail: each kind of leftover is made and must be found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_KINDS = {
    "a child": "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)",
    "an orphan": (
        "import subprocess, sys, time\n"
        '    code = \'import subprocess; p = subprocess.Popen(["sleep", "30"], start_new_session=True)\'\n'
        "    subprocess.run([sys.executable, '-c', code], check=True)"
    ),
    "a file": "import os, pathlib; pathlib.Path(os.environ['XDG_RUNTIME_DIR'], 'left').write_text('x')",
    "shared memory": "open('/dev/shm/tent-left-behind', 'w').close()",
    "a memfd": "import os; globals().setdefault('keep', []).append(os.memfd_create('tent-extent'))",
    "a socket": "import socket; globals().setdefault('keep', []).append(socket.create_server(('127.0.0.1', 0)))",
}


def _run(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run one test with that body under the plug-in, in a process of its own that is cleaned up afterwards."""
    tests = Path(__file__).parents[1]
    (folder / "test_it.py").write_text(f"def test_it():\n    {body}\n")
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {tests}\n")
    patience = "import support.leftovers as l; l.wait_until_gone.__kwdefaults__['patience'] = 0.3"
    (folder / "conftest.py").write_text(
        f"import sys; sys.path.insert(0, {str(tests)!r})\n{patience}\n"
        + (
            "pytest_plugins = ('support.plugin',)\n"
            "def pytest_unconfigure(config):\n"
            "    import os, pathlib, signal, support.leftovers as l\n"
            "    for name, _ in l._processes(os.environ[l.RUN_VARIABLE]):\n"
            "        os.kill(int(name.split()[1].split('/')[0]), signal.SIGKILL)\n"
            "    pathlib.Path('/dev/shm/tent-left-behind').unlink(missing_ok=True)\n"
        )
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("kind", _KINDS)
def test_each_kind_of_leftover_is_found(kind: str, tmp_path: Path) -> None:
    done = _run(tmp_path, _KINDS[kind])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "left behind by" in done.stdout


def test_a_clean_test_passes(tmp_path: Path) -> None:
    body = "import socket; socket.create_server(('127.0.0.1', 0)).close()"
    done = _run(tmp_path, body)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_skip_is_a_failure_in_ci(
    ci: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    done = _run(tmp_path, "import pytest; pytest.skip('no such thing here')")
    assert done.returncode == code, done.stdout + done.stderr
