"""A rail that flips bytes: pages are read again over another one, and the rail is named and taken down."""

from __future__ import annotations

import pytest

from support.faults import can_inject, injected
from support.stores import Client, Open, all_are, names
from tent_core.store import PageStatus

RAILS = ["127.0.0.1", "127.0.0.2"]
SICK = "127.0.0.2"
ROUNDS = 300  # a guard against never ending


# Only a build with test switches injects faults: CI runs this with the fault suite, under ASan.
@pytest.mark.protects("check")
@pytest.mark.parametrize("chance", [0.05, 1.0])
def test_invariant_1_no_get_fails_over_a_corrupting_rail(open_store: Open, chance: float) -> None:
    over_tcp = {"shm__enabled": False, "node__bind": RAILS}
    owner = Client(open_store(**over_tcp))
    keys = names(64)
    assert all_are(owner.put(keys), PageStatus.STORED)
    plan = {"fault": [{"kind": "corrupt", "transport": "tcp", "rail": SICK, "chance": chance}]}
    with injected(plan):
        reader = Client(open_store(capacity="0", **over_tcp))
    found = False
    for _ in range(ROUNDS):
        assert all_are(reader.get(keys), PageStatus.HIT)
        assert reader.verify(keys)
        states = {row["name"].split("/")[1]: row["state"] for row in reader.store.engine.links()}
        found = any(state == "corrupting" for state in states.values())
        if found:
            break
    assert found, f"the sick rail was not found: {states}"
    # Only what touches the sick rail is blamed.
    assert all(SICK in name for name, state in states.items() if state == "corrupting"), states
    for _ in range(5):
        assert all_are(reader.get(keys), PageStatus.HIT)
        assert reader.verify(keys)


if not can_inject():
    del test_invariant_1_no_get_fails_over_a_corrupting_rail
