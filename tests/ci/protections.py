"""Each protection switched off in turn: every test that is there for it must fail, and each must have one.

A test build (``-DTENT_TEST_SWITCHES=ON``) reads ``TENT_TEST_PROTECTION_OFF=name``. Tests for a protection are

* native: doctest cases in a suite called ``protects:name``, in any program ``test_*`` of the build;
* Python: tests marked ``@pytest.mark.protects("name")``.

Their names say which invariant they are about (``invariant 6: ...``, ``test_invariant_6_...``), and each invariant must
have one, except those that `WITHOUT_A_SWITCH` gives a reason for. All run once with every protection on, where they
must pass; then those of each protection once more with it off, where each must fail by itself: an assertion, a crash or
a sanitizer's report all count; a time-out too, for that is what a lost wake-up is. What a test left behind does not.

Usage: protections.py --build FOLDER --tests FOLDER --results FOLDER [NAME...]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 120  # of one test
# With its protection off a fault strikes by a race, and on a busy machine the race may be won by luck; not every time.
TRIES = 3
ROOT = Path(__file__).resolve().parents[2]
# Protections of Python code: the pytest plug-in (tests/support/plugin.py) takes them away, so no product code has a
# switch.
IN_PYTHON = ["guard"]
INVARIANTS = range(1, 12)
WITHOUT_A_SWITCH = {
    8: "nothing protects it: it holds because the sprayer has no clock, float, thread or hash order"
}


@dataclass(frozen=True)
class Test:
    name: str
    command: tuple[str, ...] = ()  # native tests only

    @property
    def invariants(self) -> set[int]:
        named = re.search(r"invariants?[ _]([\d, and]+)", self.name)
        return {int(number) for number in re.findall(r"\d+", named.group(1))} if named else set()


def protections() -> list[str]:
    """The names in the enumeration, in its order, and those of Python code."""
    text = (ROOT / "csrc/base/switches.h").read_text(encoding="utf-8")
    match = re.search(r"enum class Protection[^{]*\{([^}]*)\}", text)
    assert match, "csrc/base/switches.h has no enum class Protection"
    names = re.findall(r"^\s*(\w+)\s*,", match.group(1) + ",", re.MULTILINE)
    return [name for name in names if name != "count"] + IN_PYTHON


def environment(off: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "TENT_TEST_PROTECTION_OFF"}
    return {**env, "TENT_TEST_PROTECTION_OFF": off} if off else env


# ---- native tests: one process each; they take milliseconds ----------------------------------------------------------


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


def run_native(test: Test, off: str) -> tuple[bool, str]:
    """Did it pass, and what did it print last?"""
    try:
        done = subprocess.run(
            test.command,
            env=environment(off),
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


# ---- Python tests: one process for all of a protection; more only after a crash --------------------------------------


@dataclass
class Outcome:
    passed: bool = False
    failed: bool = False  # by itself: not by what it left, nor by a fixture
    text: str = ""


def read_results(path: Path) -> dict[str, Outcome]:
    """By the tests' node ids, as pytest would be given them."""
    found: dict[str, Outcome] = {}
    try:
        cases = ElementTree.parse(path).getroot().iter("testcase")
    except (OSError, ElementTree.ParseError):
        return found  # it crashed before it could write any
    for case in cases:
        node = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        outcome = found.setdefault(node, Outcome())
        tags = {child.tag for child in case}
        outcome.failed |= "failure" in tags
        outcome.passed = not tags & {"failure", "error", "skipped"}
        outcome.text += "\n".join(child.text or "" for child in case)[-3000:]
    return found


def run_python(arguments: list[str], off: str) -> tuple[dict[str, Outcome], str]:
    with tempfile.TemporaryDirectory(prefix="tent-protections-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
        command += ["-p", "no:cacheprovider", "-q", "--no-leftovers-check", f"--timeout={PATIENCE_S}"]
        done = subprocess.run(
            [*command, f"--junitxml={report}", *arguments],
            env=environment(off),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode == 70 and "no protection is called" in done.stderr:
            raise SystemExit(done.stderr)
        return read_results(report), (done.stdout + done.stderr)[-3000:]


def python_tests(tests: Path) -> dict[str, list[str]]:
    """Node ids of the tests marked with each protection."""
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    listed = subprocess.run(
        [*command, "-q", "--collect-only", "--protects", "all", str(tests)],
        env=environment(""),
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode not in (0, 5):
        raise SystemExit(f"collecting the tests failed:\n{listed.stdout}{listed.stderr}")
    found: dict[str, list[str]] = {}
    for name, node in re.findall(r"^protects (\S+) (.+)$", listed.stdout, re.MULTILINE):
        found.setdefault(name, []).append(node)
    return found


def fails_alone(node: str, off: str) -> bool:
    """For a test that did not come to its end beside the others: in a process of its own, a crash counts."""
    results, _ = run_python([str(ROOT / node)], off)
    return node not in results or results[node].failed


# ---- the verdict -----------------------------------------------------------------------------------------------------


class Report:
    def __init__(self) -> None:
        self.suite = ElementTree.Element("testsuite", name="protections")
        self.failures = 0

    def add(self, protection: str, name: str, wrong: str) -> None:
        case = ElementTree.SubElement(self.suite, "testcase", classname=protection, name=name)
        print(
            f"{'FAILED' if wrong else 'ok    '} {protection}: {name}{f': {wrong}' if wrong else ''}",
            flush=True,
        )
        if wrong:
            self.failures += 1
            ElementTree.SubElement(case, "failure", message=wrong[:200]).text = wrong


def judge(passes_on: bool, fails_off: bool, output: str, protection: str) -> str:
    """Empty when the test does what it is there for, else what is wrong with it."""
    if not passes_on:
        return f"fails even with every protection on:\n{output}"
    return "" if fails_off else f"passes although the protection '{protection}' is off: it protects nothing"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--tests", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or protections()
    report, covered = Report(), set[int]()
    marked = python_tests(options.tests)
    for name in set(marked) - set(protections()):
        report.add(name, "(none)", f"there is no protection '{name}', but {marked[name]} are marked with it")
    nodes = {name: marked.get(name, []) for name in names}
    every = sorted({node for found in nodes.values() for node in found})
    on, said = run_python([str(ROOT / node) for node in every], "") if every else ({}, "")
    for name in names:
        native = native_tests(options.build, name)
        for test in native:
            passed, output = run_native(test, "")
            fails = any(not run_native(test, name)[0] for _ in range(TRIES))
            report.add(name, test.name, judge(passed, fails, output, name))
        off, _ = run_python([str(ROOT / node) for node in nodes[name]], name) if nodes[name] else ({}, "")
        for node in nodes[name]:
            now = on.get(node, Outcome(text=said))
            fails = off[node].failed if node in off else fails_alone(node, name)
            fails = fails or any(fails_alone(node, name) for _ in range(TRIES - 1))
            report.add(name, node, judge(now.passed, fails, now.text, name))
        about = set[int]().union(*(test.invariants for test in [*native, *map(Test, nodes[name])]))
        covered |= about
        if not about:
            report.add(name, "(none)", f"no test for the protection '{name}' names its invariant")
    if not options.names:
        for number in sorted(set(INVARIANTS) - covered - set(WITHOUT_A_SWITCH)):
            report.add(
                f"invariant {number}", "(none)", "no test of it is proven to fail without its protection"
            )
    ElementTree.ElementTree(report.suite).write(options.results / "protections.xml")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
