"""Node and segment records: names, time to live, incarnations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tent_core.errors import NameInUse, SegmentGone
from tent_metadata import Directory

ONE, TWO = b"1" * 16, b"2" * 16


@pytest.fixture(params=["standalone", "cluster"])
def nodes(request: pytest.FixtureRequest, opened: Callable[..., Directory]) -> Directory:
    if request.param == "cluster":
        return opened(request.getfixturevalue("cluster_url"))
    return opened(request.getfixturevalue("server").url)


def test_a_node_is_found_by_name_and_in_the_list(nodes: Directory) -> None:
    nodes.put_node("a", ONE, b"how to reach a")
    nodes.put_node("b\N{SNOWMAN}", TWO, b"")
    assert nodes.get_node("a") == (ONE, b"how to reach a")
    assert nodes.get_node("c") is None
    assert nodes.nodes() == {"a": (ONE, b"how to reach a"), "b\N{SNOWMAN}": (TWO, b"")}


def test_a_live_name_is_refused_to_another_incarnation(nodes: Directory) -> None:
    nodes.put_node("a", ONE, b"first")
    with pytest.raises(NameInUse, match="'a'"):
        nodes.put_node("a", TWO, b"second")
    nodes.put_node("a", ONE, b"renewed")
    assert nodes.get_node("a") == (ONE, b"renewed")
    assert not nodes.remove_node("a", TWO)
    assert nodes.remove_node("a", ONE)
    nodes.put_node("a", TWO, b"second")
    assert nodes.get_node("a") == (TWO, b"second")


def test_a_record_expires_and_leaves_the_list(nodes: Directory, eventually: Callable[..., Any]) -> None:
    nodes.put_node("short", ONE, b"", 30)
    nodes.put_node("long", TWO, b"", 60_000)
    eventually(lambda: nodes.get_node("short") is None, "the record expired")
    assert list(nodes.nodes()) == ["long"]
    nodes.put_node("short", TWO, b"")
    assert nodes.get_node("short") == (TWO, b"")


def test_segments_live_with_their_node(nodes: Directory, eventually: Callable[..., Any]) -> None:
    with pytest.raises(SegmentGone):
        nodes.put_segment("a", ONE, "pool", b"x")
    nodes.put_node("a", ONE, b"", 60_000)
    nodes.put_segment("a", ONE, "pool", b"64 MiB of it")
    nodes.put_segment("a", ONE, "spare", b"1")
    assert nodes.segments("a") == (ONE, {"pool": b"64 MiB of it", "spare": b"1"})
    with pytest.raises(SegmentGone):
        nodes.put_segment("a", TWO, "pool", b"not its")
    nodes.remove_segment("a", ONE, "spare")
    nodes.put_node("a", ONE, b"", 60_000)
    assert nodes.segments("a") == (ONE, {"pool": b"64 MiB of it"}), "renewing a node keeps its segments"
    nodes.remove_node("a", ONE)
    assert nodes.segments("a") is None
    nodes.put_node("a", TWO, b"", 60_000)
    nodes.put_segment("a", TWO, "pool", b"y")
    assert nodes.segments("a") == (TWO, {"pool": b"y"}), "nothing of the earlier incarnation"
    nodes.put_node("a", TWO, b"", 30)
    eventually(lambda: nodes.segments("a") is None, "the segments expired with their node")


def test_garbage_in_node_records_is_skipped(directory: Directory, server: Any) -> None:
    client = server.client()
    directory.put_node("good", ONE, b"")
    client.set("tent:test:{nodes}:n:short", b"xx", px=60_000)
    client.lpush("tent:test:{nodes}:n:list", b"xx")
    client.sadd("tent:test:{nodes}:all", b"short", b"list", b"\xff\xfe", b"a b", b"x" * 5000, b"gone")
    assert directory.nodes() == {"good": (ONE, b"")}
    assert not client.sismember("tent:test:{nodes}:all", b"gone")
    assert directory.get_node("short") is None
    directory.put_node("list", TWO, b"")  # a record without a TTL holds no name
    assert directory.get_node("list") == (TWO, b"")


def test_an_index_or_segments_of_a_wrong_type_are_mended(directory: Directory, server: Any) -> None:
    client = server.client()
    client.set("tent:test:{nodes}:all", b"text")
    client.set("tent:test:{nodes}:s:a", b"text")
    assert directory.nodes() == {}
    assert directory.segments("a") is None
    directory.put_node("a", ONE, b"")
    directory.put_segment("a", ONE, "s", b"x")
    assert list(directory.nodes()) == ["a"]
    assert directory.segments("a") == (ONE, {"s": b"x"})
