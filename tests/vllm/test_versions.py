"""A vLLM that has more calls than were known says so; one that has fewer says nothing."""

from __future__ import annotations

from tent_vllm.history import History, Story
from tent_vllm.versions import KNOWN, differences, unknown_calls


class Newer:
    def start_load_kv(self) -> None: ...
    def supports_sleep_mode(self) -> bool: ...
    def _private(self) -> None: ...


def test_calls_that_nobody_knew_are_named() -> None:
    assert unknown_calls(Newer) == ["supports_sleep_mode"]


def test_what_is_said_of_a_version() -> None:
    same = type("Same", (), dict.fromkeys(KNOWN))
    assert differences(same, "0.32.1+cpu") is None
    assert differences(Newer, "dev") == (
        "vLLM dev is not as TENT knows it; it has calls that vLLM's defaults answer: supports_sleep_mode"
    )
    newer = differences(same, "0.34.0")
    assert newer is not None and "newer than 0.32" in newer and "the same calls" in newer
    text = differences(Newer, "1.0.0rc1")
    assert (
        text is not None
        and "supports_sleep_mode" in text
        and "lacks calls" in text
        and "wait_for_save" in text
    )


def test_of_requests_only_the_last_are_kept() -> None:
    history = History(kept=2)
    for name in ("a", "b", "c"):
        history.of(name).found = 16
    assert history.end("a").found == 0
    assert history.end("c").found == 16
    assert history.end("c").found == 0


def test_what_became_of_a_request_in_pages_and_words() -> None:
    story = Story(
        "r", prompt=80, local=16, found=48, loaded=48, lost=16, waited_ms=3.2, why="found in the pool"
    )
    assert story.record(16) == {
        "did": "prompt",
        "asked": 5,
        "found": 3,
        "given": 2,
        "why": "1 in vLLM's own cache; found in the pool; 1 lost; waited 3 ms for the look-up",
        "request": "r",
    }
