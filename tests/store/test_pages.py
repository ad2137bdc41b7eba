"""Pages put and got, in one process and between two nodes."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest

from support.stores import Client, Open, all_are, names, page, wait_for
from tent_core.errors import (
    Closed,
    Forked,
    InvalidArgument,
    OutOfRange,
    OverlappingRanges,
    ReadOnlyBuffer,
    Unregistered,
)
from tent_core.store import Namespace, PageStatus, StoreTransfer


def test_a_node_gets_what_another_put(open_store: Open) -> None:
    owner, reader = Client(open_store()), Client(open_store(capacity="0"))
    keys = names(20)
    assert all_are(owner.put(keys), PageStatus.STORED)
    status = reader.get([*keys, b"other"])
    assert all_are(status[:20], PageStatus.HIT)
    assert status[20] == PageStatus.ABSENT
    assert reader.verify(keys)
    assert all_are(owner.get(keys), PageStatus.HIT)
    assert owner.verify(keys)


def test_put_tells_who_was_first(open_store: Open) -> None:
    first, second = Client(open_store()), Client(open_store())
    keys = names(10)
    assert all_are(first.put(keys, flavour=1), PageStatus.STORED)
    assert all_are(first.put(keys, flavour=1), PageStatus.PRESENT)
    assert all_are(second.put(keys, flavour=2), PageStatus.PRESENT)
    for client in (first, second):
        assert all_are(client.get(keys), PageStatus.HIT)
        assert client.verify(keys, flavour=1)
    assert second.store.stats()["pages"] == 0  # the loser keeps nothing


def test_held_tells_what_a_put_would_find(open_store: Open) -> None:
    first, second = Client(open_store()), Client(open_store())
    first.put(names(2))
    for client in (first, second):
        found = client.store.held(client.space, names(3), lengths=client.size)
        assert found.tolist() == [PageStatus.PRESENT, PageStatus.PRESENT, PageStatus.ABSENT]
    longer = second.store.held(second.space, names(1), lengths=second.size + 1)
    assert longer.tolist() == [PageStatus.LENGTH_MISMATCH]
    first.store.close()
    gone = second.store.held(second.space, names(2))
    assert all_are(gone, PageStatus.ABSENT), "nobody has them: a put is wanted"


def test_pages_in_parts_come_back_in_other_parts(open_store: Open) -> None:
    owner, reader = open_store(), open_store(capacity="0")
    keys, whole = names(3), np.stack([page(key, 150_000) for key in names(3)])
    space = owner.namespace({"model": "parts"})
    owner.register(whole)
    # Two halves that lie apart, as K and V do; then three parts, one of them empty.
    base = whole.ctypes.data + np.arange(3, dtype=np.uint64)[:, None] * np.uint64(150_000)
    assert all_are(
        owner.put(space, keys, base + np.array([0, 75_000], dtype=np.uint64), [75_000, 75_000]),
        PageStatus.STORED,
    )
    back = np.zeros_like(whole)
    reader.register(back)
    base = back.ctypes.data + np.arange(3, dtype=np.uint64)[:, None] * np.uint64(150_000)
    addresses = base + np.array([0, 1, 1], dtype=np.uint64)
    assert all_are(reader.get(space, keys, addresses, np.array([1, 0, 149_999])), PageStatus.HIT)
    assert (back == whole).all()


def test_namespaces_never_meet(open_store: Open) -> None:
    client = Client(open_store())
    keys = names(3)
    client.put(keys)
    for other in (
        {"model": "test"},
        {"model": "test", "page": "20000"},
        {"model": "test", "page": 20_000, "x": 1},
    ):
        space = client.store.namespace(other)
        assert all_are(client.store.exists(space, keys), PageStatus.ABSENT)
    assert Namespace.of({"b": 1, "a": "x"}).digest == Namespace.of({"a": "x", "b": 1}).digest
    assert Namespace.of({"a": 1}).digest != Namespace.of({"a": True}).digest
    assert Namespace.of({"a": "b", "c": "d"}).digest != Namespace.of({"a": "bc", "": "d"}).digest


def test_lookup_counts_leading_hits_and_spares_the_directory(open_store: Open) -> None:
    owner, reader = Client(open_store()), Client(open_store(capacity="0"))
    keys = names(6)
    owner.put(keys[:3] + keys[4:])
    found = reader.lookup(keys, lengths=20_000, pin_ms=1000)
    assert found.hits == 3
    assert found.nbytes == 5 * 20_000
    assert found.status.tolist() == [0, 0, 0, 16, 0, 0]
    assert reader.store.predict_get(found) > 0
    assert all_are(reader.get(keys[:3], lookup=found), PageStatus.HIT)
    assert reader.verify(keys[:3])
    with pytest.raises(InvalidArgument, match="other keys"):
        reader.get(keys[1:3], lookup=found)
    wrong = reader.lookup(keys[:1], lengths=[10_000, 9_999])
    assert wrong.status.tolist() == [PageStatus.LENGTH_MISMATCH]
    found.release()


def test_another_length_is_a_miss(open_store: Open) -> None:
    owner = Client(open_store())
    owner.put(names(2))
    status = owner.store.get(owner.space, names(2), owner.addresses(2), 19_999)
    assert all_are(status, PageStatus.LENGTH_MISMATCH)


def test_submitted_operations(open_store: Open) -> None:
    owner, reader = Client(open_store()), Client(open_store(capacity="0"))
    keys = names(8)
    for row, key in enumerate(keys):
        owner.buffer[row] = page(key, 20_000)
    put = owner.store.submit_put(owner.space, keys, owner.addresses(8), 20_000)
    assert put.wait(10) and put.wait_released(10)
    assert all_are(put.status, PageStatus.STORED)
    ended = threading.Event()
    get = reader.store.submit_get(reader.space, [*keys[:5], b"none", keys[6]], reader.addresses(7), 20_000)
    get.add_done_callback(lambda transfer: ended.set())
    assert get.wait(10) and ended.wait(10)
    assert get.prefix == 5
    assert get.status.tolist() == [0, 0, 0, 0, 0, 16, 0]
    assert not get.cancel()
    called: list[StoreTransfer] = []
    get.add_done_callback(called.append)
    assert called == [get]


def test_a_queued_operation_that_is_cancelled_never_runs(open_store: Open) -> None:
    client = Client(open_store())
    workers = client.store._workers
    assert workers is not None
    gate = threading.Event()
    held = [
        workers.submit(1, lambda control: (gate.wait(20), np.zeros(1, dtype=np.uint8))[1]) for _ in range(2)
    ]
    put = client.store.submit_put(client.space, names(4), client.addresses(4), client.size)
    assert not put.wait(0)
    assert put.cancel() and put.wait_released(0)
    assert all_are(put.status, PageStatus.CANCELLED)
    gate.set()
    assert all(transfer.wait(10) for transfer in held)
    assert all_are(client.exists(names(4)), PageStatus.ABSENT)


def test_a_full_queue_refuses_and_does_not_block(open_store: Open) -> None:
    client = Client(open_store())
    workers = client.store._workers
    assert workers is not None
    gate = threading.Event()
    taken = threading.Semaphore(0)

    def hold(control: object) -> Any:
        taken.release()
        gate.wait(20)
        return np.zeros(1, dtype=np.uint8)

    # Every worker holds one operation before the queue is filled, so that none makes room afterwards.
    for _ in range(len(workers._threads)):
        workers.submit(1, hold)
    assert all(taken.acquire(timeout=20) for _ in range(len(workers._threads)))
    for _ in range(300):
        workers.submit(1, hold)
    put = client.store.submit_put(client.space, names(2), client.addresses(2), client.size)
    assert put.done
    assert all_are(put.status, PageStatus.REFUSED)
    gate.set()


@pytest.mark.protects("token")
def test_invariant_4_a_queued_put_whose_block_changed_hands_is_not_published(open_store: Open) -> None:
    client = Client(open_store())
    workers = client.store._workers
    assert workers is not None
    counters = np.full(4, 7, dtype=np.uint64)
    gate = threading.Event()
    held = [
        workers.submit(1, lambda control: (gate.wait(20), np.zeros(1, dtype=np.uint8))[1]) for _ in range(2)
    ]
    tokens = counters.ctypes.data + np.arange(4, dtype=np.uint64) * np.uint64(8)
    put = client.store.submit_put(client.space, names(4), client.addresses(4), client.size, token=tokens)
    counters[2] += 1  # the block gets another owner while the put waits
    client.buffer[2] = 0xEE
    gate.set()
    assert put.wait(10) and all(transfer.wait(10) for transfer in held)
    assert put.status.tolist() == [1, 1, PageStatus.UNSTABLE, 1]
    assert client.exists(names(4))[2] == PageStatus.ABSENT


def test_remove_and_clear(open_store: Open) -> None:
    owner, reader = Client(open_store()), Client(open_store(capacity="0"))
    keys = names(6)
    owner.put(keys)
    assert all_are(reader.store.remove(reader.space, keys[:2]), PageStatus.HIT)  # from afar
    assert all_are(owner.store.remove(owner.space, keys[2:3]), PageStatus.HIT)
    assert owner.exists(keys).tolist() == [16, 16, 16, 0, 0, 0]
    assert owner.store.stats()["pages"] == 3
    assert all_are(owner.put(keys[:3], flavour=1), PageStatus.STORED)
    reader.store.clear(reader.space)
    for client in (owner, reader):
        assert all(PageStatus(status).is_miss for status in client.get(keys))
    assert all_are(owner.put(keys, flavour=2), PageStatus.STORED)
    assert all_are(reader.get(keys), PageStatus.HIT)
    assert reader.verify(keys, flavour=2)


@pytest.mark.protects("generation")
def test_invariant_1_a_record_from_before_a_clear_is_a_miss(open_store: Open) -> None:
    owner, reader = Client(open_store()), Client(open_store(capacity="0"))
    owner.put(names(3))
    records, _ = owner.store.directory.lookup(owner.space.digest, _digests(owner))
    owner.store.clear(owner.space)
    wait_for(lambda: all_are(owner.exists(names(3)), PageStatus.ABSENT), "cleared records are taken out")
    items = [(digest, record) for digest, record in zip(_digests(owner), records, strict=True) if record]
    client = owner.store.directory
    client.publish(owner.space.digest, items, client.generation(owner.space.digest))  # by a broken node
    assert all_are(reader.get(names(3)), PageStatus.CLEARED)


def _digests(client: Client) -> list[bytes]:
    from tent_core.store.batch import digests_of

    return [row.tobytes() for row in digests_of(client.space.digest, names(3))]


def test_mistakes_of_the_caller_are_named(open_store: Open) -> None:
    client = Client(open_store())
    put, space = client.store.put, client.space
    own = np.zeros(100, dtype=np.uint8)
    with pytest.raises(Unregistered, match="register"):
        put(space, [b"a"], own.ctypes.data + np.zeros(1, dtype=np.uint64), 100)
    with pytest.raises(OutOfRange, match="past the end"):
        put(space, [b"a"], client.addresses(64)[63:], client.size + 1)
    with pytest.raises(InvalidArgument, match="empty"):
        put(space, [b"a"], client.addresses(1), 0)
    with pytest.raises(InvalidArgument, match="negative"):
        put(space, [b"a"], client.addresses(1), -5)
    with pytest.raises(InvalidArgument, match="1 to 256"):
        put(space, [b""], client.addresses(1), 5)
    with pytest.raises(InvalidArgument, match="bytes"):
        put(space, ["a"], client.addresses(1), 5)  # type: ignore[list-item]
    with pytest.raises(InvalidArgument, match="shape"):
        put(space, [b"a", b"b"], client.addresses(1), 5)
    with pytest.raises(InvalidArgument, match="lengths"):
        put(space, [b"a"], client.addresses(1), [1, 2, 3])
    with pytest.raises(InvalidArgument, match="counter per page"):
        put(space, [b"a"], client.addresses(1), 5, token=[1, 2])
    with pytest.raises(InvalidArgument, match="time-out"):
        put(space, [b"a"], client.addresses(1), 5, timeout=0)
    with pytest.raises(InvalidArgument, match="priority"):
        client.get([b"a"], priority="urgent")
    with pytest.raises(InvalidArgument, match="at least one field"):
        client.store.namespace({})
    assert put(space, [], np.empty(0, dtype=np.uint64), 5).shape == (0,)


def test_destinations_that_cannot_be(open_store: Open) -> None:
    """Two pages into the same bytes, and a page into memory that is not to be written: refused, nothing touched."""
    client = Client(open_store())
    client.put(names(3))
    client.buffer[:] = 0
    meeting = client.addresses(3)[[1, 0, 0]]
    meeting[2] += np.uint64(client.size - 1)  # the last byte of the second is the third's first
    for call in (client.store.get, client.store.submit_get):
        with pytest.raises(OverlappingRanges, match="overlap"):
            call(client.space, names(3), meeting, client.size)
    source = bytes(client.size)
    segment = client.store.register(source)
    constant = np.frombuffer(source, dtype=np.uint8)
    with pytest.raises(ReadOnlyBuffer, match="read-only"):
        client.store.get(
            client.space, names(1), np.array([constant.ctypes.data], dtype=np.uint64), client.size
        )
    assert not any(source) and not client.buffer.any()
    segment.close()
    apart = client.addresses(3)[::-1]  # in any order
    assert all_are(client.store.get(client.space, names(3), apart, client.size), PageStatus.HIT)
    segment = client.segment
    segment.close()
    with pytest.raises(Unregistered, match="register"):  # freed
        client.get(names(1))


def test_sizes_that_do_not_fit(open_store: Open) -> None:
    client = Client(open_store(extent="1MiB"), size=2 << 20, count=1)
    assert client.put([b"big"]).tolist() == [PageStatus.TOO_LARGE]
    nothing = Client(open_store(capacity="0"))
    assert nothing.put([b"a"]).tolist() == [PageStatus.NO_SPACE]


def test_closed_and_forked(open_store: Open) -> None:
    client = Client(open_store())
    client.put(names(1))
    child = os.fork()
    if child == 0:
        try:
            client.exists(names(1))
        except Forked:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert all_are(client.exists(names(1)), PageStatus.HIT)
    client.store.close()
    client.store.close()
    with pytest.raises(Closed):
        client.exists(names(1))


def test_figures(open_store: Open) -> None:
    client = Client(open_store())
    client.put(names(5))
    client.get([*names(5), b"none"])
    stats = client.store.stats()
    assert stats["pages"] == 5
    assert stats["live_bytes"] == 100_000
    shown = client.store.metrics.snapshot()
    assert shown['store.pages{op="get",status="hit"}'] == 5
    assert shown['store.pages{op="get",status="absent"}'] == 1
    assert shown['store.bytes{op="put"}'] == 100_000
