"""One server computes prompts and another one goes on from their blocks, as a proxy would have them do."""

from __future__ import annotations

from typing import Any

from support.peers import until
from tent_core.cli.vllm_server import VllmServer

Pair = Any  # conftest.py's, which is no module to import from


def event(server: VllmServer, name: str) -> float:
    """A counter of hand-offs, as far as the server has told: it counts when it works."""
    server.complete("Go on.", new_tokens=1)
    return server.metric("vllm:tent_events_total", event=f"handoff.{name}")


def test_a_client_that_goes_away_in_mid_hand_off(pair: Pair) -> None:
    """The prefill server's blocks and the decode server's are free again; nobody waits for a lease."""
    params = pair.first.prefill(pair.prompt(46))
    pair.relay.hold("to_client", after=100_000)
    client = pair.second.begin(pair.prompt(46), new_tokens=2000, handoff=params)
    until(lambda: pair.relay.waiting("to_client") > 0, "blocks on their way")
    client.close()
    pair.relay.release()
    pair.wait_idle()
    pair.expect(47, pair.complete(pair.second, 47))


def test_parameters_that_were_changed_on_their_way_are_computed(pair: Pair) -> None:
    before = event(pair.second, "pull.auth_failed")
    params = pair.first.prefill(pair.prompt(49))
    ticket = params["tent"]["tickets"][0]
    params["tent"]["tickets"][0] = ticket[:-8] + "AAAAAAAA"
    pair.expect(49, pair.second.complete(pair.prompt(49), handoff=params))
    until(lambda: event(pair.second, "pull.auth_failed") > before, "refused ticket in the counters")
