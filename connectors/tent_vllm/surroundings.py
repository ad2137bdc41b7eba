"""What the connector finds around it in vLLM: its configuration, other connectors, and the KV caches of all layers."""

from __future__ import annotations

from typing import Any

import torch

from .groups import Groups
from .guard import log


def choose_recompute(transfer: Any, keep: bool) -> None:
    """vLLM's default policy ends a request in an error when a page does not come; a cache's misses are computed."""
    if transfer.kv_load_failure_policy != "recompute" and not keep:
        log.info(
            "kv_load_failure_policy is 'recompute' now: a page that TENT has lost is computed, not an error"
        )
        transfer.kv_load_failure_policy = "recompute"


def beside_others(vllm_config: Any) -> bool:
    """Whether this is one of several connectors inside MultiConnector. Hand-offs are left to the others then: it cannot
    pass on the parameters of two."""
    from vllm import config

    current = getattr(config, "get_current_vllm_config_or_none", lambda: None)()
    outer: Any = getattr(current, "kv_transfer_config", None)
    if outer is None or outer is vllm_config.kv_transfer_config:
        return False
    return len(outer.kv_connector_extra_config.get("connectors", ())) > 1


def of_group(caches: dict[str, torch.Tensor], groups: Groups, index: int) -> dict[str, torch.Tensor]:
    """The KV caches of one group's layers. Of a single group: all that vLLM registers, drafts included."""
    if len(groups.all) == 1:
        return caches
    wanted = set(groups.all[index].layers)
    return {name: cache for name, cache in caches.items() if name in wanted}
