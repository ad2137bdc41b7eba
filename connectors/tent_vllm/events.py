"""The pool's contents as vLLM's KV events, for routers that send a request where its prefix is.

Blocks are named by vLLM's own hashes, as in the events of its local cache, with the medium "TENT". What the pool evicts
is not told; a block that was looked for and not delivered is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm.distributed.kv_events import BlockRemoved, BlockStored
from vllm.v1.core.kv_cache_utils import BlockHash, maybe_convert_block_hash

MEDIUM = "TENT"


def pool_events(stored: Sequence[bytes], gone: Sequence[bytes], block_size: int) -> list[Any]:
    events: list[Any] = []
    if stored:
        events.append(
            BlockStored(
                block_hashes=_named(stored),
                parent_block_hash=None,
                token_ids=[],
                block_size=block_size,
                lora_id=None,
                medium=MEDIUM,
                lora_name=None,
            )
        )
    if gone:
        events.append(BlockRemoved(block_hashes=_named(gone), medium=MEDIUM))
    return events


def _named(keys: Sequence[bytes]) -> list[Any]:
    return [maybe_convert_block_hash(BlockHash(key)) for key in keys]
