"""Pages published where they lie in a serving engine's memory: found by all, read with the same care, and gone before
that memory holds something else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.stores import Client, Open, Server, all_are, names, page, wait_for
from tent_core.errors import InvalidArgument
from tent_core.store import PageStatus
from tent_core.store.batch import digests_of, make_batch
from tent_core.store.context import Deadline

_COUNT, _SIZE = 16, 20_000
_KEYS = names(_COUNT)


class Engine:
    """A serving process: a host pool of its own, a counter for each of its blocks, and no memory for the store."""

    def __init__(self, open_store: Open, **more: Any) -> None:
        self.store = open_store(**{"capacity": "0", "node__name": "engine", **more})
        self.space = self.store.namespace({"model": "test", "page": _SIZE})
        self.pool = np.zeros((_COUNT, _SIZE), dtype=np.uint8)
        self.tokens = np.ones(_COUNT, dtype=np.uint64)
        self.shared = self.store.share(self.pool, _SIZE)

    def address(self, rows: Any) -> Any:
        return self.pool.ctypes.data + np.asarray(rows, dtype=np.uint64) * np.uint64(_SIZE)

    def token(self, rows: Any) -> Any:
        return self.tokens.ctypes.data + np.asarray(rows, dtype=np.uint64) * np.uint64(8)

    def fill(self, rows: Any, keys: list[bytes]) -> None:
        for row, key in zip(rows, keys, strict=True):
            self.pool[row] = page(key, _SIZE)

    def publish(self, rows: Any, keys: list[bytes]) -> Any:
        self.fill(rows, keys)
        return self.store.publish(self.space, keys, self.address(rows), _SIZE, token=self.token(rows))


@pytest.fixture
def engine(open_store: Open) -> Engine:
    made = Engine(open_store)
    assert all_are(made.publish(range(_COUNT), _KEYS), PageStatus.STORED)
    return made


@pytest.fixture(params=["shared memory", "tcp"])
def reader(open_store: Open, engine: Engine, request: pytest.FixtureRequest) -> Iterator[Client]:
    """On the engine's host, where it copies for itself, or elsewhere."""
    far = {"node__host_identity": "far away"} if request.param == "tcp" else {}
    yield Client(open_store(capacity="0", **far), size=_SIZE, count=_COUNT)


def _missing(status: Any) -> list[int]:
    rows: list[int] = np.flatnonzero(status != PageStatus.HIT).tolist()
    return rows


def test_all_find_and_read_them_and_nothing_is_copied(engine: Engine, reader: Client) -> None:
    assert all_are(reader.exists(_KEYS), PageStatus.HIT)
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)
    own = Client(engine.store, size=_SIZE, count=_COUNT)  # the engine itself, too
    assert all_are(own.get(_KEYS), PageStatus.HIT) and own.verify(_KEYS)
    stats = engine.store.stats()
    assert stats["in_place"]["bytes"] == _COUNT * _SIZE and "capacity" not in stats
    assert all_are(engine.publish(range(_COUNT), _KEYS), PageStatus.PRESENT)
    assert all_are(engine.store.remove(engine.space, _KEYS[:4]), PageStatus.HIT)
    assert _missing(reader.get(_KEYS)) == [0, 1, 2, 3]
    own.segment.close()


@pytest.mark.protects("epoch")
def test_invariant_1_a_retired_page_is_stale_at_once(engine: Engine, reader: Client) -> None:
    """It is so for readers that know where it lay, even while the bytes are still there."""
    assert all_are(reader.get(_KEYS), PageStatus.HIT)  # connected
    located = reader.lookup(_KEYS).located
    engine.shared.retire(engine.address([3, 4]))
    inside = reader.store._reader
    batch = make_batch(reader.space.digest, _KEYS, reader.addresses(_COUNT), _SIZE)
    part = inside._start(batch, located, np.arange(_COUNT), located.nodes[0], Deadline(20), "normal")
    status = inside._finish(part, Deadline(20))
    assert _missing(status) == [3, 4] and all_are(status[3:5], PageStatus.STALE_EPOCH)


