"""The handle of a transfer: waiting, cancelling, groups, priorities, deadlines, notifications.

A stopped owner holds a transfer in flight without any clock: over sockets nothing is answered, and shared memory that
is not mapped yet has to be asked for. What is one-sided once it is mapped is used fresh, therefore.
"""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from support.peers import PATIENCE, digest_of, pattern, until
from support.reach import World
from tent_core import Intent, Transfer
from tent_core.errors import Cancelled, DeadlineExceeded, InvalidArgument

SIZE = 1 << 20
OPS = pytest.mark.parametrize("op", ["read", "write"])


@contextmanager
def in_flight(w: World, op: str, nbytes: int = SIZE, **options: Any) -> Iterator[tuple[Transfer, Any, Any]]:
    """A transfer that cannot end while the block runs, its memory and its remote segment."""
    remote = w.remote(nbytes, seed=1)
    memory = w.local(nbytes, seed=2)
    with w.owner.stopped():
        transfer = w.submit(op, memory, remote, **options)
        yield transfer, memory, remote


def arrived(w: World, op: str, memory: Any, remote: Any) -> bool:
    if op == "read":
        return bool(np.array_equal(memory, pattern(1, memory.nbytes)))
    return w.at_owner(remote) == digest_of(memory)


@OPS
def test_a_wait_that_times_out_ends_nothing(w: World, op: str) -> None:
    with in_flight(w, op) as (transfer, memory, remote):
        assert not transfer.wait(0)
        assert not transfer.wait(0.01)
        assert not transfer.wait_released(0)
        with pytest.raises(DeadlineExceeded):
            transfer.result(0)
        assert not transfer.done and not transfer.poll() and not transfer.released
        assert transfer.status.tolist() == [0] and transfer.prefix == 0 and transfer.errors == {}
    assert transfer.wait(PATIENCE)
    assert transfer.result().bytes == SIZE
    assert arrived(w, op, memory, remote)


@OPS
def test_cancel(w: World, op: str) -> None:
    with in_flight(w, op) as (transfer, memory, remote):
        assert transfer.cancel() is True
        assert transfer.cancel() is False, "the second call has nothing left to end"
        assert transfer.done and transfer.wait(0)
        assert transfer.status.tolist() == [3]
        with pytest.raises(Cancelled):
            transfer.result()
    assert transfer.wait_released(PATIENCE)
    w.move(op, memory, remote)  # the memory is free again, at both ends
    assert arrived(w, op, memory, remote)


@OPS
def test_a_completion_wins_over_cancel(w: World, op: str) -> None:
    remote = w.remote(SIZE, seed=1)
    memory = w.local(SIZE, seed=2)
    transfer = w.move(op, memory, remote)
    assert transfer.cancel() is False
    assert transfer.result().bytes == SIZE and transfer.status.tolist() == [1]


def test_cancel_races_with_completion(w: World) -> None:
    """Whoever wins: one of two results, never a third, and exact accounts (the fixture looks)."""
    remote = w.remote(4 * SIZE, seed=3)
    memory = w.local(4 * SIZE)
    for _ in range(40):
        memory[:] = 0
        transfer = w.submit("read", memory, remote)
        if transfer.cancel():
            with pytest.raises(Cancelled):
                transfer.result(PATIENCE)
            assert transfer.status.tolist() == [3]
        else:
            transfer.result(PATIENCE)
            assert np.array_equal(memory, pattern(3, 4 * SIZE))
        assert transfer.wait_released(PATIENCE)


@OPS
def test_deadline(w: World, op: str) -> None:
    with in_flight(w, op, deadline=0.05) as (transfer, memory, remote):
        assert transfer.wait(PATIENCE)
        with pytest.raises(DeadlineExceeded):
            transfer.result()
        assert transfer.status.tolist() == [2]
        assert isinstance(transfer.errors[0], DeadlineExceeded)
    assert transfer.wait_released(PATIENCE)
    w.move(op, memory, remote)
    assert arrived(w, op, memory, remote)


