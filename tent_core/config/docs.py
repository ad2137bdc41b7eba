"""Makes docs/config.md and docs/blocking.md from the schema: ``python -m tent_core.config.docs FOLDER``.

A test compares the files with what this makes, so the documents cannot fall behind the code.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tent_core.config.blocking import BLOCKING
from tent_core.config.load import variable_name
from tent_core.config.schema import Config, Setting, settings, show_value
from tent_core.config.values import Kind, format_size

__all__ = ["PAGES", "blocking_page", "config_page"]

_CONFIG_HEAD = """# Settings

TENT needs no configuration on one host. What there is to set comes from three places; later ones win:

1. a file, TOML or JSON, that the program names or that `TENT_CONFIG` points to;
2. what the program passes: a dict, or the extra-config JSON of a serving engine
   (`{"directory": {"url": "redis://host"}}` or `{"directory.url": "redis://host"}`);
3. the environment: `TENT_` + section + `_` + key, as in the table.

An unknown key or a value out of range is an error that names the key, where it came from and what would be right.
`tent config` prints the effective values and their origins. Sizes are written as `64MiB` or as bytes; durations as
a number in the unit of the key's name, or with a unit (`"2s"`). Secrets and passwords are never printed.

This table is made from the schema by `python -m tent_core.config.docs docs`.
"""

_BLOCKING_HEAD = """# What can block, and for how long

Nothing in TENT waits without a bound. This is every call that can block, what it waits for, and what ends the wait
when nothing else does: the caller's argument where it takes one, else the settings named (their defaults in brackets).
Submitting (`Engine.submit`, `PageStore.submit_put`, `submit_get`), polling, cancelling and reading statistics do no
I/O and do not wait.

This table is made by `python -m tent_core.config.docs docs`.
"""


def _limits(meta: Setting) -> str:
    if meta.choices:
        return ", ".join(meta.choices)
    if meta.kind is Kind.flag or meta.low is None:
        return ""
    write = format_size if meta.kind is Kind.size else str
    high = f" to {write(meta.high)}" if meta.high is not None and meta.high < 2**31 - 1 else " or more"
    return f"{write(meta.low)}{high}"


def config_page() -> str:
    """docs/config.md."""
    config = Config()
    lines = [_CONFIG_HEAD]
    section = ""
    for key, meta in settings().items():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines.append(
                f"\n## {section}\n\n| key | default | unit | limits | meaning | variable |\n|---|---|---|---|---|---|"
            )
        default = show_value(meta, config.get(key))
        cells = (
            f"`{key}`",
            f"`{default}`" if default else "",
            meta.unit if meta.kind is not Kind.size else "",
            _limits(meta),
            meta.help,
            f"`{variable_name(key)}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def blocking_page() -> str:
    """docs/blocking.md."""
    config = Config()
    meta = settings()
    lines = [
        _BLOCKING_HEAD,
        "| call | waits for | bounded by | when the bound is reached |",
        "|---|---|---|---|",
    ]
    for row in BLOCKING:
        bounds = [f"argument `{row.argument}`"] if row.argument else []
        bounds += [f"`{key}` ({show_value(meta[key], config.get(key))} {meta[key].unit})" for key in row.keys]
        lines.append(f"| `{row.call}` | {row.waits_for} | {', '.join(bounds)} | {row.then} |")
    return "\n".join(lines) + "\n"


PAGES = {"config.md": config_page, "blocking.md": blocking_page}


def main() -> None:
    folder = Path(sys.argv[1])
    for name, make in PAGES.items():
        (folder / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
