"""One of the two is killed while the other one loads from it. The last test: the first server does not come back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support.peers import until

Pair = Any  # conftest.py's, which is no module to import from

NUMBERS = [9, 19, 29, 39, 49, 59]
# Of the tens of megabytes that the requests load, so many arrive before the owner dies.
ARRIVED = 1_000_000


def failed_loads(pair: Pair) -> float:
    """Loads of the second server that failed, in a step or beside the steps."""
    events = ("load.failed_steps", "load.failed_fetches")
    return sum(pair.second.metric("vllm:tent_events_total", event=event) for event in events)


def test_the_other_goes_on_serving(pair: Pair) -> None:
    for number in [*NUMBERS, 58]:
        pair.store(number)
    # A connection stands, and bytes go by way of the relay.
    pair.expect_loaded(58)
    failed = failed_loads(pair)
    before = pair.relay.total_passed("to_client")
    pair.relay.hold("to_client", after=ARRIVED)
    with ThreadPoolExecutor(len(NUMBERS)) as threads:
        waiting = {number: threads.submit(pair.complete, pair.second, number) for number in NUMBERS}
        until(
            lambda: (
                pair.relay.waiting("to_client") and pair.relay.total_passed("to_client") - before >= ARRIVED
            ),
            "some pages have arrived and the rest is held back",
        )
        pair.first.kill()
        pair.relay.cut()
        answers = {number: answer.result(120) for number, answer in waiting.items()}
    for number in NUMBERS:
        pair.expect(number, answers[number])

    # What the dead one had is computed where it must be; what the living one stores it finds again.
    pair.second.reset()
    answer, _ = pair.ask(pair.second, NUMBERS[0])
    pair.expect(NUMBERS[0], answer)
    pair.second.reset()
    fresh, pages = pair.ask(pair.second, 60)
    assert pages == 0
    # vLLM did meet a load that failed, and recomputed it.
    assert failed_loads(pair) > failed
    pair.expect(60, fresh)
    pair.expect(63, pair.store(63, on=pair.second))
    pair.second.reset()
    pair.expect_loaded(63)