def test_groups_complete_one_by_one(w: World) -> None:
    """A group whose range fails does not complete; the others do."""
    remote = w.remote(4 * SIZE, seed=1)
    memory = w.local(4 * SIZE)
    at = np.arange(4, dtype=np.uint64) * np.uint64(SIZE)
    group = [0, 1, 1, 2]
    whole = w.move("read", memory, remote, local_offset=at, remote_offset=at, length=SIZE, group=group)
    assert whole.groups_done.tolist() == [True, True, True]
    offsets = at.copy()
    offsets[2] = 4 * SIZE
    part = w.submit("read", memory, remote, local_offset=at, remote_offset=offsets, length=SIZE, group=group)
    assert part.wait(PATIENCE)
    assert part.groups_done.tolist() == [True, False, True]
    with in_flight(w, "read", group=[0]) as (transfer, _, _):
        assert transfer.groups_done.tolist() == [False]
    transfer.result(PATIENCE)
    assert transfer.groups_done.tolist() == [True]


@pytest.mark.parametrize("priority", ["interactive", "normal", "bulk"])
@OPS
def test_priorities_carry_the_same_bytes(w: World, op: str, priority: str) -> None:
    remote = w.remote(SIZE, seed=1)
    memory = w.local(SIZE, seed=2)
    w.move(op, memory, remote, priority=priority)
    assert arrived(w, op, memory, remote)


@OPS
def test_priority_changes_in_flight(w: World, op: str) -> None:
    with in_flight(w, op, 8 * SIZE, priority="bulk") as (transfer, memory, remote):
        transfer.set_priority("interactive")
        transfer.set_priority("normal")
        with pytest.raises(InvalidArgument):
            transfer.set_priority("soon")
    transfer.result(PATIENCE)
    assert arrived(w, op, memory, remote)
    transfer.set_priority("bulk")  # of one that is done: nothing


def test_predict(w: World) -> None:
    remote = w.remote(SIZE)
    memory = w.local(SIZE)
    w.move("write", memory, remote)
    intent = Intent("read", w.peer, [memory.ctypes.data], remote, [0], SIZE)
    assert w.engine.predict(intent) > 0
    more = Intent("read", w.peer, [memory.ctypes.data], remote, [0], 1 << 40)
    assert w.engine.predict(more) > w.engine.predict(intent)


# ---- ways to learn of the end ---------------------------------------------------------------------------------------


@OPS
def test_await(w: World, op: str) -> None:
    async def several() -> None:
        remote, memory = w.remote(4 * SIZE, seed=1), w.local(4 * SIZE, seed=2)
        transfers = [
            w.submit(op, memory[i * SIZE : (i + 1) * SIZE], remote, remote_offset=i * SIZE) for i in range(4)
        ]
        results = await asyncio.gather(*(wait(transfer) for transfer in transfers))
        assert [result.bytes for result in results] == [SIZE] * 4
        assert arrived(w, op, memory, remote)

    async def wait(transfer: Transfer) -> Any:
        return await transfer

    async def pending() -> None:
        with in_flight(w, op) as (transfer, _, _):
            task = asyncio.ensure_future(wait(transfer))
            await asyncio.sleep(0)
            assert not task.done()
        assert (await task).bytes == SIZE

    async def cancelled() -> None:
        with in_flight(w, op) as (transfer, _, _):
            task = asyncio.ensure_future(wait(transfer))
            await asyncio.sleep(0)
            transfer.cancel()
            with pytest.raises(Cancelled):
                await task

    asyncio.run(several())
    asyncio.run(pending())
    asyncio.run(cancelled())