def test_a_retired_page_leaves_the_directory_and_its_room_is_used_again(
    engine: Engine, reader: Client
) -> None:
    engine.shared.retire(engine.address([3, 4]))
    assert _missing(reader.get(_KEYS)) == [3, 4]
    wait_for(lambda: _missing(reader.exists(_KEYS)) == [3, 4], "their records are gone")
    others = names(2, "other")
    assert all_are(engine.publish([3, 4], others), PageStatus.STORED)
    assert all_are(reader.get(others), PageStatus.HIT) and reader.verify(others)
    assert _missing(reader.get(_KEYS)) == [3, 4]


@pytest.mark.protects("check")
def test_invariant_1_pages_overwritten_without_a_word_are_misses(engine: Engine, reader: Client) -> None:
    located = reader.lookup(_KEYS)
    engine.pool[5] = page(b"something else", _SIZE)
    engine.pool[6, -1] ^= 1
    assert _missing(reader.get(_KEYS, lookup=located)) == [5, 6]


def test_a_reader_that_checks_nothing_checks_these(open_store: Open, engine: Engine) -> None:
    reader = Client(open_store(capacity="0", store__check=False), size=_SIZE, count=_COUNT)
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)
    located = reader.lookup(_KEYS)
    engine.pool[5, 100] ^= 1
    assert _missing(reader.get(_KEYS, lookup=located)) == [5]


@pytest.mark.protects("token")
def test_invariant_4_a_block_that_got_another_owner_meanwhile_is_not_published(engine: Engine) -> None:
    keys = names(2, "new")
    engine.fill([0, 1], keys)
    status, items = engine.store._context.in_place.native.publish(
        engine.space.digest,
        0,
        digests_of(engine.space.digest, keys),
        engine.address([0, 1])[:, None],
        np.full((2, 1), _SIZE, dtype=np.uint64),
        engine.token([0, 1]),
        np.array([1, 0], dtype=np.uint64),  # what they read at the call: the second has changed since
    )
    assert list(status) == [PageStatus.STORED, PageStatus.UNSTABLE] and len(items) == 1


def test_pages_whose_token_changes_leave_the_directory(engine: Engine, reader: Client) -> None:
    engine.tokens[[2, 9]] += np.uint64(1)
    wait_for(lambda: _missing(reader.exists(_KEYS)) == [2, 9], "the owner noticed")
    assert _missing(reader.get(_KEYS)) == [2, 9]
    assert engine.store.stats()["in_place"]["stale"] == 2


def test_invariant_11_after_close_nothing_reads_from_the_memory(engine: Engine, reader: Client) -> None:
    """Readers all the while; then the memory is anybody's, and no reader has seen that."""
    stop = threading.Event()
    wrong: list[bytes] = []

    def read() -> None:
        located = reader.lookup(_KEYS)
        while not stop.is_set():
            status = reader.get(_KEYS, lookup=located)
            for row in np.flatnonzero(status == PageStatus.HIT).tolist():
                if not (reader.buffer[row] == page(_KEYS[row], _SIZE)).all():
                    wrong.append(_KEYS[row])

    thread = threading.Thread(target=read)
    thread.start()
    try:
        wait_for(lambda: reader.store.engine.stats()["counters"]["bytes_read"], "it reads")
        engine.shared.close()
        engine.pool[:] = 0xA5
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert _missing(reader.get(_KEYS)) == list(range(_COUNT))
    wait_for(lambda: all_are(reader.exists(_KEYS), PageStatus.ABSENT), "the records are gone")
    engine.shared.close()  # once more does nothing


