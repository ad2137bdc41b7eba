"""The one metrics registry: counters, gauges and histograms with labels, and the native engine's counters merged in.

A name is dotted (``store.pages.hit``), labels say of what (``link="tcp:eth0"``). Everything here may be called from
any thread, never blocks for longer than a dictionary takes, and never raises into the code that counts. Handles are
meant to be kept: ``hits = registry.counter("store.pages.hit")`` once, ``hits.inc()`` often.
"""

from __future__ import annotations

import bisect
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tent_core.errors import InvalidArgument

__all__ = ["Counter", "Gauge", "Histogram", "Registry"]

_NAME = re.compile(r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$")
_LABEL = re.compile(r"^[a-z_][a-z0-9_]*$")
# Seconds, from 10 µs to 10 s: what a transfer, an operation of the directory or a batch may take.
DEFAULT_BOUNDS = (1e-5, 2.5e-5, 1e-4, 2.5e-4, 1e-3, 2.5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 2.5, 10.0)

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


class Counter:
    """A number that only grows."""

    kind = "counter"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: int | float = 0

    def inc(self, n: int | float = 1) -> None:
        """Add ``n``; a negative one is ignored, since a counter never falls."""
        if n > 0:
            with self._lock:
                self._value += n

    @property
    def value(self) -> int | float:
        return self._value

    def read(self) -> int | float:
        return self._value


class Gauge:
    """A number that rises and falls."""

    kind = "gauge"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: int | float = 0

    def set(self, value: int | float) -> None:
        with self._lock:
            self._value = value

    def add(self, n: int | float) -> None:
        with self._lock:
            self._value += n

    @property
    def value(self) -> int | float:
        return self._value

    def read(self) -> int | float:
        return self._value


class Histogram:
    """How often values fell below each of some bounds, with their count and sum."""

    kind = "histogram"

    def __init__(self, bounds: Sequence[float] = DEFAULT_BOUNDS) -> None:
        self._lock = threading.Lock()
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        index = bisect.bisect_left(self.bounds, value)
        with self._lock:
            self._counts[index] += 1
            self._sum += value

    def read(self) -> dict[str, Any]:
        """``{"count", "sum", "buckets": {bound: observations at or below it}}``; the last bound is ``inf``."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        running, buckets = 0, {}
        for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
            running += count
            buckets[bound] = running
        return {"count": running, "sum": total, "buckets": buckets}


Metric = Counter | Gauge | Histogram
_M = TypeVar("_M", Counter, Gauge, Histogram)


class Registry:
    """All metrics of one engine or process. The same name and labels give the same handle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: dict[Key, Metric] = {}
        self._native: list[Callable[[], Mapping[str, Any]]] = []

    def counter(self, name: str, **labels: str) -> Counter:
        return self._get(Counter, Counter, name, labels)

    def gauge(self, name: str, **labels: str) -> Gauge:
        return self._get(Gauge, Gauge, name, labels)

    def histogram(self, name: str, *, bounds: Sequence[float] = DEFAULT_BOUNDS, **labels: str) -> Histogram:
        return self._get(Histogram, lambda: Histogram(bounds), name, labels)

    def _get(self, cls: type[_M], make: Callable[[], _M], name: str, labels: Mapping[str, str]) -> _M:
        key = (name, tuple(sorted((label, str(value)) for label, value in labels.items())))
        found = self._metrics.get(key)
        if found is None:
            if not _NAME.match(name) or not all(_LABEL.match(label) for label in labels):
                raise InvalidArgument(
                    f"a metric's name is dotted lower case, its labels words: {name!r} {dict(labels)}"
                )
            with self._lock:
                found = self._metrics.setdefault(key, make())
        if not isinstance(found, cls):
            raise InvalidArgument(f"the metric {name!r} is a {found.kind} already, not a {cls.kind}")
        return found

    def attach_native(self, read: Callable[[], Mapping[str, Any]]) -> Callable[[], None]:
        """Merge a native source: ``read()`` gives names (with ``{label="value"}`` where there are any) and numbers.

        It is called at each `snapshot`, from the caller's thread; nested dicts become dotted names. The function
        returned detaches it. A source that raises is left out of that snapshot.
        """
        with self._lock:
            self._native.append(read)

        def detach() -> None:
            with self._lock:
                if read in self._native:
                    self._native.remove(read)

        return detach

    def snapshot(self) -> dict[str, Any]:
        """``name{label="value"}`` -> number, or a dict for a histogram; native counters of one name are added up."""
        with self._lock:
            metrics, native = list(self._metrics.items()), list(self._native)
        result: dict[str, Any] = {_render(name, labels): metric.read() for (name, labels), metric in metrics}
        for read in native:
            for name, value in _numbers(read):
                present = result.get(name, 0)
                result[name] = present + value if isinstance(present, int | float) else present
        return dict(sorted(result.items()))

    def to_prometheus(self) -> str:
        """The same in Prometheus's text format, names with underscores and the prefix ``tent_``."""
        with self._lock:
            kinds = {name: metric.kind for (name, _), metric in self._metrics.items()}
        lines: list[str] = []
        last = ""
        for key, value in sorted(self.snapshot().items(), key=lambda item: item[0].partition("{")[0]):
            name, brace, labels = key.partition("{")
            kind = kinds.get(name, "untyped")
            exposed = "tent_" + re.sub(r"[^a-zA-Z0-9_]", "_", name) + ("_total" if kind == "counter" else "")
            if exposed != last:
                lines.append(f"# TYPE {exposed} {kind}")
                last = exposed
            if isinstance(value, dict):
                lines.extend(_histogram_lines(exposed, labels.rstrip("}"), value))
            else:
                lines.append(f"{exposed}{brace}{labels} {value}")
        return "\n".join(lines) + "\n" if lines else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _render(name: str, labels: Labels) -> str:
    if not labels:
        return name
    return name + "{" + ",".join(f'{label}="{_escape(value)}"' for label, value in labels) + "}"


def _numbers(read: Callable[[], Mapping[str, Any]]) -> list[tuple[str, int | float]]:
    """What a native source has to say, flat; nothing when it fails (its engine may just have been closed)."""
    try:
        source = read()
    except Exception:
        return []
    flat: list[tuple[str, int | float]] = []
    pending: list[tuple[str, Mapping[str, Any]]] = [("", source)]
    while pending:
        prefix, tree = pending.pop()
        for name, value in tree.items():
            full = f"{prefix}{name}"
            if isinstance(value, Mapping):
                pending.append((f"{full}.", value))
            elif isinstance(value, int | float):
                flat.append((full, value))
    return flat


def _histogram_lines(name: str, labels: str, value: Mapping[str, Any]) -> list[str]:
    more = labels + "," if labels else ""
    lines = []
    for bound, count in value["buckets"].items():
        shown = "+Inf" if bound == float("inf") else repr(bound)
        lines.append(f'{name}_bucket{{{more}le="{shown}"}} {count}')
    braces = f"{{{labels}}}" if labels else ""
    return [*lines, f"{name}_sum{braces} {value['sum']}", f"{name}_count{braces} {value['count']}"]
