"""One of the two is killed while the other one loads from it. The last test: the first server does not come back."""

from __future__ import annotations

import threading
from typing import Any

from tent_core.cli.vllm_server import Answer

Pair = Any  # conftest.py's, which is no module to import from

NUMBERS = [9, 19, 29, 39, 49, 59]


def test_the_other_goes_on_serving(pair: Pair) -> None:
    for number in NUMBERS:
        pair.store(number)
    answers: dict[int, Answer] = {}
    first_answer = threading.Event()

    def ask(number: int) -> None:
        answers[number] = pair.complete(pair.second, number)
        first_answer.set()

    failed = pair.second.metric("vllm:tent_events_total", event="load.failed_steps")
    threads = [threading.Thread(target=ask, args=(number,)) for number in NUMBERS]
    for thread in threads:
        thread.start()
    # While some are served and the others' pages are on their way, or about to be.
    assert first_answer.wait(120)
    pair.first.kill()
    for thread in threads:
        thread.join(120)
    for number in NUMBERS:
        pair.expect(number, answers[number])
    failed = pair.second.metric("vllm:tent_events_total", event="load.failed_steps") - failed
    print(f"\nsteps whose load failed when the owner was killed: {failed:.0f}")

    # What the dead one had is computed where it must be; what the living one stores it finds again.
    pair.second.reset()
    answer, _ = pair.ask(pair.second, NUMBERS[0])
    pair.expect(NUMBERS[0], answer)
    pair.second.reset()
    fresh, pages = pair.ask(pair.second, 60)
    assert pages == 0
    pair.expect(60, fresh)
    pair.expect(61, pair.store(61, on=pair.second))
    pair.second.reset()
    again, pages = pair.ask(pair.second, 61)
    assert pages == pair.pages(61)
    pair.expect(61, again)
