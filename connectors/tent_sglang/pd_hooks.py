"""The hooks that let SGLang's prefill/decode managers run over TENT: none of their code is copied or changed.

One class is replaced: the engine (:mod:`tent_sglang.pd_engine`). The others carry a request's grant from the decode
server to the prefill server, in a field of the metadata that SGLang sends anyway, and end it before SGLang can use the
request's blocks for something else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tent_core.errors import Unsupported

from .pd_engine import GrantedSession, TentTransferEngine
from .pd_grants import NAME_BYTES, request_ranges
from .sglang_api import server_args

__all__ = ["register"]

_FIELD = b"tent-grant-1:"


class _ServerEngine(TentTransferEngine):
    """In a server: refuses what could only fail request by request."""

    def __init__(self, *args: Any, **options: Any) -> None:
        _check()
        super().__init__(*args, **options)


def _check() -> None:
    """Raises Unsupported where this SGLang's hand-offs cannot go over TENT."""
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVManager, TransferInfo
    from sglang.srt.environ import envs

    for holder, name in ((MooncakeKVManager, "build_receiver_metadata_message"), (TransferInfo, "from_zmq")):
        if not hasattr(holder, name):
            raise Unsupported(
                f"this SGLang has no {holder.__name__}.{name}: hand-offs over TENT need another release"
            )
    device = str(getattr(server_args(), "device", None) or "cpu")
    if device != "cpu":
        raise Unsupported(f"hand-offs over TENT take pools in host memory; this server's are on {device!r}")
    if envs.SGLANG_DISAGG_STAGING_BUFFER.get():
        raise Unsupported("hand-offs over TENT have no staging buffer: unset SGLANG_DISAGG_STAGING_BUFFER")


def register(add: Callable[..., None], kinds: Any) -> None:
    """`add`, `kinds`: SGLang's HookRegistry.register and HookType."""
    communicators = "sglang.srt.distributed.device_communicators.mooncake_transfer_engine"
    add(f"{communicators}.MooncakeTransferEngine", _ServerEngine, kinds.REPLACE)
    ours = "sglang.srt.disaggregation.mooncake.conn"
    add(f"{ours}.MooncakeKVManager.build_receiver_metadata_message", with_grant, kinds.AROUND)
    add(f"{ours}.TransferInfo.from_zmq", read_grant, kinds.AROUND)
    common = "sglang.srt.disaggregation.common.conn"
    add(f"{common}.CommonKVManager.update_status", end_with_status, kinds.AROUND)
    for name in ("abort", "failure_exception", "clear"):
        add(f"{common}.CommonKVReceiver.{name}", end_with_receiver, kinds.AROUND)


# ---- decode


def with_grant(original: Callable[..., Any], manager: Any, **fields: Any) -> Any:
    """Around the message with a request's metadata: a grant of its blocks goes with it."""
    message = original(manager, **fields)
    if fields["is_dummy"]:
        return message
    ranges = request_ranges(
        manager.kv_args, fields["kv_indices"], fields["aux_index"], fields.get("state_indices")
    )
    name = manager.engine.grant(fields["bootstrap_room"], *ranges)
    return [*message, _FIELD + name.hex().encode()]


def end_with_status(original: Callable[..., Any], manager: Any, room: Any, status: Any, *rest: Any) -> Any:
    """Around a request's change of status: once it is over, nothing lands in its blocks."""
    if status in _over():
        _end(manager, room)
    return original(manager, room, status, *rest)


def end_with_receiver(original: Callable[..., Any], receiver: Any, *rest: Any) -> Any:
    """Around whatever ends a request without a status of its own, such as another rank's failure."""
    _end(getattr(receiver, "kv_mgr", None), getattr(receiver, "bootstrap_room", None))
    return original(receiver, *rest)


@cache
def _over() -> tuple[int, int]:
    from sglang.srt.disaggregation.base.conn import KVPoll

    return KVPoll.Failed, KVPoll.Success


def _end(manager: Any, room: Any) -> None:
    engine = getattr(manager, "engine", None)
    if isinstance(engine, TentTransferEngine):
        engine.end(room)


# ---- prefill


def read_grant(original: Callable[..., Any], cls: Any, message: list[bytes]) -> Any:
    """Around the reading of that message: its session id remembers the grant."""
    info = original(cls, message)
    last = bytes(message[-1])
    if last.startswith(_FIELD) and len(last) == len(_FIELD) + 2 * NAME_BYTES:
        info.mooncake_session_id = GrantedSession(
            info.mooncake_session_id, bytes.fromhex(last[len(_FIELD) :].decode())
        )
    return info
