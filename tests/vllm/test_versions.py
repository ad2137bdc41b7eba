"""A vLLM that has more calls than were known says so; one that has fewer says nothing."""

from __future__ import annotations

from tent_vllm.history import History
from tent_vllm.versions import unknown_calls


class Newer:
    def start_load_kv(self) -> None: ...
    def supports_sleep_mode(self) -> bool: ...
    def _private(self) -> None: ...


def test_calls_that_nobody_knew_are_named() -> None:
    assert unknown_calls(Newer) == ["supports_sleep_mode"]


def test_of_requests_only_the_last_are_kept() -> None:
    history = History(kept=2)
    for name in ("a", "b", "c"):
        history.of(name).found = 16
    assert [row["request"] for row in history.rows()] == ["b", "c"]
    assert "in the pool 16" in history.of("c").in_words()
