"""One thing that the doctor found."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BROKEN", "INFO", "OK", "WEAK", "Finding"]

OK = "ok"
INFO = "info"  # absent or not applicable, and nothing is lost by it
WEAK = "weak"  # TENT works, but slower or with less than this host could give
BROKEN = "broken"  # something that was asked for does not work


@dataclass(frozen=True)
class Finding:
    """``fix`` is a command, or one sentence; empty when there is nothing to mend."""

    area: str
    name: str
    state: str
    detail: str
    fix: str = ""
