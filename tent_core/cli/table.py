"""Results as a table for people: text left, numbers right, a rule under the head."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["mega", "rate", "seconds", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` have as many cells as `head`. A column is set right when all of its cells start like a number."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    right = [all(row[i][:1].isdigit() or row[i] in ("", "-") for row in rows) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        placed = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return "  ".join(placed).rstrip()

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *(line(row) for row in rows)])


def seconds(value: float) -> str:
    """A time to read: "0.105 s"."""
    return f"{value:.3f} s"


def mega(nbytes: float) -> str:
    """Decimal megabytes: "32.8 MB"."""
    return f"{nbytes / 1e6:.1f} MB"


def rate(nbytes: float, duration: float) -> str:
    """Decimal gigabytes a second, "-" where nothing was moved or no time was taken."""
    return f"{nbytes / duration / 1e9:.2f} GB/s" if nbytes and duration else "-"
