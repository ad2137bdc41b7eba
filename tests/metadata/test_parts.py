"""The parts that need no server: wire format, keys, breaker, resolver, kinds of refusal."""

from __future__ import annotations

import binascii
import threading
import time
from typing import Any

import hiredis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tent_metadata import resp
from tent_metadata.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, PROBE_LIMIT_S, Breaker
from tent_metadata.cluster import slot_of_bucket
from tent_metadata.counters import Counters
from tent_metadata.faults import Garbage, Refusal
from tent_metadata.keys import KeySpace
from tent_metadata.resolve import Resolver


def parse_in_pieces(data: bytes, cuts: list[int]) -> Any:
    parser, at = resp.Parser(), 0
    for cut in [*sorted(cuts), len(data)]:
        parser.feed(data[at:cut])
        at = max(at, cut)
        reply = parser.gets()
        if reply is not resp.NOT_YET:
            return reply
    return resp.NOT_YET


values = st.recursive(
    st.none() | st.integers(-(2**62), 2**62) | st.binary(max_size=40), lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def encode(value: Any) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return resp.bulk(value)
    return b"*%d\r\n%b" % (len(value), b"".join(map(encode, value)))


def depth(value: Any) -> int:
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(values, st.lists(st.integers(0, 200), max_size=5))
def test_replies_come_out_as_they_went_in(value: Any, cuts: list[int]) -> None:
    data = encode(value)
    if depth(value) > 4:
        with pytest.raises(Garbage):
            parse_in_pieces(data, [])
    else:
        assert parse_in_pieces(data, [min(cut, len(data)) for cut in cuts]) == value


@given(st.binary(max_size=80))
def test_hostile_bytes_end_in_garbage_or_waiting_as_in_hiredis(data: bytes) -> None:
    theirs = hiredis.Reader(protocolError=Garbage, replyError=Refusal, notEnoughData=resp.NOT_YET)
    for reader in (resp.Parser(), theirs):
        reader.feed(data)
        try:
            reader.gets()
        except Garbage:
            pass


@pytest.mark.parametrize(
    "data", [b"!x\r\n", b"$x\r\n", b"*9x\r\n", b"$3\r\nabcde", b":1.5\r\n", b"x" * 70000]
)
def test_what_is_no_reply_is_garbage(data: bytes) -> None:
    parser = resp.Parser()
    parser.feed(data)
    with pytest.raises(Garbage):
        parser.gets()


def test_keys_in_one_go_are_the_keys_one_by_one() -> None:
    keys = KeySpace("c")
    digests = np.random.default_rng(1).integers(0, 256, (300, 16), dtype=np.uint8)
    rows = keys.packed_pages(digests)
    assert rows.tobytes() == b"".join(resp.bulk(keys.page(bytes(digest))) for digest in digests)
    assert keys.page(bytes([0xAB] + [1] * 15)) == b"tent:c:{ab}:p:ab" + b"01" * 15


def test_a_strange_cluster_id_cannot_break_tags_or_patterns() -> None:
    for strange in ("a{b}", "*", "x y", "long" * 50, "\N{SNOWMAN}"):
        prefix = KeySpace(strange).prefix
        assert prefix.startswith(b"tent:h-") and prefix.count(b":") == 2
    assert KeySpace("a{b}").prefix != KeySpace("a{c}").prefix


def test_slots_are_those_of_the_cluster_specification() -> None:
    assert binascii.crc_hqx(b"123456789", 0) == 0x31C3  # the specification's own check value
    assert slot_of_bucket(0) == binascii.crc_hqx(b"00", 0) % 16384


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_open_breaker_lets_one_probe_through_at_a_time() -> None:
    clock = Clock()
    breaker = Breaker(clock, jitter=lambda: 1.0)
    assert breaker.admits() and breaker.admits()
    breaker.failed("down")
    breaker.failed("down")  # a call that was under way: the same failure
    assert not breaker.admits()
    clock.now += FIRST_PAUSE_S
    assert breaker.admits()
    assert not breaker.admits(), "one probe is under way"
    breaker.failed("still down")
    clock.now += FIRST_PAUSE_S
    assert not breaker.admits(), "the pause doubled"
    clock.now += FIRST_PAUSE_S
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.admits() and breaker.admits() and not breaker.is_open


def test_pauses_are_bounded_and_jittered() -> None:
    clock = Clock()
    slow, quick = Breaker(clock, jitter=lambda: 1.0), Breaker(clock, jitter=lambda: 0.0)
    for _ in range(12):
        for breaker in (slow, quick):
            assert breaker.admits()
            breaker.failed("down")
        clock.now += LONGEST_PAUSE_S
    slow.failed("down") if slow.admits() else None
    clock.now += LONGEST_PAUSE_S / 2
    assert quick.admits()


def test_a_probe_whose_caller_vanished_does_not_close_the_door_for_ever() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    breaker.failed("down")
    clock.now += LONGEST_PAUSE_S
    assert breaker.admits()
    clock.now += PROBE_LIMIT_S
    assert breaker.admits()


def test_many_threads_get_one_probe() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    breaker.failed("down")
    clock.now += LONGEST_PAUSE_S
    barrier, admitted = threading.Barrier(16), []

    def ask() -> None:
        barrier.wait()
        if breaker.admits():
            admitted.append(1)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("WRONGPASS invalid username-password pair or user is disabled.", "auth"),
        ("NOAUTH Authentication required.", "auth"),
        ("ERR invalid password", "auth"),
        ("NOPERM User x has no permissions to run the 'mget' command", "denied"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("READONLY You can't write against a read only replica.", "read_only"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "no_room"),
        ("ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed", "no_room"),
        ("MOVED 3999 127.0.0.1:6381", "moved"),
        ("NOSCRIPT No matching script.", "no_script"),
        ("CLUSTERDOWN Hash slot not served", "down"),
        ("ERR something new", "other"),
        ("", "other"),
    ],
)
def test_error_replies_are_told_apart(text: str, kind: str) -> None:
    assert Refusal(text).kind == kind


def test_names_are_resolved_within_the_deadline() -> None:
    resolver = Resolver()
    assert resolver.addresses("127.0.0.1", 5, 0.0)[0][4] == ("127.0.0.1", 5), "numbers need no resolver"
    assert resolver.addresses("localhost", 5, time.monotonic() + 20)
    with pytest.raises(OSError):
        resolver.addresses("no-such-host.invalid", 5, time.monotonic() + 20)
    with pytest.raises(TimeoutError):
        resolver.addresses("another-host.invalid", 5, 0.0)


def test_counts_reach_the_registry() -> None:
    from tent_core.metrics import Registry

    registry = Registry()
    counters = Counters(registry)
    counters.count("garbage", "too_long", 3)
    counters.count("garbage", "too_long")
    assert counters.read() == {"garbage:too_long": 4}
    assert registry.counter("directory.garbage", kind="too_long").value == 4
