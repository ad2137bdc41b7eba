"""The runner of the tests itself: every folder of tests is run by some tier, and its summary can fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PASSED = '<testcase name="a"/>'
_FAILED = '<testcase name="b"><failure message="x"/></testcase>'
_SKIPPED = '<testcase name="c"><skipped/></testcase>'


def test_every_folder_of_tests_is_in_a_tier() -> None:
    tiers = (ROOT / "tests/ci/tiers.sh").read_text(encoding="utf-8")
    named = set(re.findall(r"\b((?:tests|e2e)/[a-z_]+)\b", tiers)) | {"e2e/vllm", "e2e/sglang"}
    for base in ("tests", "e2e"):
        for folder in (ROOT / base).iterdir():
            if folder.is_dir() and any(folder.rglob("test_*.py")):
                assert f"{base}/{folder.name}" in named


def test_every_invariant_has_a_test_that_names_it() -> None:
    """`test_invariant_6_...` in Python, `invariant 6: ...` in doctest: so one finds what holds the code to each."""
    named = set[int]()
    for path in (ROOT / "tests").rglob("*_test.cpp"):
        for line in re.findall(r'TEST_CASE\("invariants? ([\d, and]+)', path.read_text(encoding="utf-8")):
            named |= {int(number) for number in re.findall(r"\d+", line)}
    for path in (ROOT / "tests").rglob("test_*.py"):
        named |= {int(n) for n in re.findall(r"def test_invariant_(\d+)_", path.read_text(encoding="utf-8"))}
    assert named == set(range(1, 12))


def _summary(folder: Path, *steps: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tests/ci/summary.py"), str(folder), *steps],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("cases", "steps", "line", "status"),
    [
        (_PASSED * 3, [], "3 passed, 0 failed, 0 skipped", 0),
        (_PASSED + _SKIPPED, [], "1 passed, 0 failed, 1 skipped", 0),
        (_PASSED + _FAILED, ["unit"], "1 passed, 1 failed, 0 skipped", 1),
        (_PASSED, ["lint"], "1 passed, 1 failed, 0 skipped", 1),
        ("", [], "0 passed, 0 failed, 0 skipped", 1),
    ],
)
def test_summary(cases: str, steps: list[str], line: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    done = _summary(tmp_path, *steps)
    assert done.stdout.splitlines()[-1] == line
    assert done.returncode == status


def test_a_torn_result_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(f"<testsuite>{_PASSED}")
    assert _summary(tmp_path).returncode == 1


def test_an_unknown_tier_is_refused() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "tests/run.sh"), "unti"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "unknown tier 'unti'" in done.stderr
