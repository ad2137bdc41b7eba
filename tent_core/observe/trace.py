"""A flight recording as a Chrome trace (chrome://tracing, ui.perfetto.dev): a track for each link.

A link is a "process" of the trace: its slices lie in lanes, as many as it had in flight at once, and its health lies
in a lane of its own. Transfers are a process of their own. Times are microseconds since the window began.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tent_core import _native

__all__ = ["chrome_trace"]

_TRANSFERS = 1
_FIRST_LINK = 2  # the pid of link 0
_HEALTH = 0


class _Lanes:
    """Puts intervals where they overlap nothing."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._free: list[int] = []
        self.used = 0

    def take(self) -> int:
        if self._free:
            return self._free.pop()
        self.used += 1
        return self._first + self.used - 1

    def give(self, lane: int) -> None:
        self._free.append(lane)
        self._free.sort(reverse=True)


class _Slice:
    def __init__(self, at: int, lane: int, fields: tuple[int, int, int, int, int, int]) -> None:
        self.at, self.lane = at, lane
        self.flow, self.attempt, self.link, self.begin, self.end, self.predicted = fields
        self.revoked_at: int | None = None


class _Trace:
    def __init__(self, since: int, until: int) -> None:
        self.since, self.until = since, until
        self.events: list[dict[str, Any]] = []
        self.links: dict[int, str] = {}
        self.states: dict[int, tuple[int, str]] = {}
        self.lanes: dict[int, _Lanes] = {}
        self.flow_lanes = _Lanes(0)
        self.open: dict[int, _Slice] = {}
        self.flows: dict[int, tuple[int, int, dict[str, Any]]] = {}
        self.slices = 0

    # ---- emitting, cut to the window

    def span(self, pid: int, tid: int, name: str, at: int, end: int, args: dict[str, Any]) -> bool:
        if end < self.since or at > self.until:
            return False
        at, end = max(at, self.since), min(end, self.until)
        times = {"ts": (at - self.since) / 1e3, "dur": (end - at) / 1e3}
        self.events.append({"ph": "X", "pid": pid, "tid": tid, "name": name, **times, "args": args})
        return True

    def instant(self, pid: int, tid: int, name: str, at: int, **args: Any) -> None:
        if self.since <= at <= self.until:
            times = {"ts": (at - self.since) / 1e3}
            self.events.append(
                {"ph": "i", "s": "p", "pid": pid, "tid": tid, "name": name, **times, "args": args}
            )

    def name(self, what: str, pid: int, tid: int, name: str) -> None:
        self.events.append({"ph": "M", "pid": pid, "tid": tid, "name": what, "args": {"name": name}})

    # ---- what happened

    def link(self, link: int, name: str, state: str, at: int) -> None:
        if link not in self.links:
            self.links[link] = name
            self.states[link] = (at, state)

    def begin(self, at: int, *fields: int) -> None:
        link = fields[2]
        lane = self.lanes.setdefault(link, _Lanes(1)).take()
        begun = _Slice(at, lane, fields)  # type: ignore[arg-type]
        self.open[begun.attempt] = begun

    def end_slice(self, at: int, attempt: int, outcome: str, reason: int = 0) -> None:
        begun = self.open.pop(attempt, None)
        if begun is None:
            return
        self.lanes[begun.link].give(begun.lane)
        took, predicted = at - begun.at, begun.predicted - begun.at
        args: dict[str, Any] = {
            "flow": begun.flow,
            "attempt": attempt,
            "begin": begun.begin,
            "end": begun.end,
            "outcome": outcome,
            "predicted_us": predicted / 1e3,
            "later_than_predicted_us": (took - predicted) / 1e3,
        }
        if reason:
            args["reason"] = reason
        if begun.revoked_at is not None:
            args["given_up_after_us"] = (begun.revoked_at - begun.at) / 1e3
        name = f"flow {begun.flow}: {_size(begun.end - begun.begin)}"
        if outcome != "done":
            name += f" ({outcome.replace('_', ' ')})"
        self.slices += self.span(_FIRST_LINK + begun.link, begun.lane, name, begun.at, at, args)

    def state(self, at: int, link: int, state: str) -> None:
        since, old = self.states.get(link, (self.since, "up"))
        self.span(_FIRST_LINK + link, _HEALTH, old, since, at, {})
        self.states[link] = (at, state)
        self.instant(_FIRST_LINK + link, _HEALTH, f"{old} -> {state}", at)

    def flow(self, at: int, flow: int, peer: int, nbytes: int, op: str, priority: str) -> None:
        args = {"flow": flow, "peer": peer, "bytes": nbytes, "op": op, "priority": priority}
        self.flows[flow] = (at, self.flow_lanes.take(), args)

    def flow_note(self, at: int, flow: int, **args: Any) -> None:
        if flow in self.flows:
            begun, _lane, known = self.flows[flow]
            known.update({"result": args["result"], "result_after_us": (at - begun) / 1e3})

    def end_flow(self, at: int, flow: int) -> None:
        found = self.flows.pop(flow, None)
        if found is None:
            return
        begun, lane, args = found
        self.flow_lanes.give(lane)
        self.span(_TRANSFERS, lane, f"{args['op']} {_size(args['bytes'])}", begun, at, args)

    def play(self, event: tuple[Any, ...]) -> None:
        kind, at, *rest = event
        if kind == "post":
            self.begin(at, *rest)
        elif kind == "ended":
            self.end_slice(at, *rest)
        elif kind == "revoke" and rest[0] in self.open:
            self.open[rest[0]].revoked_at = at
        elif kind == "link_state":
            self.state(at, *rest)
        elif kind in (
            "probe",
            "probe_good",
            "probe_bad",
            "corrupting",
            "asleep",
            "transport_down",
            "transport_up",
        ):
            self.instant(_FIRST_LINK + rest[0], _HEALTH, kind.replace("_", " "), at)
        elif kind == "flow":
            self.flow(at, *rest)
        elif kind in ("flow_done", "flow_failed", "flow_cancelled"):
            result = kind.removeprefix("flow_") + (f": {rest[1]}" if len(rest) > 1 else "")
            self.flow_note(at, rest[0], result=result)
        elif kind == "flow_released":
            self.end_flow(at, rest[0])
        elif kind == "own_lag":
            self.instant(_TRANSFERS, 0, "our own loop was late", at, ns=rest[0])

    def finish(self, at: int) -> None:
        for attempt in list(self.open):
            self.end_slice(at, attempt, "in_flight")
        for flow in list(self.flows):
            self.end_flow(at, flow)
        for link, (since, state) in self.states.items():
            self.span(_FIRST_LINK + link, _HEALTH, state, since, at, {})
        self.name("process_name", _TRANSFERS, 0, "transfers")
        for link, name in self.links.items():
            self.name("process_name", _FIRST_LINK + link, 0, f"link {name}")
            self.name("thread_name", _FIRST_LINK + link, _HEALTH, "health")
            lanes = self.lanes.get(link)
            for lane in range(lanes.used if lanes else 0):
                self.name("thread_name", _FIRST_LINK + link, 1 + lane, f"slices {lane}")


