"""Documents are held to the code they describe."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from tent_core.config import settings
from tent_core.config.blocking import BLOCKING, Blocking
from tent_core.config.docs import PAGES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", PAGES)
def test_made_pages_are_current(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert text == PAGES[name](), "run: python -m tent_core.config.docs docs"


@pytest.mark.parametrize("row", BLOCKING, ids=lambda row: row.call)
def test_calls_that_block_exist_and_take_their_bound(row: Blocking) -> None:
    module, _, path = row.call.rpartition(".")
    module, _, cls = module.rpartition(".")
    call = getattr(getattr(import_module(module), cls), path)
    assert set(row.keys) <= set(settings())
    assert row.argument or row.keys, "nothing bounds it"
    if row.argument:
        parameters = inspect.signature(call).parameters.values()
        assert any(p.name == row.argument or p.kind is p.VAR_KEYWORD for p in parameters)


def test_readme_has_two_set_up_commands_and_they_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"^\s*bash (\S+\.sh)", text, re.MULTILINE))
    assert commands == {"e2e/demo.sh", "tests/run.sh"}
    for command in commands:
        assert (ROOT / command).is_file()


def _markdown() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", _markdown(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", _markdown(), ids=lambda page: page.name)
def test_settings_named_in_documents_exist(page: Path) -> None:
    sections = "|".join(sorted({key.partition(".")[0] for key in settings()}))
    text = page.read_text(encoding="utf-8")
    sources = [
        path
        for name in ("tent_core", "metadata", "connectors", "csrc")
        for path in (ROOT / name).rglob("*.*")
    ]
    code = "".join(path.read_text(encoding="utf-8") for path in sources if path.suffix in (".py", ".cpp"))
    for key in re.findall(rf"`((?:{sections})\.[a-z_]+)`", text):
        # A dotted name that is no setting is a metric; some are put together from their parts.
        assert key in settings() or f'"{key}"' in code or f'"{key.partition(".")[2]}"' in code, key
    variables = {"TENT_" + key.replace(".", "_").upper() for key in settings()} | {"TENT_CONFIG"}
    for name in re.findall(r"\bTENT_[A-Z_]+[A-Z]\b", text):
        assert name in variables or name.startswith(
            ("TENT_TEST_", "TENT_CI_", "TENT_BUILD_", "TENT_BENCH_", "TENT_SANITIZE")
        ), name
