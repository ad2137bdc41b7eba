"""Page records and namespace generations: look up, publish, replace, unpublish, clear.

A generation counts the clears of a namespace. It lies in each bucket beside the pages, so that the answer which
brings records also says which generation is current; a record carries the one that it was published under, and its
reader compares. `clear` raises it everywhere before it returns. A reader takes the largest that it has seen: a server
that came back with an older one deceives nobody who knew better, and learns it from the next publisher.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tent_core.errors import InvalidArgument
from tent_metadata import resp, scripts
from tent_metadata.core import Core, is_fault
from tent_metadata.faults import Refusal, Unreachable
from tent_metadata.keys import BUCKETS, DIGEST_BYTES

__all__ = ["Pages"]

_MGET_KEYS = 16384  # keys in one MGET
_SCRIPT_KEYS = 512  # keys in one script call: Redis serves nobody else meanwhile
_SPARE_BYTES = 16 << 20  # how much hostile values may add to an answer before it is refused
_MAX_GENERATION = 10**15 - 1
_PLAIN_TYPES = {bytes, type(None)}

Digests = npt.NDArray[np.uint8]
Group = tuple[int, npt.NDArray[np.intp] | slice]


class Pages:
    """Part of `Directory`, which documents the methods."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lock = threading.Lock()
        self._newest: dict[bytes, int] = {}  # namespace -> largest generation seen

    # ---- reading

    def lookup(self, namespace: bytes, digests: Sequence[bytes] | Digests) -> tuple[list[bytes | None], int]:
        core = self._core
        deadline = core.enter("lookup")
        if len(digests) == 0:
            return [], self.generation(namespace)
        _check_namespace(namespace)
        table = _digest_table(digests)
        rows = core.keys.packed_pages(table)
        groups = list(self._groups(table, namespace, _MGET_KEYS))
        commands = []
        for bucket, where in groups:
            some = rows[where]
            key = resp.bulk(core.keys.generation(bucket, namespace))
            commands.append((bucket, b"*%d\r\n$4\r\nMGET\r\n%b%b" % (len(some) + 2, key, some.tobytes())))
        limit = _SPARE_BYTES + len(digests) * (scripts.MAX_RECORD + 16)
        replies = core.router.call(commands, deadline, limit)
        if len(replies) == 1:
            records, newest = self._records_in(replies[0], len(digests))
        else:
            records, newest = self._gather(groups, replies, len(digests))
        if isinstance(records, (Refusal, Unreachable)):
            raise core.unavailable(records, "be looked up in")
        return records, self._see(namespace, newest)

    def _records_in(self, reply: Any, count: int) -> tuple[list[bytes | None] | Refusal | Unreachable, int]:
        """One MGET's answer, checked: the records, and the generation that came first."""
        core = self._core
        if type(reply) is Refusal and reply.kind == "try_again":  # a bucket on its way to another shard
            core.counters.count("shard_misses", reply.kind, count)
            return [None] * count, 0
        if is_fault(reply):
            return reply, 0
        if type(reply) is not list or len(reply) != count + 1:
            core.counters.count("garbage", "reply")
            return Unreachable("nonsense in its answer", "garbage"), 0
        generation = _as_generation(reply.pop(0))
        if generation is None:  # nobody can say which records are current
            core.counters.count("garbage", "generation")
            return [None] * count, 0
        if not set(map(type, reply)) <= _PLAIN_TYPES:
            core.counters.count("garbage", "type")
            reply = [value if type(value) is bytes else None for value in reply]
        if max(map(len, filter(None, reply)), default=0) > scripts.MAX_RECORD:
            long = [i for i, value in enumerate(reply) if value and len(value) > scripts.MAX_RECORD]
            core.counters.count("garbage", "too_long", len(long))
            for i in long:
                reply[i] = None
        return reply, generation

    def _gather(
        self, groups: Sequence[Group], replies: Sequence[Any], count: int
    ) -> tuple[list[bytes | None] | Refusal | Unreachable, int]:
        """Several answers in the order asked. What a lost shard holds is absent; all lost is a fault."""
        records: list[bytes | None] = [None] * count
        newest, fault, answered = 0, None, False
        for (_, where), reply in zip(groups, replies, strict=True):
            indices = range(*where.indices(count)) if isinstance(where, slice) else where.tolist()
            some, generation = self._records_in(reply, len(indices))
            if isinstance(some, (Refusal, Unreachable)):
                fault = some
                self._core.counters.count("shard_misses", some.kind, len(indices))
                continue
            answered = True
            newest = max(newest, generation)
            for i, record in zip(indices, some, strict=True):
                records[i] = record
        return (records, newest) if answered or fault is None else (fault, 0)

    # ---- writing

    def publish(
        self, namespace: bytes, items: Sequence[tuple[bytes, bytes]], generation: int
    ) -> list[bool | bytes]:
        core = self._core
        deadline = core.enter("publish")
        _check_namespace(namespace)
        if not 0 <= generation <= _MAX_GENERATION:
            raise InvalidArgument(f"a generation is a number from 0 to {_MAX_GENERATION}, not {generation}")
        if not items:
            return []
        records = [_checked_record(record) for _, record in items]
        table = _digest_table([digest for digest, _ in items])
        rows = core.keys.packed_pages(table)
        groups = list(self._groups(table, namespace, _SCRIPT_KEYS))
        calls = []
        for bucket, where in groups:
            some = _pick(records, where)
            words = [resp.bulk(core.keys.generation(bucket, namespace)), rows[where].tobytes()]
            words += [resp.bulk(b"%d" % generation), *map(resp.bulk, some)]
            calls.append((bucket, len(some) + 1, len(some) + 1, b"".join(words)))
        replies = scripts.run(core.router, scripts.PUBLISH, calls, deadline, _limit(len(items)))
        results: list[bool | bytes] = [False] * len(items)
        fault: Refusal | Unreachable | None = None
        stored = False
        for (_, where), reply in zip(groups, replies, strict=True):
            indices = _pick(range(len(items)), where)
            outcome, failed = self._published(namespace, reply, len(indices))
            fault = failed or fault
            stored = stored or failed is None or any(result is not False for result in outcome)
            for i, result in zip(indices, outcome, strict=True):
                results[i] = result
        if fault is not None and not stored:
            raise core.unavailable(fault, "be published to")
        return results

    def _published(
        self, namespace: bytes, reply: Any, count: int
    ) -> tuple[list[bool | bytes], Refusal | Unreachable | None]:
        core = self._core
        nothing: list[bool | bytes] = [False] * count
        if is_fault(reply):
            core.counters.count("not_published", reply.kind, count)
            return nothing, None if reply.kind == "try_again" else reply
        if type(reply) is not list or not reply or type(reply[0]) is not int:
            core.counters.count("garbage", "reply")
            return nothing, Unreachable("nonsense in its answer", "garbage")
        self._see(namespace, min(max(0, reply[0]), _MAX_GENERATION))
        if len(reply) == 1:  # the namespace was cleared since
            core.counters.count("not_published", "cleared", count)
            return nothing, None
        outcome: list[bool | bytes] = [
            result if type(result) is bytes else result == 1 for result in reply[1 : count + 1]
        ]
        outcome += nothing[len(outcome) :]
        fault = None
        if len(reply) > count + 1 and type(reply[count + 1]) is bytes:
            fault = Refusal(reply[count + 1].decode("utf-8", "replace"))
            core.counters.count("not_published", fault.kind, outcome.count(False))
        return outcome, fault

    def replace(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
        core = self._core
        deadline = core.enter("replace")
        if not items:
            return []
        pairs = [resp.bulk(old) + resp.bulk(_checked_record(new)) for _, old, new in items]
        groups, replies = self._compare(
            scripts.REPLACE, [digest for digest, _, _ in items], pairs, 2, deadline
        )
        results = [False] * len(items)
        fault, answered = None, False
        for (_, where), reply in zip(groups, replies, strict=True):
            indices = _pick(range(len(items)), where)
            if is_fault(reply):
                fault = reply
                continue
            if type(reply) is not list or len(reply) != len(indices):
                core.nonsense(reply, "be changed")
            answered = True
            for i, result in zip(indices, reply, strict=True):
                results[i] = result == 1
        if fault is not None and not answered:
            raise core.unavailable(fault, "be changed")
        return results

    def unpublish(self, items: Sequence[tuple[bytes, bytes]]) -> int:
        core = self._core
        deadline = core.enter("unpublish")
        if not items:
            return 0
        packed = [resp.bulk(record) for _, record in items]
        _, replies = self._compare(scripts.UNPUBLISH, [digest for digest, _ in items], packed, 1, deadline)
        faults = [reply for reply in replies if is_fault(reply)]
        if faults:  # the caller is about to reuse the memory: it must know that a record may be left
            raise core.unavailable(faults[0], "be unpublished from")
        return sum(reply for reply in replies if type(reply) is int)

    def _compare(
        self,
        script: scripts.Script,
        digests: Sequence[bytes],
        packed: list[bytes],
        each: int,
        deadline: float,
    ) -> tuple[list[Group], list[Any]]:
        """Runs a script over pages with ``each`` arguments a page, packed together."""
        table = _digest_table(digests)
        rows = self._core.keys.packed_pages(table)
        groups = list(self._groups(table, b"\0", _SCRIPT_KEYS))
        calls = []
        for bucket, where in groups:
            some = _pick(packed, where)
            words = rows[where].tobytes() + b"".join(some)
            calls.append((bucket, len(some), each * len(some), words))
        return groups, scripts.run(self._core.router, script, calls, deadline, _limit(len(digests)))

    # ---- generations

    def generation(self, namespace: bytes) -> int:
        core = self._core
        deadline = core.enter("generation")
        _check_namespace(namespace)
        found, fault = self._generations(namespace, deadline, [namespace[0]])
        if fault is not None:
            raise core.unavailable(fault, "tell a generation")
        return self._see(namespace, found)

    def clear(self, namespace: bytes) -> int:
        core = self._core
        deadline = core.enter("clear")
        _check_namespace(namespace)
        found, fault = self._generations(namespace, deadline, range(BUCKETS))
        if fault is not None:
            raise core.unavailable(fault, "be cleared")
        target = self._see(namespace, found) + 1
        if target > _MAX_GENERATION:
            core.nonsense(found, "be cleared")
        return self._raise(namespace, target, deadline)

    def keep_generation(self, namespace: bytes, generation: int) -> None:
        core = self._core
        deadline = core.enter("keep_generation")
        _check_namespace(namespace)
        if 0 < generation <= _MAX_GENERATION:
            self._raise(namespace, generation, deadline)

    def _raise(self, namespace: bytes, target: int, deadline: float) -> int:
        """Raises the generation in every bucket to at least ``target``."""
        core = self._core
        argument = resp.bulk(b"%d" % target)
        names = [resp.bulk(core.keys.generation(bucket, namespace)) for bucket in range(BUCKETS)]
        if core.router.spread:
            calls = [(bucket, 1, 1, name + argument) for bucket, name in enumerate(names)]
        else:
            calls = [(0, BUCKETS, 1, b"".join(names) + argument)]
        replies = scripts.run(core.router, scripts.RAISE, calls, deadline, 1 << 20)
        for reply in replies:
            if is_fault(reply):
                raise core.unavailable(reply, "be cleared everywhere (some shards may be; clear again)")
            if type(reply) is not int or reply < target:
                core.nonsense(reply, "be cleared")
        return self._see(namespace, target)

    def _generations(
        self, namespace: bytes, deadline: float, buckets: Sequence[int]
    ) -> tuple[int, Refusal | Unreachable | None]:
        """The largest generation in some buckets. Text that is none counts as 0: `clear` and publishers mend it."""
        core = self._core
        names = [core.keys.generation(bucket, namespace) for bucket in buckets]
        if core.router.spread:
            commands = [(b, resp.command(b"MGET", name)) for b, name in zip(buckets, names, strict=True)]
        else:
            commands = [(buckets[0], resp.command(b"MGET", *names))]
        newest = 0
        for reply in core.router.call(commands, deadline, _limit(len(names))):
            if is_fault(reply):
                return 0, reply
            for raw in reply if type(reply) is list else [b""]:
                found = _as_generation(raw)
                if found is None:
                    core.counters.count("garbage", "generation")
                newest = max(newest, found or 0)
        return newest, None

    def _see(self, namespace: bytes, generation: int) -> int:
        """Remembers the largest generation seen of a namespace, and returns it."""
        newest = self._newest.get(namespace, 0)
        if generation <= newest:
            return newest
        with self._lock:
            newest = max(generation, self._newest.get(namespace, 0))
            self._newest[namespace] = newest
        return newest

    # ---- shapes

    def _groups(self, table: Digests, namespace: bytes, most: int) -> Iterator[Group]:
        """``(bucket, rows)`` per command: by bucket where a command must stay in one, else in pieces of ``most``."""
        if not self._core.router.spread:
            for start in range(0, len(table), most):
                yield namespace[0], slice(start, start + most)
            return
        first = table[:, 0]
        order = np.argsort(first, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(first[order])) + 1):
            for start in range(0, len(rows), most):
                yield int(first[rows[0]]), rows[start : start + most]


