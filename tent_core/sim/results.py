"""What a run showed: transfers, goodput, health, penalties, and what broke an invariant."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core.sim.scenario import Scenario

__all__ = ["DONE", "Result"]

LIVE, DONE, FAILED, CANCELLED = range(4)
_FATES = ("live", "done", "failed", "cancelled")
_DOWN, _UP, _SUSPECT, _PROBATION = range(4)


class Result:
    """One run. Times are nanoseconds since its start; ``loads`` says which table of transfers a workload is from."""

    def __init__(
        self, scenario: Scenario, report: dict[str, Any], nodes: list[str], rails: list[str], loads: list[int]
    ) -> None:
        self.scenario = scenario
        self.report = report
        self.nodes = nodes
        self.rails = rails
        self.loads = loads

    @property
    def digest(self) -> str:
        """Of everything that happened: two runs are the same run when it is the same."""
        return "".join(f"{part:016x}" for part in self.report["digest"])

    @property
    def violations(self) -> list[tuple[int, int, str]]:
        """(invariant, time, what happened); at most the first 64."""
        found: list[tuple[int, int, str]] = self.report["violations"]
        return found

    def violated(self, invariant: int) -> int:
        count: int = self.report["by_invariant"][invariant]
        return count

    def _of(self, load: int | None) -> npt.NDArray[np.bool_]:
        workload = self.report["transfers"]["workload"]
        if load is None:
            return np.ones(len(workload), dtype=bool)
        table: npt.NDArray[np.int64] = np.asarray(self.loads, dtype=np.int64)
        found: npt.NDArray[np.bool_] = table[workload] == load
        return found

    def fates(self, load: int | None = None) -> dict[str, int]:
        fate = self.report["transfers"]["fate"][self._of(load)]
        return {name: int(np.count_nonzero(fate == i)) for i, name in enumerate(_FATES)}

    def times(self, load: int | None = None, *, after: int = 0, before: int = 2**62) -> npt.NDArray[np.int64]:
        """How long each transfer took that is done and was submitted in this window; ns, in order of submission."""
        t = self.report["transfers"]
        chosen = self._of(load) & (t["fate"] == DONE)
        chosen &= (t["submitted"] >= after) & (t["submitted"] < before)
        took: npt.NDArray[np.int64] = (t["ended"] - t["submitted"])[chosen]
        return took

    def moved(self, load: int | None = None) -> int:
        t = self.report["transfers"]
        return int(t["bytes"][self._of(load) & (t["fate"] == DONE)].sum())

    def goodput(self, start: int, end: int) -> float:
        """Bytes a second that landed between two times."""
        width, warm = self.scenario.top["bin"], self.scenario.top["warm"]
        bins: npt.NDArray[np.uint64] = self.report["bins"]
        total = int(bins[max(0, (start - warm) // width) : max(0, (end - warm) // width)].sum())
        return float(total * 1e9 / max(1, (end - start) // width * width))

    def penalties(self) -> npt.NDArray[np.int64]:
        """What each transfer lost that had bytes on a link when it died; ns."""
        took: npt.NDArray[np.int64] = self.report["penalties"]["took"]
        return took[took >= 0]

    def reissued_share(self) -> float:
        """Slices that were given up or failed, of all."""
        posted = sum(wire["posted"] for wire in self.report["wires"])
        lost = sum(wire["revoked"] + wire["failed"] for wire in self.report["wires"])
        return float(lost / posted) if posted else 0.0

    def alarms(self) -> dict[str, int]:
        """Links that were suspected or taken down though nothing ailed them, and the last link of a peer taken down."""
        health = self.report["health"]
        false, state = health["alarm"] != 0, health["state"]
        down = state == _DOWN
        return {
            "suspected": int(np.count_nonzero(false & (state == _SUSPECT))),
            "down": int(np.count_nonzero(false & down)),
            "last_down": int(np.count_nonzero(false & down & (health["last"] != 0))),
        }

    def summary(self) -> dict[str, Any]:
        """What `tent sim run --json` prints."""
        end = self.report["end"]
        loads = []
        for i, row in enumerate(self.scenario.sections["transfers"]):
            took = self.times(i)
            at = [float(v) / 1e3 for v in np.percentile(took, [50, 90, 99, 99.9])] if len(took) else []
            loads.append(
                {
                    "from": row["from"],
                    "to": row["to"],
                    "op": ("read", "write")[row["op"]],
                    **self.fates(i),
                    "bytes": self.moved(i),
                    "microseconds": dict(zip(("p50", "p90", "p99", "p99.9"), at, strict=False)),
                }
            )
        penalties = self.penalties()
        return {
            "seed": self.scenario.top["seed"],
            "digest": self.digest,
            "simulated_seconds": end / 1e9,
            "goodput_Bps": sum(row["bytes"] for row in loads) * 1e9 / end if end else 0.0,
            "transfers": loads,
            "slices": self.report["posts"],
            "hedged": self.report["hedged"],
            "reissued_share": self.reissued_share(),
            "late_pieces_kept_out": self.report["drained"],
            "false_alarms": self.alarms(),
            "penalty_ms": {
                "count": len(penalties),
                "p99": float(np.percentile(penalties, 99)) / 1e6 if len(penalties) else 0.0,
                "max": float(penalties.max()) / 1e6 if len(penalties) else 0.0,
            },
            "links": self.report["wires"],
            "violations": [{"invariant": n, "at_ns": at, "what": what} for n, at, what in self.violations],
            "violated": self.report["violated"],
        }
