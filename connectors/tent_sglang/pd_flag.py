"""The value ``tent`` of SGLang's flag for prefill/decode disaggregation."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["CHOSEN", "offer_transfer_backend"]

FLAG = "--disaggregation-transfer-backend"
# Set by the flag in SGLang's first process, for those that it starts. Not a setting of TENT's, whose names begin so.
CHOSEN = "SGLANG_TENT_HANDOFF"


def offer_transfer_backend(parser: Any) -> None:
    """The flag accepts ``tent``. To the rest of SGLang it is ``mooncake``, whose managers are used."""
    action = parser._option_string_actions.get(FLAG)
    if action is None or action.choices is None or "tent" in action.choices:
        return
    before = action.type or str

    def choose(value: str) -> Any:
        if value != "tent":
            return before(value)
        os.environ[CHOSEN] = "1"
        return "mooncake"

    action.type = choose
    action.choices = [*action.choices, "tent"]