def test_memory_shared_with_readers_that_are_connected_already(open_store: Open, engine: Engine) -> None:
    reader = Client(open_store(capacity="0"), size=_SIZE, count=_COUNT)
    assert all_are(reader.get(_KEYS), PageStatus.HIT)
    more = np.stack([page(key, _SIZE) for key in names(4, "more")])
    with engine.store.share(more, _SIZE):
        addresses = more.ctypes.data + np.arange(4, dtype=np.uint64) * np.uint64(_SIZE)
        stored = engine.store.publish(engine.space, names(4, "more"), addresses, _SIZE)
        assert all_are(stored, PageStatus.STORED)
        assert all_are(reader.get(names(4, "more")), PageStatus.HIT) and reader.verify(names(4, "more"))


def test_a_directory_that_lost_its_memory_is_told_again(open_store: Open, server: Server) -> None:
    engine = Engine(open_store, directory__node_ttl_ms=1500)
    engine.publish(range(_COUNT), _KEYS)
    reader = Client(open_store(capacity="0"), size=_SIZE, count=_COUNT)
    server.client().flushall()
    wait_for(lambda: all_are(reader.exists(_KEYS), PageStatus.HIT), "they are published again")
    assert all_are(reader.get(_KEYS), PageStatus.HIT) and reader.verify(_KEYS)


def test_what_was_cleared_stays_away(engine: Engine, open_store: Open) -> None:
    reader = Client(open_store(capacity="0"), size=_SIZE, count=_COUNT)
    engine.store.clear(engine.space)
    assert _missing(reader.get(_KEYS)) == list(range(_COUNT))
    assert engine.store.stats()["in_place"]["pages"] == 0
    assert all_are(engine.publish(range(_COUNT), _KEYS), PageStatus.STORED)


def test_a_store_that_ends_takes_its_records_along(engine: Engine, server: Server) -> None:
    assert len(server.record_keys()) == _COUNT
    engine.store.close()
    assert not server.record_keys()


def test_what_is_refused(engine: Engine, open_store: Open) -> None:
    store, base = engine.store, engine.pool.ctypes.data
    with pytest.raises(InvalidArgument, match="one piece"):
        store.publish(engine.space, [b"k"], np.array([[base, base + 100]]), [100, 100])
    with pytest.raises(InvalidArgument, match="inside one page"):
        store.publish(engine.space, [b"k"], np.array([base + 100]), _SIZE)
    with pytest.raises(InvalidArgument, match="outside"):
        engine.shared.retire(base - 1)
    other = open_store()
    buffer = np.zeros(1000, dtype=np.uint8)
    segment = other.register(buffer)
    with pytest.raises(InvalidArgument, match="no memory is shared"):
        other.publish(other.namespace({"model": "m"}), [b"k"], np.array([buffer.ctypes.data]), 1000)
    segment.close()
    with pytest.raises(InvalidArgument, match="does not fit"):
        other.share(buffer, 2000)


def test_a_page_that_was_put_is_not_published_twice_and_a_put_makes_a_copy(open_store: Open) -> None:
    engine = Engine(open_store, capacity="16MiB")
    source = np.stack([page(key, _SIZE) for key in _KEYS[:4]])
    segment = engine.store.register(source)
    addresses = source.ctypes.data + np.arange(4, dtype=np.uint64) * np.uint64(_SIZE)
    assert all_are(engine.store.put(engine.space, _KEYS[:4], addresses, _SIZE), PageStatus.STORED)
    status = engine.publish(range(8), _KEYS[:8])
    assert all_are(status[:4], PageStatus.PRESENT) and all_are(status[4:], PageStatus.STORED)
    source[:] = np.stack([page(key, _SIZE) for key in _KEYS[4:8]])
    assert all_are(engine.store.put(engine.space, _KEYS[4:8], addresses, _SIZE), PageStatus.STORED)
    engine.shared.close()
    reader = Client(open_store(capacity="0"), size=_SIZE, count=_COUNT)
    wait_for(lambda: all_are(reader.get(_KEYS[:8]), PageStatus.HIT), "all of them have been put")
    assert reader.verify(_KEYS[:8])
    segment.close()
