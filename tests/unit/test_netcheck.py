"""What `tent net check` deduces from what it measured."""

from __future__ import annotations

import itertools

import pytest

from tent_core.errors import ProtocolError
from tent_core.observe.netcheck import Measured, _links, blame, rounds
from tent_core.observe.sampler import Sampler
from tent_core.probing import _pairs

RAILS = ("rail0", "rail1", "rail2")


def full(nodes: int, rails: tuple[str, ...] = RAILS) -> list[Measured]:
    """All well."""
    names = [f"n{i}" for i in range(nodes)]
    return [
        Measured(a, b, rail, rail, latency_us=100, worst_us=200, rate=1e8, probes=20)
        for a, b in itertools.permutations(names, 2)
        for rail in rails
    ]


def found(links: list[Measured]) -> list[tuple[str, str]]:
    return [(item.kind, item.name) for item in blame(links)]


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_nothing_is_wrong(nodes: int) -> None:
    assert found(full(nodes)) == []


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_a_rail_that_is_dead_everywhere(nodes: int) -> None:
    links = full(nodes)
    for link in links:
        if link.local == "rail1":
            link.error = "no answer"
    assert found(links) == [("rail", "rail1")]


def test_one_nic_of_many() -> None:
    links = full(4)
    for link in links:
        if ("n2", "rail0") in link.ends:
            link.lost = 3
    assert found(links) == [("NIC", "n2/rail0")]


def test_a_host_whose_links_are_all_slow() -> None:
    links = full(4)
    for link in links:
        if "n3" in (link.reader, link.owner):
            link.rate = 1e7
    findings = blame(links)
    assert [(item.kind, item.name) for item in findings] == [("host", "n3")]
    assert "slow" in findings[0].why


def test_one_path_between_two_hosts() -> None:
    links = full(4)
    for link in links:
        if {link.reader, link.owner} == {"n0", "n3"} and link.local == "rail2":
            link.error = "no answer"
    assert found(links) == [("path", "n0/rail2 - n3/rail2")]


def test_two_faults_at_once() -> None:
    links = full(5)
    for link in links:
        if ("n1", "rail0") in link.ends or ("n4", "rail2") in link.ends:
            link.error = "no answer"
    assert found(links) == [("NIC", "n1/rail0"), ("NIC", "n4/rail2")]


def test_rails_that_are_uneven_by_design_are_not_sick() -> None:
    links = full(3)
    for link in links:
        link.rate = {"rail0": 2.4e8, "rail1": 2.4e8, "rail2": 1.2e8}[link.local]
    assert found(links) == []


def test_every_pair_meets_once_each_way_and_nobody_twice_in_a_round() -> None:
    for count in range(2, 8):
        names = [f"n{i}" for i in range(count)]
        all_rounds = list(rounds(names))
        met = [pair for pairs in all_rounds for pair in pairs]
        assert sorted(met) == sorted(itertools.permutations(names, 2))
        for pairs in all_rounds:
            busy = [name for pair in pairs for name in pair]
            assert len(busy) == len(set(busy))


def test_rails_are_paired_by_name_and_a_missing_one_shows() -> None:
    assert _pairs(["a", "b"], ["a", "b"]) == [(0, 0), (1, 1)]
    assert _pairs(["a"], ["a", "b"]) == [(0, 0), (None, 1)]
    assert _pairs(["b", "a"], ["a"]) == [(0, None), (1, 0)]
    assert _pairs(["x", "y"], ["p", "q", "r"]) == [(0, 0), (1, 1), (0, 2)]
    assert _pairs([], ["a"]) == []


@pytest.mark.parametrize(
    "report", [b"", b"[]", b"{}", b'{"links": 3}', b'{"links": [{}]}', b'{"links": [{"local": 1}]}', b"\xff"]
)
def test_a_report_that_makes_no_sense_is_refused(report: bytes) -> None:
    with pytest.raises(ProtocolError):
        _links("a", "b", report)


def test_a_node_that_started_anew_has_no_rates_yet() -> None:
    link = dict.fromkeys(
        ("rate_Bps", "in_flight", "outstanding", "latency_ns", "used", "bytes_reissued", "revoked", "failed",
         "faults"), 0,
    )  # fmt: skip
    link |= {
        "peer": "b",
        "name": "b/x",
        "transport": "tcp",
        "state": "up",
        "bytes_used": 100,
        "last_fault": None,
    }
    stats = {"name": "a", "incarnation": b"1", "now_ns": 0, "links": [link]}
    sampler = Sampler()
    assert sampler.add(stats)[0].rate is None
    assert sampler.add({**stats, "now_ns": 10**9, "links": [{**link, "bytes_used": 300}]})[0].rate == 200
    assert sampler.add({**stats, "incarnation": b"2", "now_ns": 2 * 10**9})[0].rate is None