@OPS
def test_fileno(w: World, op: str) -> None:
    with in_flight(w, op) as (transfer, _, _):
        descriptor = transfer.fileno()
        assert transfer.fileno() == descriptor
        assert select.select([descriptor], [], [], 0)[0] == []
    assert select.select([descriptor], [], [], PATIENCE)[0] == [descriptor]
    assert transfer.done
    after = w.move(op, w.local(SIZE), w.remote(SIZE))
    assert select.select([after.fileno()], [], [], 0)[0], "asked for after the end, it is ready at once"


@OPS
def test_callbacks(w: World, op: str) -> None:
    """Each runs once, also those added after the end; one that raises harms nobody."""
    calls: list[tuple[str, Transfer]] = []
    ended = threading.Event()

    def fail(_: Transfer) -> None:
        raise RuntimeError("a callback's own fault")

    with in_flight(w, op) as (transfer, _, _):
        transfer.add_done_callback(fail)
        transfer.add_done_callback(lambda t: calls.append(("first", t)))
        transfer.add_done_callback(lambda t: (calls.append(("second", t)), ended.set()))
        assert calls == []
    assert ended.wait(PATIENCE)
    assert calls == [("first", transfer), ("second", transfer)]
    late = threading.Event()
    transfer.add_done_callback(lambda t: late.set())
    assert late.wait(PATIENCE)
    assert len(calls) == 2


def test_a_dropped_handle_keeps_its_memory(w: World) -> None:
    """Nothing of ours refers to the transfer or its registration any more; it completes all the same."""
    remote = w.remote(SIZE, seed=1)
    memory = w.local(SIZE, seed=2)
    expected = digest_of(memory)
    done = w.engine.metrics()["transfers_completed"]
    with w.owner.stopped():
        intent = Intent("write", w.peer, [memory.ctypes.data], remote, [0], SIZE)
        w.engine.submit(intent)
        del intent, memory
    until(lambda: w.engine.metrics()["transfers_completed"] > done, "the end of a transfer that nobody holds")
    assert w.at_owner(remote) == expected


# ---- notifications --------------------------------------------------------------------------------------------------


@OPS
@pytest.mark.parametrize("nbytes", [5, 3 * SIZE + 1])
def test_notification_comes_once_and_after_the_last_byte(w: World, op: str, nbytes: int) -> None:
    remote = w.remote(nbytes)
    memory = w.local(nbytes, seed=nbytes)
    w.owner.send("notified_digest", remote.name)
    w.move(op, memory, remote, notify=b"page 7 \x00 done")
    got, seen = w.owner.answer()
    assert got == [(w.engine.name, b"page 7 \x00 done")]
    if op == "write":
        assert seen == digest_of(memory), "told before the last byte was in place"
    # The next one is the very next: the first came once.
    w.move(op, memory, remote, notify=b"")
    assert w.owner.notifications(PATIENCE) == [(w.engine.name, b"")]
    assert w.owner.notifications(0) == []


def test_notifications_keep_their_order(w: World) -> None:
    remote = w.remote(SIZE)
    memory = w.local(SIZE)
    for number in range(50):
        w.move("write", memory[:64], remote, notify=str(number).encode())
    got: list[bytes] = []
    while len(got) < 50:
        got += [payload for _, payload in w.owner.notifications(PATIENCE)]
    assert got == [str(number).encode() for number in range(50)]


def test_no_notification_of_what_did_not_happen(w: World) -> None:
    remote = w.remote(SIZE)
    memory = w.local(SIZE)
    failed = w.submit("write", memory, remote, remote_offset=1, notify=b"failed")
    assert failed.wait(PATIENCE) and failed.errors
    with in_flight(w, "write", notify=b"cancelled") as (transfer, _, _):
        transfer.cancel()
    assert transfer.wait_released(PATIENCE)
    w.move("write", memory, remote, notify=b"last")
    assert w.owner.notifications(PATIENCE) == [(w.engine.name, b"last")]
    with pytest.raises(InvalidArgument):
        w.submit("write", memory, remote, notify=bytes((64 << 10) + 1))