def chrome_trace(recording: bytes, window_s: float | None = None) -> dict[str, Any]:
    """The last ``window_s`` seconds of a recording, or all of it. Raises ProtocolError or VersionMismatch for other
    bytes. ``metadata.complete`` says whether the recording reaches back to the window's beginning."""
    read = _native.read_recording(recording)
    segments = read["segments"]
    until = read["monotonic_ns"]
    oldest = min((s["begins_ns"] for s in segments), default=until)
    since = oldest if window_s is None else until - round(window_s * 1e9)
    trace = _Trace(since, until)
    for segment in segments:
        _play_segment(trace, segment)
    trace.finish(until)
    # The ring begins with the node: what it has not forgotten is complete.
    complete = oldest <= since or (bool(segments) and segments[0]["sequence"] == 1)
    metadata = {
        "node": read["node"],
        "reason": read["reason"],
        "wall_clock_ns": read["wall_ns"] - (until - since),
        "window_s": (until - since) / 1e9,
        "complete": complete,
        "slices": trace.slices,
    }
    return {"traceEvents": trace.events, "displayTimeUnit": "ms", "metadata": metadata}


def _play_segment(trace: _Trace, segment: dict[str, Any]) -> None:
    for link, name, _peer, _local, _remote, state in segment["links"]:
        trace.link(link, name, state, segment["begins_ns"])
    _under_way(trace, segment["posted"])
    for event in segment["events"]:
        trace.play(event)


def _under_way(trace: _Trace, posted: Iterable[tuple[int, ...]]) -> None:
    """Attempts that were posted before what is left of the recording begins."""
    for attempt, flow, link, begin, end, at, predicted in posted:
        if attempt not in trace.open:
            trace.begin(at, flow, attempt, link, begin, end, predicted)


def _size(nbytes: int) -> str:
    value, unit = float(nbytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.4g} {unit}"
