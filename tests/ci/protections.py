"""Each protection switched off in turn: every test that is there for it must fail, and each must have at least one.

A test build (``-DTENT_TEST_SWITCHES=ON``) reads ``TENT_TEST_PROTECTION_OFF=name``. Tests for a protection are

* native: doctest cases in a suite called ``protects:name``, in any program ``test_*`` of the build;
* Python: tests marked ``@pytest.mark.protects("name")``.

Each is run alone in a process of its own, first with the protection on (it must pass), then with it off (it must
fail: an assertion, a crash or a sanitizer's report all count; a time-out too, for that is what a lost wake-up is).

Usage: protections.py --build FOLDER --tests FOLDER --results FOLDER [NAME...]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 120
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Test:
    name: str
    command: tuple[str, ...]


def protections() -> list[str]:
    """The names in the enumeration, in its order."""
    text = (ROOT / "csrc/base/switches.h").read_text(encoding="utf-8")
    match = re.search(r"enum class Protection[^{]*\{([^}]*)\}", text)
    assert match, "csrc/base/switches.h has no enum class Protection"
    names = re.findall(r"^\s*(\w+)\s*,", match.group(1) + ",", re.MULTILINE)
    return [name for name in names if name != "count"]


def native_tests(build: Path, protection: str) -> list[Test]:
    found = []
    for program in sorted(
        path for path in build.rglob("test_*") if path.is_file() and os.access(path, os.X_OK)
    ):
        listed = subprocess.run(
            [program, f"--test-suite=protects:{protection}", "--list-test-cases", "--no-colors"],
            capture_output=True,
            text=True,
            check=True,
        )
        for line in listed.stdout.splitlines():
            if line and not line.startswith(("[doctest]", "===")):
                # A comma separates patterns, and a pattern must match the whole name.
                pattern = line.replace("\\", "\\\\").replace(",", "\\,")
                command = (str(program), f"--test-suite=protects:{protection}", f"--test-case={pattern}")
                found.append(Test(f"{program.name}: {line}", command))
    return found


def python_tests(tests: Path, protection: str) -> list[Test]:
    base = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    base += ["-p", "no:cacheprovider", "-q"]
    listed = subprocess.run(
        [*base, "--collect-only", "--protects", protection, str(tests)],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode not in (0, 5):
        raise SystemExit(f"collecting the tests failed:\n{listed.stdout}{listed.stderr}")
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    return [Test(name, (*base, "-x", str(ROOT / name))) for name in names]


def passes(test: Test, off: str) -> tuple[bool, str]:
    """Did it pass, and what did it print last?"""
    env = {name: value for name, value in os.environ.items() if name != "TENT_TEST_PROTECTION_OFF"}
    if off:
        env["TENT_TEST_PROTECTION_OFF"] = off
    try:
        done = subprocess.run(
            test.command,
            env=env,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no end within {PATIENCE_S} s"
    if done.returncode == 70 and "no protection is called" in done.stderr:
        raise SystemExit(done.stderr)
    return done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def judge(test: Test, protection: str) -> str:
    """Empty when the test does what it is there for, else what is wrong with it."""
    passed, output = passes(test, "")
    if not passed:
        return f"fails even with every protection on:\n{output}"
    passed, _ = passes(test, protection)
    return f"passes although the protection '{protection}' is off: it protects nothing" if passed else ""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--tests", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    suite = ElementTree.Element("testsuite", name="protections")
    failures = 0
    for protection in options.names or protections():
        tests = native_tests(options.build, protection) + python_tests(options.tests, protection)
        verdicts = [(test.name, judge(test, protection)) for test in tests]
        for name, wrong in verdicts or [("(no test)", f"no test is there for the protection '{protection}'")]:
            case = ElementTree.SubElement(suite, "testcase", classname=protection, name=name)
            print(
                f"{'FAILED' if wrong else 'ok    '} {protection}: {name}{f': {wrong}' if wrong else ''}",
                flush=True,
            )
            if wrong:
                failures += 1
                ElementTree.SubElement(case, "failure", message=wrong[:200]).text = wrong
    ElementTree.ElementTree(suite).write(options.results / "protections.xml")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