def _limit(count: int) -> int:
    return _SPARE_BYTES + count * (scripts.MAX_RECORD + 64)


def _pick(items: Sequence[Any], where: npt.NDArray[np.intp] | slice) -> Sequence[Any]:
    return items[where] if isinstance(where, slice) else [items[i] for i in where.tolist()]


def _check_namespace(namespace: bytes) -> None:
    if len(namespace) != DIGEST_BYTES:
        raise InvalidArgument(f"a namespace digest has {DIGEST_BYTES} bytes, not {len(namespace)}")


def _checked_record(record: bytes) -> bytes:
    if not 0 < len(record) <= scripts.MAX_RECORD:
        raise InvalidArgument(f"a page record has 1 to {scripts.MAX_RECORD} bytes, not {len(record)}")
    return record


def _digest_table(digests: Sequence[bytes] | Digests) -> Digests:
    if isinstance(digests, np.ndarray):
        if digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != DIGEST_BYTES:
            raise InvalidArgument(f"an array of page digests is uint8 of shape [N, {DIGEST_BYTES}]")
        return np.ascontiguousarray(digests)
    if set(map(len, digests)) != {DIGEST_BYTES}:
        raise InvalidArgument(f"a page digest has {DIGEST_BYTES} bytes")
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def _as_generation(raw: Any) -> int | None:
    """The number in a generation key; None: what is there is none."""
    if raw is None:
        return 0
    if type(raw) is not bytes or not raw.isdigit() or len(raw) > 15:
        return None
    return int(raw)
