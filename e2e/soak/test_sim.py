"""The simulator for longer: an hour of simulated time, or TENT_TEST_SIM_MINUTES of it. CI's tier ``soak`` has a minute:

TENT_TEST_SIM_MINUTES=60 bash tests/run.sh soak
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from tent_core.sim import run

_SIM_MINUTES = int(os.environ.get("TENT_TEST_SIM_MINUTES", "60"))
_RATES = ("239MB", "239MB", "119500KB", "29900KB")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("op", ["read", "write"])
def test_an_hour_of_jitter_and_starved_processors(op: str) -> None:
    result = run(
        {
            "duration": f"{_SIM_MINUTES}min",
            "bin": "1s",
            "check_every": 1 << 20,
            "node": [{"name": "a"}, {"name": "b"}],
            "rail": [
                {"name": f"rail{i}", "rate": rate, "burst": "128KiB", "latency": "30us"}
                for i, rate in enumerate(_RATES)
            ],
            "transfers": [
                {
                    "from": "a",
                    "to": "b",
                    "op": op,
                    "bytes": "64KiB..4MiB",
                    "concurrent": 4,
                    "pause": "60ms",
                    "deadline": "30s",
                }
            ],
            "weather": [
                {"kind": "jitter", "on": "50ms", "off": "50ms", "extra": "3ms"},
                {"kind": "stop", "on": "3ms", "off": "30ms"},
                {"kind": "stop", "on": "100ms", "off": "5s"},
            ],
        }
    )
    print(
        f"{op}: {result.report['posts']} slices, {100 * result.reissued_share():.3f} % given up, {result.alarms()}, "
        f"P99 {np.percentile(result.times(), 99) / 1e6:.1f} ms, {result.report['events']} events"
    )
    assert not result.violations
    assert result.reissued_share() < 0.01
    assert result.alarms()["last_down"] == 0
    assert result.fates()["failed"] == 0
