"""The rows as a table for a terminal and for the docs, and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from load import Reply, percentile

from tent_core.sim.chart import Panel, svg

HEAD = (
    "", "TTFT mean", "P50", "P90", "P99", "of ideal", "tokens/s", "hit rate", "MB loaded", "of the rails", "answers",
)  # fmt: skip


@dataclass
class Row:
    name: str
    kind: str
    """"host" or "rails": what it is plotted beside; "handoff": prefill and decode apart."""
    replies: list[Reply]
    seconds: float
    differing: int = 0
    loaded_bytes: float = 0.0
    loading_s: float = 0.0
    rails_bytes_s: float = 0.0
    """What the rails carry together; 0 on one host."""
    ideal: list[float] = field(default_factory=list)
    """For each request, the time to first token with everything local, plus its bytes over the rails' sum."""

    def moved(self, before: tuple[float, float], after: tuple[float, float], mbit: float) -> None:
        """(bytes, seconds) of the connector's counters before and after, over rails of so many Mbit/s together."""
        self.loaded_bytes, self.loading_s = after[0] - before[0], after[1] - before[1]
        self.rails_bytes_s = mbit * 1e6 / 8

    def times(self) -> list[float]:
        which = [reply for reply in self.replies if not reply.error]
        return [reply.handoff_s if self.kind == "handoff" else reply.first_token_s for reply in which]

    def cells(self) -> list[str]:
        times = self.times()
        if not times:
            return [self.name, *["-"] * (len(HEAD) - 2), f"{len(self.replies)} failed"]
        return [
            self.name,
            *(
                _ms(value)
                for value in (sum(times) / len(times), *(percentile(times, p) for p in (0.5, 0.9, 0.99)))
            ),
            f"{self.of_ideal:.2f}" if self.of_ideal else "",
            f"{sum(len(reply.logprobs) for reply in self.replies) / self.seconds:.1f}",
            f"{self.hit_rate:.2f}",
            f"{self.loaded_bytes / 1e6:.0f}" if self.loaded_bytes else "",
            f"{self.of_rails:.2f}" if self.of_rails else "",
            self._answers(),
        ]

    @property
    def hit_rate(self) -> float:
        """Tokens of prompts that were not computed; for prefill and decode apart, by the decode server."""
        asked = sum(len(reply.ask.prompt) for reply in self.replies)
        return sum(reply.cached_tokens for reply in self.replies) / asked

    @property
    def of_ideal(self) -> float:
        """Mean of the times / mean of the ideal ones."""
        if not self.ideal:
            return 0.0
        pairs = zip(self.replies, self.ideal, strict=True)
        known = [(reply.first_token_s, ideal) for reply, ideal in pairs if not reply.error]
        return sum(time for time, _ in known) / sum(ideal for _, ideal in known)

    @property
    def of_rails(self) -> float:
        """Bytes loaded, by the time that loading took / what the rails carry together."""
        if not self.rails_bytes_s or not self.loading_s:
            return 0.0
        return self.loaded_bytes / self.loading_s / self.rails_bytes_s

    def _answers(self) -> str:
        failed = sum(bool(reply.error) for reply in self.replies)
        words = [f"{self.differing} wrong"] if self.differing else []
        words += [f"{failed} failed"] if failed else []
        return ", ".join(words) or "all the same"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds >= 0.0995 else f"{seconds * 1000:.1f} ms"


def markdown(rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return lines + ["| " + " | ".join(row.cells()) + " |" for row in rows]


def page(rows: Sequence[Row], about: Sequence[str], command: str, plot: str) -> str:
    """The page for the docs. `about`: what was measured, a line each."""
    cached = [row for row in rows if row.kind != "handoff"]
    apart = [row for row in rows if row.kind == "handoff"]
    parts = [
        "# Time to first token in vLLM",
        "",
        f"Made by `{command}`: every row in one run, with the same prompts at the same times.",
        "",
        *(f"- {line}" for line in about),
        "",
        f"![Time to first token by length of the prompt]({plot})",
        "",
        *markdown(cached),
        "",
        "*of ideal*: mean TTFT / mean of (TTFT of the same request from vLLM's own prefix cache + its bytes ÷ what the "
        "rails carry together, or 0 on one host). *of the rails*: bytes loaded ÷ the time their loads took ÷ the "
        "rails' sum. *answers*: log-probabilities compared with those of the cold row.",
    ]
    if apart:
        parts += [
            "",
            "## Prefill on one server, decode on another",
            "",
            "The times are those of the hand-off: from the request to the decode server to its first token.",
            "",
            *markdown(apart),
        ]
    return "\n".join(parts) + "\n"


def plot(rows: Sequence[Row]) -> str:
    titles = {"host": "on one host", "rails": "between two hosts", "handoff": "prefill/decode: the hand-off"}
    panels = []
    for kind, title in titles.items():
        lines = {row.name: _by_length(row) for row in rows if row.kind == kind and row.times()}
        if lines:
            panels.append(Panel(title, "tokens of the prompt", lines, name_y=_axis))
    return svg(panels)


def _axis(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _by_length(row: Row) -> list[tuple[float, float]]:
    """(length, median time) for each length of prompt."""
    times: dict[int, list[float]] = {}
    for reply in row.replies:
        if not reply.error:
            value = reply.handoff_s if row.kind == "handoff" else reply.first_token_s
            times.setdefault(len(reply.ask.prompt), []).append(value)
    return [(length, percentile(values, 0.5)) for length, values in sorted(times.items())]
