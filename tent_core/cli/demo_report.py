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
    "own cache",
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
    own_cache_s: float
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


def report(rows: Sequence[Row], page: str, remark: str = "") -> str:
    """The table, and what its columns mean.

    `page`: what the engine calls a page, with its size. `remark`: a last line.
    """
    cells = [
        [
            row.conversation,
            str(row.prompt_tokens),
            seconds(row.cold_s),
            seconds(row.recomputed_s),
            seconds(row.through_tent_s),
            seconds(row.own_cache_s),
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
        "with what the first one computed. own cache: the same once more, from what the second server\n"
        "then had itself; no transfer can be faster. faster: through TENT beside recomputed.\n"
        "pages hit, moved: what came through TENT, not what the second server had itself before.\n"
        f"A page is {page}, all layers."
    )
    return "\n".join(["", table(_HEAD, cells), "", notes, *([remark] if remark else [])])
