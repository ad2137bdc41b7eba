"""A run as a Chrome/Perfetto trace: a track for each link, a bar for each slice, a mark for each change of health."""

from __future__ import annotations

from typing import Any

from tent_core.sim.results import Result

__all__ = ["trace"]

_STATES = ("down", "up", "suspect", "probation")
_OUTCOMES = ("done", "link error", "revoked", "refused")


def trace(result: Result) -> dict[str, Any]:
    """Fit for JSON. The run must have kept its slices (``run(..., slices=True)``)."""
    events: list[dict[str, Any]] = []
    for i, name in enumerate(result.nodes):
        events.append({"ph": "M", "name": "process_name", "pid": i, "args": {"name": name}})
    wires = result.report["wires"]
    for i, wire in enumerate(wires):
        place = {"pid": wire["node"], "tid": i}
        events.append({"ph": "M", "name": "thread_name", **place, "args": {"name": wire["name"]}})
    s = result.report["slices"]
    for i in range(len(s["wire"])):
        wire = int(s["wire"][i])
        events.append(
            {
                "ph": "X",
                "name": f"transfer {int(s['transfer'][i])}",
                "cat": _OUTCOMES[int(s["outcome"][i])],
                "pid": wires[wire]["node"],
                "tid": wire,
                "ts": int(s["posted"][i]) / 1e3,
                "dur": int(s["over"][i] - s["posted"][i]) / 1e3,
                "args": {
                    "begin": int(s["begin"][i]),
                    "bytes": int(s["end"][i] - s["begin"][i]),
                    "predicted_us": int(s["predicted"][i] - s["posted"][i]) / 1e3,
                    "outcome": _OUTCOMES[int(s["outcome"][i])],
                },
            }
        )
    h = result.report["health"]
    for i in range(len(h["at"])):
        wire = int(h["wire"][i])
        place = {"pid": wires[wire]["node"], "tid": wire}
        at = {"ts": max(0, int(h["at"][i])) / 1e3}
        events.append({"ph": "i", "s": "t", "name": _STATES[int(h["state"][i])], **place, **at})
    return {"traceEvents": events, "displayTimeUnit": "ns"}
