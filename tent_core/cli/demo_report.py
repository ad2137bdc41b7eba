"""What a demo with a serving engine found, one row a conversation, and the table that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tent_core.cli.table import mega, rate, seconds, table

__all__ = ["Row", "as_json", "report", "succeeded"]

_HEAD = [
    "conversation",
    "tokens",
    "TTFT cold",
    "recomputed",
    "through TENT",
    "faster",
    "pages hit",
    "moved",
    "rate",
    "outputs identical",
]


@dataclass(frozen=True)
class Row:
    """One conversation. Times are seconds to the first token."""

    conversation: str
    prompt_tokens: int
    cold_s: float
    recomputed_s: float
    through_tent_s: float
    pages_hit: int
    bytes_moved: int
    load_s: float
    """Seconds that the bytes were under way."""
    identical: bool
    largest_logprob_difference: float


def succeeded(rows: Sequence[Row]) -> bool:
    """Whether every prefix came through TENT and every answer agreed."""
    return bool(rows) and all(row.identical and row.pages_hit for row in rows)


def as_json(engine: str, rows: Sequence[Row]) -> str:
    return json.dumps(
        {"engine": engine, "ok": succeeded(rows), "conversations": [asdict(row) for row in rows]}
    )


def report(rows: Sequence[Row], page: str) -> str:
    """The table, and what its columns mean. `page`: what the engine calls a page, with its size."""
    cells = [
        [
            row.conversation,
            str(row.prompt_tokens),
            seconds(row.cold_s),
            seconds(row.recomputed_s),
            seconds(row.through_tent_s),
            f"{row.recomputed_s / row.through_tent_s:.1f} x",
            str(row.pages_hit),
            mega(row.bytes_moved),
            rate(row.bytes_moved, row.load_s),
            f"{'yes' if row.identical else 'NO'} (logprobs differ by {row.largest_logprob_difference:.0e})",
        ]
        for row in rows
    ]
    notes = (
        "TTFT: time to first token. cold: the first server, which has seen no more of the conversation than the\n"
        "system prompt of the one before. recomputed, through TENT: the second server, the same prompt without and\n"
        f"with what the first one computed. pages hit, moved: what came through TENT, not what the second server had\n"
        f"itself by then (the system prompt, from the second conversation on). A page is {page}, all layers."
    )
    return f"\n{table(_HEAD, cells)}\n\n{notes}"
