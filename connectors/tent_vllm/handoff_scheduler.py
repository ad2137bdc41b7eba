"""Prefill/decode hand-off, the scheduler's side: which requests are handed over, by vLLM's ``kv_transfer_params``.

The words are those that vLLM's proxies use: a request with ``do_remote_decode`` is prefilled here and decoded
elsewhere, and its answer carries the parameters that the proxy sends with the second half, where ``do_remote_prefill``
says that the prompt's blocks are to be fetched. What a proxy passes on is hostile until it was checked.

Knows vLLM's requests by their attributes only, does no I/O, and runs on one thread, vLLM's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tent_core.handoff import Ticket

from .guard import Guard
from .handoff_plan import Endpoint, HandoffPlan, Offered, Wanted, form_under

_OURS = "tent"
_VERSION = 1
_FINISHED = ("FINISHED_LENGTH_CAPPED", "FINISHED_STOPPED")


class HandoffScheduler:
    def __init__(
        self,
        block_tokens: int,
        guard: Guard,
        *,
        engine_id: str,
        produces: bool,
        consumes: bool,
        weights: Callable[[], str] = lambda: "",
    ) -> None:
        """`produces`, `consumes`: what vLLM's kv_role allows. `weights`: the version of those that compute now."""
        self._block_tokens = block_tokens
        self._guard = guard
        self._engine_id = engine_id
        self._produces = produces
        self._consumes = consumes
        self._weights = weights
        self._ends: list[Endpoint] = []
        self._secret = ""
        self._plan = HandoffPlan()
        self._computed: dict[str, int] = {}

    def serve(self, ends: Sequence[Endpoint], secret: str) -> None:
        """From now on there is something to hand over with. `ends`: of all ranks; `secret`: the cluster's."""
        self._ends, self._secret = list(ends), secret

    # ---- the decode side

    def matched(self, request: Any, computed: int) -> int:
        """Tokens beyond the `computed` ones that a prefill server holds for this request; 0: none."""
        params = request.kv_transfer_params
        if not params or not params.get("do_remote_prefill") or _OURS not in params:
            return 0
        tickets, tokens = self._read(params[_OURS])
        if not tickets:
            del params[_OURS]
            self._guard.count("handoff.unusable")
            self._guard.warn(
                "handoff",
                "a request's kv_transfer_params name nothing that can be fetched: it is computed here",
            )
            return 0
        missing = min(tokens, int(request.num_prompt_tokens)) - computed
        if missing <= 0 or computed % self._block_tokens:
            return 0
        self._computed[request.request_id] = computed
        return missing

    def _read(self, ours: Any) -> tuple[tuple[str, ...], int]:
        """(a ticket for each rank, tokens); nothing where it does not fit this server."""
        if not self._consumes or not self._ends or not isinstance(ours, dict):
            return (), 0
        tickets, tokens = ours.get("tickets"), ours.get("tokens")
        if ours.get("version") != _VERSION or ours.get("block_tokens") != self._block_tokens:
            return (), 0
        if not isinstance(tokens, int) or tokens <= 0 or not isinstance(tickets, list):
            return (), 0
        right = len(tickets) == len(self._ends) and all(isinstance(ticket, str) for ticket in tickets)
        return (tuple(tickets), tokens) if right else ((), 0)

    def allocated(self, request: Any, blocks: Sequence[int], external: int) -> bool:
        """The request's blocks. True: `external` tokens are ours to fetch."""
        params = request.kv_transfer_params
        if not params or not params.get("do_remote_prefill") or _OURS not in params:
            return False
        # Once: whatever becomes of it, the request is not fetched again.
        tickets, _ = self._read(params.pop(_OURS))
        computed = self._computed.pop(request.request_id, None)
        if external <= 0 or computed is None:
            self._decline(tickets)
            return False
        first = computed // self._block_tokens
        last = -(-(computed + external) // self._block_tokens)
        wanted = np.array(blocks[first:last], dtype=np.int64)
        self._plan.pulls.append(Wanted(request.request_id, tickets, wanted, first))
        self._guard.count("handoff.pulls")
        return True

    def _decline(self, tickets: tuple[str, ...]) -> None:
        if tickets:
            self._plan.declined.append(tickets)
            self._guard.count("handoff.declined")

    # ---- both

    def finished(self, request: Any, blocks: Sequence[int]) -> tuple[bool, dict[str, Any] | None]:
        """(whether its blocks are still needed, what the proxy is to pass on)."""
        params = request.kv_transfer_params
        self._computed.pop(request.request_id, None)
        if not params:
            return False, None
        if params.get("do_remote_prefill"):
            if _OURS in params:  # it ended before it was scheduled
                self._decline(self._read(params.pop(_OURS))[0])
            return False, None
        if not params.get("do_remote_decode") or request.status.name not in _FINISHED:
            return False, None
        tokens = int(request.num_computed_tokens)
        used = list(blocks[: -(-tokens // self._block_tokens)])
        if not self._produces or not self._ends or not used:
            self._guard.warn(
                "handoff", "a request is to be decoded elsewhere, and nothing can be handed over"
            )
            return False, None
        weights = self._weights()
        tickets = [
            Ticket(end.descriptor, form=form_under(end.form, weights), promised=True) for end in self._ends
        ]
        names = tuple(ticket.name for ticket in tickets)
        self._plan.offers.append(Offered(request.request_id, names, np.array(used, dtype=np.int64)))
        self._guard.count("handoff.offers")
        ours = {
            "version": _VERSION,
            "tickets": [ticket.seal(self._secret) for ticket in tickets],
            "tokens": tokens,
            "block_tokens": self._block_tokens,
        }
        return True, {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": self._engine_id,
            "remote_request_id": request.request_id,
            "remote_block_ids": used,
            "remote_host": "",
            "remote_port": 0,
            "tp_size": len(self._ends),
            "remote_num_tokens": tokens,
            _OURS: ours,
        }

    def take_plan(self) -> HandoffPlan | None:
        if not self._plan:
            return None
        plan, self._plan = self._plan, HandoffPlan()
        return plan
