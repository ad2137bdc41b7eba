from __future__ import annotations

import threading

import pytest

from tent_core.errors import InvalidArgument
from tent_core.metrics import Registry


def test_same_name_and_labels_are_one_metric() -> None:
    registry = Registry()
    registry.counter("store.pages", result="hit", node="a").inc(2)
    registry.counter("store.pages", node="a", result="hit").inc(3)
    registry.counter("store.pages", node="b", result="hit").inc()
    registry.gauge("store.bytes").set(7)
    registry.gauge("store.bytes").add(-2)
    assert registry.snapshot() == {
        "store.bytes": 5,
        'store.pages{node="a",result="hit"}': 5,
        'store.pages{node="b",result="hit"}': 1,
    }


def test_counts_of_many_threads_all_arrive() -> None:
    registry = Registry()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(2_000):
            registry.counter("n").inc()
            registry.histogram("h").observe(0.5)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    snapshot = registry.snapshot()
    assert snapshot["n"] == 16_000
    assert snapshot["h"]["count"] == 16_000
    assert snapshot["h"]["sum"] == 8_000


def test_histogram_buckets_are_cumulative_and_bounds_inclusive() -> None:
    histogram = Registry().histogram("h", bounds=(1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.read() == {"count": 5, "sum": 14.0, "buckets": {1.0: 2, 2.0: 4, float("inf"): 5}}


def test_native_sources_are_merged_and_may_fail() -> None:
    registry = Registry()
    registry.counter("engine.slices").inc(1)
    detach = registry.attach_native(
        lambda: {"engine": {"slices": 4}, 'link.bytes{link="tcp"}': 9, "text": "no"}
    )
    registry.attach_native(lambda: {"engine.slices": 10})

    def broken() -> dict[str, int]:
        raise RuntimeError("closed")

    registry.attach_native(broken)
    assert registry.snapshot() == {"engine.slices": 15, 'link.bytes{link="tcp"}': 9}
    detach()
    detach()
    assert registry.snapshot() == {"engine.slices": 11}


def test_prometheus_text() -> None:
    registry = Registry()
    registry.counter("store.pages", node='a"b').inc(2)
    registry.histogram("store.seconds", bounds=(0.5,), kind="get").observe(0.25)
    registry.attach_native(lambda: {"engine.slices": 3})
    assert registry.to_prometheus().splitlines() == [
        "# TYPE tent_engine_slices untyped",
        "tent_engine_slices 3",
        "# TYPE tent_store_pages_total counter",
        'tent_store_pages_total{node="a\\"b"} 2',
        "# TYPE tent_store_seconds histogram",
        'tent_store_seconds_bucket{kind="get",le="0.5"} 1',
        'tent_store_seconds_bucket{kind="get",le="+Inf"} 1',
        'tent_store_seconds_sum{kind="get"} 0.25',
        'tent_store_seconds_count{kind="get"} 1',
    ]


@pytest.mark.parametrize("name", ["", "Upper", "a..b", "with space", "a-b"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        Registry().counter(name)


def test_one_name_is_one_kind() -> None:
    registry = Registry()
    registry.counter("a.b")
    with pytest.raises(InvalidArgument, match="is a counter already"):
        registry.gauge("a.b")
