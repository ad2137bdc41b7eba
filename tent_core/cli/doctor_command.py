"""``tent doctor``: what of this host TENT can use, what is missing, and the command that mends it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from tent_core.cli.checks import directory, engines, host, transports
from tent_core.cli.checks.finding import BROKEN, INFO, OK, WEAK, Finding
from tent_core.cli.columns import columns
from tent_core.config import Config, has_configured_secret, load_config, resolve_secret, user_key_path
from tent_core.errors import ConfigError

__all__ = ["add_parser", "examine"]

_MARKS = {OK: "ok", INFO: "-", WEAK: "!", BROKEN: "FAIL"}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what of this host TENT can use, what is missing, and how to mend it",
        description="Changes nothing. Exit status 1 when something that is configured does not work.",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML or JSON file, instead of the one TENT_CONFIG names"
    )
    parser.add_argument(
        "--no-engines", action="store_true", help="leave out vLLM and SGLang, whose import takes seconds"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.set_defaults(run=run)


def examine(config: Config, *, with_engines: bool = True) -> list[Finding]:
    """Look at everything. Never raises for what it finds; takes seconds when serving engines are installed."""
    findings = [*transports.check(config), *host.check(config), *directory.check(config)]
    return findings + engines.check(config) if with_engines else findings


def run(options: argparse.Namespace) -> int:
    findings: list[Finding] = []
    config = Config()
    try:
        config = load_config(options.config)
        if has_configured_secret(config) or user_key_path().exists():
            resolve_secret(config)
        findings.append(Finding("config", "settings", OK, "valid; 'tent config' prints them"))
    except ConfigError as error:
        # The rest is still worth a look, with the defaults.
        findings.append(Finding("config", "settings", BROKEN, str(error), "mend it as the message says"))
    if not options.no_engines and not options.json and sys.stderr.isatty():
        print("looking at this host (importing serving engines takes a few seconds)...", file=sys.stderr)
    findings += examine(config, with_engines=not options.no_engines)
    broken = sum(item.state == BROKEN for item in findings)
    if options.json:
        print(json.dumps({"ok": not broken, "findings": [dataclasses.asdict(item) for item in findings]}))
    else:
        _show(findings, broken)
    return 1 if broken else 0


def _show(findings: list[Finding], broken: int) -> None:
    print(columns([(_MARKS[item.state], item.area, item.name, item.detail) for item in findings]))
    to_mend = [item for item in findings if item.fix]
    if to_mend:
        print("\nto mend:" if broken else "\ncould be better:")
        for item in sorted(to_mend, key=lambda one: [BROKEN, WEAK, INFO, OK].index(one.state)):
            print(f"  {item.name}: {item.fix}")
    print(
        "\nTENT can run here."
        if not broken
        else f"\n{broken} thing{'s' if broken > 1 else ''} must be mended."
    )
