"""Page records and generations on a real server, alone and in a cluster of three."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tent_core.errors import InvalidArgument
from tent_metadata import Directory

NAMESPACE = bytes(range(16))
KINDS = ("standalone", "cluster")


@pytest.fixture(params=KINDS)
def shared(request: pytest.FixtureRequest, opened: Callable[..., Directory]) -> Callable[..., Directory]:
    """Opens any number of directories on one Redis of either kind."""
    if request.param == "cluster":
        url = request.getfixturevalue("cluster_url")
    else:
        url = request.getfixturevalue("server").url

    def make(**options: Any) -> Directory:
        return opened(url, **options)

    return make


def some_pages(count: int) -> list[tuple[bytes, bytes]]:
    return [(os.urandom(16), os.urandom(40 + i % 100)) for i in range(count)]


def test_what_was_published_is_found_in_order(shared: Callable[..., Directory]) -> None:
    writer, reader = shared(), shared()
    pages = some_pages(1000)
    assert writer.publish(NAMESPACE, pages, 0) == [True] * 1000
    asked = [digest for digest, _ in pages]
    absent = os.urandom(16)
    asked[500:500] = [absent]
    records, generation = reader.lookup(NAMESPACE, asked)
    assert generation == 0
    assert records[500] is None
    assert records[:500] + records[501:] == [record for _, record in pages]


def test_digests_may_come_as_one_array(shared: Callable[..., Directory]) -> None:
    directory = shared()
    pages = some_pages(100)
    directory.publish(NAMESPACE, pages, 0)
    table = np.frombuffer(b"".join(digest for digest, _ in pages), dtype=np.uint8).reshape(-1, 16)
    assert directory.lookup(NAMESPACE, table)[0] == [record for _, record in pages]
    assert directory.lookup(NAMESPACE, table[::2])[0] == [record for _, record in pages[::2]]
    assert directory.lookup(NAMESPACE, table[:0]) == ([], 0)
    for wrong in (table.astype(np.int64), table[:, :15], table[0]):
        with pytest.raises(InvalidArgument):
            directory.lookup(NAMESPACE, wrong)


def test_no_pages_is_no_trouble(shared: Callable[..., Directory]) -> None:
    directory = shared()
    assert directory.lookup(NAMESPACE, []) == ([], 0)
    assert directory.publish(NAMESPACE, [], 0) == []
    assert directory.replace([]) == []
    assert directory.unpublish([]) == 0


def test_the_first_publisher_wins_and_the_second_is_told(shared: Callable[..., Directory]) -> None:
    one, two = shared(), shared()
    pages = some_pages(20)
    assert one.publish(NAMESPACE, pages[:10], 0) == [True] * 10
    rivals = [(digest, b"rival" + bytes([i])) for i, (digest, _) in enumerate(pages)]
    told = two.publish(NAMESPACE, rivals, 0)
    assert told == [record for _, record in pages[:10]] + [True] * 10
    records, _ = two.lookup(NAMESPACE, [digest for digest, _ in pages])
    assert records == [record for _, record in pages[:10]] + [record for _, record in rivals[10:]]


def test_publishing_again_what_is_there_is_no_conflict(shared: Callable[..., Directory]) -> None:
    directory = shared()
    pages = some_pages(3)
    directory.publish(NAMESPACE, pages, 0)
    assert directory.publish(NAMESPACE, pages, 0) == [True] * 3


def test_replace_and_unpublish_compare_first(shared: Callable[..., Directory]) -> None:
    directory = shared()
    (a, old_a), (b, old_b), (c, old_c) = pages = some_pages(3)
    directory.publish(NAMESPACE, pages, 0)
    assert directory.replace([(a, old_a, b"new"), (b, b"not that", b"new"), (os.urandom(16), b"x", b"y")]) == [
        True, False, False
    ]  # fmt: skip
    assert directory.replace([(a, old_a, b"new")]) == [True], "a reply that was lost is answered the same"
    assert directory.unpublish([(a, old_a), (b, old_b), (c, b"not that")]) == 1
    assert directory.lookup(NAMESPACE, [a, b, c])[0] == [b"new", None, old_c]


def test_after_clear_returned_everybody_sees_the_generation(shared: Callable[..., Directory]) -> None:
    one, two = shared(), shared()
    pages = some_pages(300)
    assert one.clear(NAMESPACE) == 1
    one.publish(NAMESPACE, pages, 1)
    assert two.clear(NAMESPACE) == 2
    for digest, _ in pages:  # whichever bucket a look-up meets
        assert one.lookup(NAMESPACE, [digest])[1] == 2
    assert one.generation(NAMESPACE) == two.generation(NAMESPACE) == 2
    assert shared().lookup(NAMESPACE, [pages[0][0]])[1] == 2
    assert one.lookup(bytes(16), [pages[0][0]])[1] == 0, "another namespace is not touched"


def test_a_publisher_that_missed_a_clear_stores_nothing(shared: Callable[..., Directory]) -> None:
    one, two = shared(), shared()
    pages = some_pages(50)
    two.clear(NAMESPACE)
    assert one.publish(NAMESPACE, pages, 0) == [False] * 50
    assert two.lookup(NAMESPACE, [digest for digest, _ in pages])[0] == [None] * 50
    assert one.lookup(NAMESPACE, [pages[0][0]])[1] == 1


def test_a_server_that_lost_the_generation_learns_it_from_a_publisher(
    directory: Directory, server: Any, opened: Callable[..., Directory]
) -> None:
    pages = some_pages(3)
    assert directory.clear(NAMESPACE) == 1
    server.client().flushall()
    assert directory.lookup(NAMESPACE, [pages[0][0]]) == ([None], 1), "who knew better is not deceived"
    assert opened(server.url).generation(NAMESPACE) == 0
    directory.publish(NAMESPACE, pages, 1)
    assert opened(server.url).generation(NAMESPACE) == 1


def test_two_clusters_in_one_redis_do_not_meet(shared: Callable[..., Directory]) -> None:
    mine, other = shared(cluster_id="a"), shared(cluster_id="a{b}")
    page = some_pages(1)
    mine.publish(NAMESPACE, page, 0)
    mine.clear(NAMESPACE)
    assert other.lookup(NAMESPACE, [page[0][0]]) == ([None], 0)
    assert other.nodes() == {}


def test_one_look_up_is_one_command_on_one_server(directory: Directory, server: Any) -> None:
    digests = [os.urandom(16) for _ in range(5000)]
    client = server.client()
    client.config_resetstat()
    directory.lookup(NAMESPACE, digests)
    stats = client.info("commandstats")
    assert {name: row["calls"] for name, row in stats.items() if "config" not in name} == {"cmdstat_mget": 1}


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.lookup(b"short", [bytes(16)]),
        lambda d: d.lookup(NAMESPACE, [bytes(16), bytes(15), bytes(17)]),
        lambda d: d.publish(NAMESPACE, [(bytes(16), b"")], 0),
        lambda d: d.publish(NAMESPACE, [(bytes(16), bytes(4097))], 0),
        lambda d: d.publish(NAMESPACE, [(bytes(16), b"x")], -1),
        lambda d: d.replace([(bytes(16), b"x", bytes(4097))]),
        lambda d: d.put_node("", bytes(16), b""),
        lambda d: d.put_node("two words", bytes(16), b""),
        lambda d: d.put_node("n", b"short", b""),
        lambda d: d.put_node("n", bytes(16), b"", 0),
        lambda d: d.put_segment("n", bytes(16), "s", b""),
    ],
)  # fmt: skip
def test_the_callers_mistakes_are_named(directory: Directory, call: Callable[[Directory], Any]) -> None:
    with pytest.raises(InvalidArgument):
        call(directory)
