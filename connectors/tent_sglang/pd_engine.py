"""TENT behind SGLang's prefill/decode disaggregation: the calls that reach its Mooncake engine, answered by TENT.

SGLang's prefill server says "write these ranges of mine to those addresses of that session", and waits. Here the
prefill server offers its ranges and the decode server *pulls* them: over all rails, checked, and only into what it has
granted to that request. So nobody ever writes into a decode server's memory, and a block that is given up is fenced by
its owner alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tent_core import Engine
from tent_core.config import for_rank, load_config
from tent_core.errors import Cancelled, TentError
from tent_core.handoff import Handoff
from tent_core.handoff.pull import Pull

from .guard import Guard, log
from .pd_channel import DONE, ENDED, FAILED, Answer, Channels, Fetch, Listener, Words
from .pd_grants import Grants, Landing, RequestEnded

__all__ = ["GrantedSession", "TentTransferEngine"]

_MARGIN_S = 5.0


class GrantedSession(str):
    """A session id that knows the grant of one request. To SGLang it is the text that it always was."""

    grant: bytes

    def __new__(cls, session: str, grant: bytes) -> GrantedSession:
        made = super().__new__(cls, session)
        made.grant = grant
        return made


class TentTransferEngine:
    """Takes the place of SGLang's MooncakeTransferEngine in one scheduler process. Any thread."""

    def __init__(
        self, hostname: str, gpu_id: int | None = None, ib_device: str | None = None, *, config: Any = None
    ) -> None:
        """As SGLang constructs it. `config`: TENT's, where the environment's is not meant."""
        config = for_rank(load_config(config or {}), gpu_id or 0)
        node = replace(config.node, port=0, name=f"{config.node.name}-pd" if config.node.name else "")
        self.hostname, self.gpu_id, self.ib_device = hostname, gpu_id or 0, None
        self._engine = Engine(replace(config, node=node))
        self._handoff = Handoff(self._engine)
        self._deadline = config.engine.deadline_ms / 1000
        # The other side has the same to do, and a word to say about it.
        self._patience = self._deadline + min(_MARGIN_S, self._deadline)
        self._guard = Guard()
        self._lock = threading.Lock()
        self._segments: dict[int, Any] = {}
        self._channels = Channels()
        self.grants = Grants()
        self._listener = Listener(hostname, self._fetch)
        host = f"[{hostname}]" if ":" in hostname else hostname
        self.session_id = f"{host}:{self._listener.port}"
        self.engine = self
        log.info(
            "prefill/decode hand-offs go over TENT: node %s, session %s", self._engine.name, self.session_id
        )

    # ---- what SGLang asks of itself

    def get_session_id(self) -> str:
        return self.session_id

    def get_rpc_port(self) -> int:
        return self._listener.port

    def get_ib_device(self) -> None:
        return None

    # ---- memory

    def batch_register(self, ptrs: Sequence[int], lengths: Sequence[int]) -> int:
        """Memory that hand-offs may touch; shown to nobody by itself. 0, or -1 if it cannot be registered."""
        try:
            for ptr, length in zip(ptrs, lengths, strict=True):
                with self._lock:
                    if length and ptr not in self._segments:
                        self._segments[ptr] = self._engine.register((ptr, length), access="private")
        except TentError as error:
            log.error("memory cannot be registered for hand-offs: %s", str(error))
            return -1
        return 0

    def batch_deregister(self, ptrs: Sequence[int]) -> int:
        """When this returns no peer's transfer touches that memory."""
        for ptr in ptrs:
            with self._lock:
                segment = self._segments.pop(ptr, None)
            if segment is not None:
                segment.close()
        return 0

    def register(self, ptr: int, length: int) -> None:
        if self.batch_register([ptr], [length]):
            raise RuntimeError("TENT memory registration failed")

    def deregister(self, ptr: int) -> None:
        self.batch_deregister([ptr])

    # ---- the prefill side

    def transfer_sync(self, session_id: str, buffer: int, peer_buffer_address: int, length: int) -> int:
        return self.batch_transfer_sync(session_id, [buffer], [peer_buffer_address], [length])

    def batch_transfer_sync(
        self,
        session_id: str,
        buffers: Sequence[int],
        peer_buffer_addresses: Sequence[int],
        lengths: Sequence[int],
    ) -> int:
        """0 when the bytes are in place at the decode server, or it wants them no longer; -1 otherwise: SGLang then
        takes that server for dead. Never raises. On return nothing is sent from these ranges any more."""
        try:
            code, words = self._hand_over(session_id, buffers, peer_buffer_addresses, lengths)
        except TentError as error:
            code, words = FAILED, str(error)
        if code == FAILED:
            self._guard.count("pd.failed")
            self._guard.warn(f"pd:{session_id}", "hand-off to %s failed: %s", session_id, words)
            return -1
        self._guard.count("pd.done" if code == DONE else "pd.not_wanted")
        return 0

    def _hand_over(self, session_id: str, buffers: Any, addresses: Any, lengths: Any) -> Answer:
        grant = getattr(session_id, "grant", None)
        if grant is None:
            return FAILED, "its request's metadata held no grant: the decode server does not run TENT"
        sizes = np.asarray(lengths, dtype=np.uint64)
        some = sizes > 0
        source, target, sizes = (
            np.asarray(column, dtype=np.uint64)[some] for column in (buffers, addresses, sizes)
        )
        if not len(sizes):
            return DONE, ""
        form = Fetch.form(grant, target, sizes)
        offer = self._handoff.offer(source, sizes, lease=self._patience, form=form)
        try:
            fetch = Fetch(grant, target, sizes, offer.ticket)
            return self._channels.ask(str(session_id), fetch, self._patience)
        finally:
            offer.abort()  # it is over already if the pull ended well

    def send_probe(self, peer_session_id: str) -> int:
        """0 when that decode server answers."""
        try:
            self._channels.ask(str(peer_session_id), None, _MARGIN_S)
        except TentError:
            return -1
        return 0

    # ---- the decode side

    def grant(self, room: Any, starts: Words, lengths: Words) -> bytes:
        return self.grants.grant(room, starts, lengths)

    def end(self, room: Any) -> None:
        """The request's blocks may be used again: see `Grants.end`."""
        if self.grants.end(room):
            self._guard.count("pd.grants_ended")

    def _fetch(self, request: Fetch) -> Answer:
        try:
            return self._pull(request)
        except RequestEnded:
            return ENDED, "the request has ended"
        except TentError as error:
            self._guard.count("pd.refused")
            self._guard.warn(
                f"fetch:{type(error).__name__}", "blocks of a prefill server were not fetched: %s", str(error)
            )
            return FAILED, f"{type(error).__name__}: {error}"

    def _pull(self, request: Fetch) -> Answer:
        ticket = self._handoff.unseal(request.ticket)
        form = Fetch.form(request.grant, request.addresses, request.lengths)
        pull = _Landing(self._handoff, ticket, request.addresses, request.lengths, form=form)
        with self.grants.taking(request.grant, request.addresses, request.lengths, pull.cancel) as landing:
            pull.landing = landing
            try:
                pull.run(self._deadline)
            except Cancelled:
                raise RequestEnded from None
            except TentError:
                if landing.ended:
                    raise RequestEnded from None
                raise
        self._guard.count("pd.fetched_bytes", int(request.lengths.sum()))
        return DONE, ""

    # ---- life

    def counters(self) -> dict[str, int]:
        return self._guard.counts()

    def close(self) -> None:
        """Ends everything that is under way."""
        self._listener.stop()
        self.grants.end_all()
        self._listener.close()
        self._channels.close()
        self._engine.close()
        self._segments.clear()


class _Landing(Pull):
    """A pull that says while its bytes may land: telling the producer about its end is not part of that."""

    landing: Landing

    def _move(self, *args: Any) -> Any:
        with self.landing:
            return super()._move(*args)
