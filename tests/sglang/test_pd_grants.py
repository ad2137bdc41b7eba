"""Which bytes a request's grant covers, and how SGLang's messages carry it."""

from __future__ import annotations

import argparse
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tent_core.config import load_config
from tent_core.errors import PermissionDenied
from tent_sglang import pd_hooks
from tent_sglang.pd_engine import GrantedSession, TentTransferEngine
from tent_sglang.pd_flag import CHOSEN, offer_transfer_backend
from tent_sglang.pd_grants import Grants, RequestEnded, request_ranges


def words(*values: int) -> Any:
    return np.array(values, dtype=np.uint64)


def kv_args() -> SimpleNamespace:
    return SimpleNamespace(
        kv_data_ptrs=[1000, 9000], kv_item_lens=[100, 50], aux_data_ptrs=[500, 700], aux_item_lens=[8, 4],
        state_data_ptrs=[[20_000], [30_000]], state_item_lens=[[10], [20]],
    )  # fmt: skip


def test_a_requests_ranges_are_its_pages_its_metadata_and_its_states() -> None:
    starts, lengths = request_ranges(kv_args(), np.array([3, 1], np.int32), 2, [[4], None])
    assert list(zip(starts.tolist(), lengths.tolist(), strict=True)) == [
        (1300, 100), (1100, 100), (9150, 50), (9050, 50), (516, 8), (708, 4), (20_040, 10),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "length", "inside"),
    [(100, 50, True), (149, 1, True), (100, 100, True), (120, 60, True), (99, 2, False), (199, 2, False),
     (250, 1, False), (300, 10, True), (300, 11, False), (0, 1, False), (2**64 - 8, 16, False)],
)  # fmt: skip
def test_neighbours_are_one_and_nothing_beside_them_is_covered(start: int, length: int, inside: bool) -> None:
    grants = Grants()
    name = grants.grant("room", words(150, 100, 300), words(50, 50, 10))
    with np.errstate(over="ignore"):
        taking = grants.taking(name, words(start), words(length), lambda: None)
        if inside:
            with taking:
                return
        with pytest.raises(PermissionDenied), taking:
            pass


def test_a_grant_ends_once_and_says_so() -> None:
    grants, cancelled = Grants(), []
    name = grants.grant("room", words(0), words(10))
    assert grants.grant("room", words(20), words(5)) == name, "another rank's message of the same request"
    with grants.taking(name, words(20), words(5), lambda: cancelled.append(1)) as landing:
        assert grants.end("room")
        assert cancelled == [1]
        with pytest.raises(RequestEnded), landing:
            pass
    assert not grants.end("room")
    with pytest.raises(RequestEnded), grants.taking(name, words(0), words(1), lambda: None):
        pass
    assert grants.grant("room", words(0), words(10)) != name


class Info:
    def __init__(self, session: str) -> None:
        self.mooncake_session_id = session

    @classmethod
    def from_zmq(cls, message: list[bytes]) -> Info:
        return cls(message[3].decode())


def test_the_grant_travels_with_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[Any] = []
    engine = SimpleNamespace(grant=lambda room, *ranges: granted.append((room, ranges)) or b"n" * 16)
    manager = SimpleNamespace(engine=engine, kv_args=kv_args())
    fields = {
        "bootstrap_room": 5,
        "kv_indices": [1],
        "aux_index": 0,
        "state_indices": None,
        "is_dummy": False,
    }
    plain = [b"5", b"host", b"1", b"host:2", b"", b"0", b"", b"1", b"0", b""]
    message = pd_hooks.with_grant(lambda manager, **fields: list(plain), manager, **fields)
    assert message[:10] == plain and granted[0][0] == 5
    original = Info.from_zmq.__func__  # type: ignore[attr-defined]
    read = pd_hooks.read_grant(original, Info, message)
    assert isinstance(read.mooncake_session_id, GrantedSession)
    assert (read.mooncake_session_id, read.mooncake_session_id.grant) == ("host:2", b"n" * 16)
    assert type(pd_hooks.read_grant(original, Info, plain).mooncake_session_id) is str
    dummy = pd_hooks.with_grant(
        lambda manager, **fields: list(plain), manager, **{**fields, "is_dummy": True}
    )
    assert dummy == plain and len(granted) == 1


def test_a_request_that_is_over_loses_its_grant_before_sglang_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pd_hooks, "_over", lambda: (0, 4))
    told: list[Any] = []
    engine = object.__new__(TentTransferEngine)
    engine.end = lambda room: told.append(("end", room))  # type: ignore[method-assign]
    manager = SimpleNamespace(engine=engine)

    def original(manager: Any, room: int, status: int) -> None:
        told.append((status, room))

    for status in (2, 4, 0):
        pd_hooks.end_with_status(original, manager, 9, status)
    assert told == [(2, 9), ("end", 9), (4, 9), ("end", 9), (0, 9)]
    receiver = SimpleNamespace(kv_mgr=manager, bootstrap_room=11)
    pd_hooks.end_with_receiver(lambda receiver: told.append("cleared"), receiver)
    assert told[-2:] == [("end", 11), "cleared"]


def test_the_flag_of_hand_offs_accepts_tent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHOSEN, raising=False)
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--disaggregation-transfer-backend", choices=["mooncake", "nixl"], default="mooncake")
    for _ in range(2):
        offer_transfer_backend(parser)
    assert (
        parser.parse_args(["--disaggregation-transfer-backend", "nixl"]).disaggregation_transfer_backend
        == "nixl"
    )
    assert CHOSEN not in os.environ
    monkeypatch.setenv(CHOSEN, "0")
    chosen = parser.parse_args(["--disaggregation-transfer-backend", "tent"])
    assert chosen.disaggregation_transfer_backend == "mooncake" and os.environ[CHOSEN] == "1"
    load_config({})  # the variable is none of its own
    with pytest.raises(argparse.ArgumentError):
        parser.parse_args(["--disaggregation-transfer-backend", "tnet"])
