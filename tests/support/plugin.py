"""The pytest plug-in of this project.

* In CI (``CI=true``) a skipped test is a failure, unless it is marked ``gpu``.
* After every test nothing of TENT may be left: see `support.leftovers`. What a wider fixture (class, module, session)
  made is held against nobody until that fixture ends.
* Runtime and state folders are the run's own, so that tests meet neither the user's key nor their directory.
* ``@pytest.mark.protects("fence")`` marks a test that must fail in a test build whose protection ``fence`` is switched
  off (``TENT_TEST_PROTECTION_OFF=fence``); tests/ci/protections.py demands it of each of them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from support import leftovers

_KEPT_PREFIXES = ("TENT_TEST_", "TENT_E2E_", "TENT_CI_", "TENT_BENCH_")


class _Run:
    """What one pytest process knows of its own leftovers."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self.folder = Path(tempfile.mkdtemp(prefix="tt-"))
        self.runtime = self.folder / "run"
        self.runtime.mkdir(mode=0o700)
        self.known: set[str] = set()
        self.held: dict[int, set[str]] = {}

    def now(self, *, descriptors: bool = True) -> set[str]:
        return {item[0] for item in leftovers.snapshot(self.name, self.runtime, descriptors=descriptors)}

    def all_known(self) -> set[str]:
        return self.known.union(*self.held.values()) if self.held else self.known


_RUN = pytest.StashKey[_Run]()


def _without_guards() -> None:
    """Whatever goes wrong in a connector reaches the serving engine's thread."""
    from tent_sglang.guard import Guard as SGLangGuard
    from tent_vllm.guard import Guard as VllmGuard

    for guard in (SGLangGuard, VllmGuard):
        guard.run = lambda self, what, call, otherwise: call()  # type: ignore[method-assign, assignment]


_IN_PYTHON = {"guard": _without_guards}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--protects", metavar="NAME", default="", help="only tests marked protects(NAME), or all so marked"
    )
    parser.addoption(
        "--no-leftovers-check", action="store_true", help="do not look for what tests leave behind"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "protects(name): fails when the protection NAME of a test build is off"
    )
    config.addinivalue_line("markers", "leaves(reason): not checked for leftovers, for the reason given")
    run = _Run()
    config.stash[_RUN] = run
    for name in list(os.environ):
        if name.startswith("TENT_") and not name.startswith(_KEPT_PREFIXES):
            del os.environ[name]
    if (off := os.environ.get("TENT_TEST_PROTECTION_OFF")) in _IN_PYTHON:
        del os.environ["TENT_TEST_PROTECTION_OFF"]  # the native module knows its own only
        _IN_PYTHON[off]()
    os.environ[leftovers.RUN_VARIABLE] = run.name
    os.environ["XDG_RUNTIME_DIR"] = str(run.runtime)
    os.environ["XDG_STATE_HOME"] = str(run.folder / "state")
    run.known = run.now()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_RUN].folder, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``--protects NAME``: only the tests that must fail when that protection is off; ``all``: of any. With
    ``--collect-only``, each is listed with the protection's name before it."""
    wanted = config.getoption("protects")
    if not wanted:
        return
    marks = {item: [name for mark in item.iter_markers("protects") for name in mark.args] for item in items}
    kept = [item for item in items if wanted in marks[item] or (wanted == "all" and marks[item])]
    if config.option.collectonly:
        for item in kept:
            for name in marks[item]:
                print(f"protects {name} {item.nodeid}")
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    strict = os.environ.get("CI", "").lower() in ("1", "true")
    if (
        strict
        and report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("gpu") is None
    ):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and in CI a skip is a failure: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    if fixturedef.scope == "function":
        return (yield)
    run = request.config.stash[_RUN]
    before = run.now()
    result = yield
    made = run.now() - before
    if made:
        run.held.setdefault(id(fixturedef), set()).update(made)
    return result


@pytest.hookimpl(trylast=True)
def pytest_fixture_post_finalizer(fixturedef: Any, request: pytest.FixtureRequest) -> None:
    request.config.stash[_RUN].held.pop(id(fixturedef), None)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    result = yield
    run = item.config.stash[_RUN]
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # what the test was given is its no more: else the item keeps it alive
    if item.config.getoption("no_leftovers_check") or item.get_closest_marker("leaves"):
        run.known |= run.now()
        return result
    # While a wider fixture lives, its connections come and go in this process: then descriptors say nothing.
    descriptors = not run.held
    found = leftovers.wait_until_gone(run.name, run.runtime, run.all_known(), descriptors=descriptors)
    if found:
        run.known |= {item[0] for item in found}
        pytest.fail(f"left behind by {item.nodeid}:\n{leftovers.describe(found)}", pytrace=False)
    if run.held:
        run.known |= {name for name in run.now() if name.startswith("descriptor ")}
    return result


@pytest.fixture
def runtime_folder(request: pytest.FixtureRequest) -> Path:
    """The runtime folder of this test run (``XDG_RUNTIME_DIR``): short enough for unix sockets, its user's only."""
    return request.config.stash[_RUN].runtime
