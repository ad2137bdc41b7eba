"""The connector's counters in vLLM's own log and on its Prometheus page.

`vllm:tent_events_total{event="load.hit"}` counts pages and faults by what became of them, `vllm:tent_bytes_total` and
`vllm:tent_microseconds_total` what was moved and how long steps waited for it.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from tent_core.store.reason import PageStatus

# Counters of pages among those of look-ups; the others count requests.
_ANSWERS = frozenset(status.name.lower() for status in PageStatus)
_UNITS = ("bytes", "microseconds")


class TentStats(KVConnectorStats):  # type: ignore[misc]
    """Increments since the last time; `data` is {counter: increment}."""

    def reset(self) -> None:
        self.data: dict[str, Any] = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for name, value in other.data.items():
            self.data[name] = self.data.get(name, 0) + value
        return self

    def is_empty(self) -> bool:
        return not self.data

    def reduce(self) -> dict[str, int | float]:
        """One line a log interval: pages by what became of them, and the rate of loads."""
        line: dict[str, int | float] = {
            f"tent.{name}": value
            for name, value in sorted(self.data.items())
            if name.rpartition(".")[2] not in _UNITS
        }
        microseconds = self.data.get("load.microseconds", 0)
        if microseconds:
            line["tent.load.GB/s"] = round(self.data.get("load.bytes", 0) / microseconds / 1e3, 3)
        asked = sum(
            count for name, count in self.data.items() if name.startswith("lookup.") and name[7:] in _ANSWERS
        )
        if asked:
            line["tent.hit_rate"] = round(self.data.get("lookup.hit", 0) / asked, 3)
        return line


class TentPromMetrics(KVConnectorPromMetrics):  # type: ignore[misc]
    def __init__(
        self,
        vllm_config: Any,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        counter = next(own for base, own in metric_types.items() if base.__name__ == "Counter")
        self._events = counter(
            name="vllm:tent_events",
            documentation="Pages and faults of TENT by what became of them.",
            labelnames=[*labelnames, "event"],
        )
        self._amounts = {
            unit: counter(
                name=f"vllm:tent_{unit}",
                documentation=f"{unit.capitalize()} of TENT's loads and saves.",
                labelnames=[*labelnames, "direction"],
            )
            for unit in _UNITS
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        labels = self.per_engine_labelvalues[engine_idx]
        for name, value in transfer_stats_data.items():
            what, _, unit = name.rpartition(".")
            if unit in _UNITS:
                self._amounts[unit].labels(*labels, what).inc(value)
            else:
                self._events.labels(*labels, name).inc(value)
