"""Scenarios that tests share, and random ones for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_MB = 1_000_000


def pair(*mbytes: float, burst: str = "128KiB", latency: str = "30us", **top: Any) -> dict[str, Any]:
    """Two nodes, a and b, with rails of these rates (MB/s)."""
    rails = [
        {"name": f"rail{i}", "rate": f"{rate:g}MB", "burst": burst, "latency": latency}
        for i, rate in enumerate(mbytes)
    ]
    return {"seed": 1, "node": [{"name": "a"}, {"name": "b"}], "rail": rails, **top}


def load(bytes: str, **more: Any) -> dict[str, Any]:
    return {"from": "a", "to": "b", "bytes": bytes, **more}


def late_writes(seed: int, **top: Any) -> dict[str, Any]:
    """Writes whose rails fall silent under them, that end meanwhile, and whose buffers are used again at once, while
    the network gives back what it held up."""
    silences = [
        {"kind": "silent", "rail": f"rail{i}", "at": f"{5 + 40 * n + 11 * i}ms", "for": "25ms"}
        for i in range(2)
        for n in range(4)
    ]
    writes = load("256KiB..2MiB", op="write", concurrent=3, stop="180ms", deadline="20ms", cancel=0.2)
    return {**pair(200, 100, seed=seed, late="30ms", **top), "transfers": [writes], "fault": silences}


# ---- random clusters and what befalls them ---------------------------------------------------------------------------

_times = st.integers(0, 400).map(lambda ms: f"{ms}ms")
_spans = st.sampled_from(["1ms", "7ms", "30ms", "120ms", "500ms"])


@st.composite
def _faults(draw: st.DrawFn, nodes: int, rails: int) -> dict[str, Any]:
    kind = draw(
        st.sampled_from(
            [
                "drop",
                "delay",
                "corrupt",
                "stall",
                "slow",
                "down",
                "silent",
                "one_way",
                "flap",
                "fail_submit",
                "fail_after",
                "duplicate_completion",
                "stop_node",
            ]
        )
    )
    row: dict[str, Any] = {"kind": kind, "at": draw(_times), "for": draw(_spans)}
    row["node"] = f"n{draw(st.integers(0, nodes - 1))}"
    if kind == "stop_node":
        return row
    if draw(st.booleans()):
        row["rail"] = f"rail{draw(st.integers(0, rails - 1))}"
    if kind in ("drop", "corrupt", "delay", "duplicate_completion", "fail_submit"):
        row["chance"] = draw(st.sampled_from([0.01, 0.1, 0.5]))
    if kind == "delay":
        row["delay"] = draw(_spans)
    if kind == "slow":
        row["factor"] = draw(st.sampled_from([2, 10, 50]))
    if kind == "flap":
        row["period"] = draw(st.sampled_from(["3ms", "20ms", "90ms"]))
    if kind == "fail_after":
        row["count"] = draw(st.integers(0, 20))
    if kind == "one_way":
        row["direction"] = draw(st.sampled_from(["in", "out"]))
    return row


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Every fault of it ends; so every transfer must."""
    nodes, rails = draw(st.integers(2, 4)), draw(st.integers(1, 4))
    switched = draw(st.booleans())
    rows = []
    for i in range(rails):
        rate = draw(st.sampled_from([30, 120, 250, 1000, 3000]))
        row = {"name": f"rail{i}", "rate": f"{rate}MB", "burst": draw(st.sampled_from(["0B", "128KiB"]))}
        row["latency"] = draw(st.sampled_from(["2us", "30us", "400us"]))
        row["known"] = draw(st.booleans())
        if switched and draw(st.booleans()):
            row["switch"] = "core"
        rows.append(row)
    transfers = []
    for _ in range(draw(st.integers(1, 4))):
        a = draw(st.integers(0, nodes - 1))
        b = draw(st.integers(0, nodes - 1).filter(lambda n, a=a: n != a))
        row = {"from": f"n{a}", "to": f"n{b}", "op": draw(st.sampled_from(["read", "write"]))}
        row["bytes"] = draw(st.sampled_from(["1..4KiB", "64KiB", "64KiB..1MiB", "1MiB..8MiB"]))
        row["priority"] = draw(st.sampled_from(["interactive", "normal", "bulk"]))
        row["concurrent"] = draw(st.integers(1, 6))
        row["count"] = draw(st.integers(1, 30))
        row["pause"] = draw(st.sampled_from(["0ms", "2ms", "20ms"]))
        # Never without, as in an engine: what is dropped on the only link is waited for until then.
        row["deadline"] = draw(st.sampled_from(["5ms", "50ms", "2s", "30s"]))
        if draw(st.booleans()):
            row["cancel"] = draw(st.sampled_from([0.1, 0.5]))
        transfers.append(row)
    scenario: dict[str, Any] = {
        "seed": draw(st.integers(0, 2**32)),
        "node": [{"name": "n", "count": nodes}],
        "switch": [{"name": "core", "rate": "1GB"}],
        "rail": rows,
        "transfers": transfers,
        "fault": draw(st.lists(_faults(nodes, rails), max_size=8)),
        "lease": draw(st.sampled_from(["200ms", "3s"])),
        "late": draw(st.sampled_from(["0ms", "50ms", "600ms"])),
        "crossed": draw(st.booleans()),
        "check_every": 64,
        "duration": "300s",
    }
    if draw(st.booleans()):
        row = {"node": f"n{draw(st.integers(0, nodes - 1))}", "at": draw(_times)}
        scenario["unregister"] = [row]
    if draw(st.booleans()):
        kind = draw(st.sampled_from(["slow", "jitter", "loss", "stop"]))
        row = {"kind": kind, "on": draw(_spans), "off": draw(_spans), "stop": "3s"}
        if kind in ("slow", "loss"):
            row["share"] = [0.05, 0.5]
        if kind == "jitter":
            row["extra"] = "3ms"
        scenario["weather"] = [row]
    return scenario
