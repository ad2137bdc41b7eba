"""What of vLLM's connector interface is known here: a version that has more, or lacks some, says so when it starts.

A call that vLLM has gained and this connector does not know is answered by vLLM's own default, which may be right; one
that is gone is made no more. The line in the log is for whoever then wonders.
"""

from __future__ import annotations

from typing import Any

# The newest release whose interface was read.
NEWEST = (0, 32)
# Names that a release before that had and it has no more.
_GONE = frozenset(("prefer_cross_layer_blocks", "register_cross_layers_kv_cache"))
# The public names of vLLM's KVConnectorBase_V1 in the versions that were read, 0.28 to 0.32.
# fmt: off
KNOWN = frozenset((
    "bind_connector_metadata", "bind_gpu_block_pool", "bind_kv_cache_manager", "build_connector_meta",
    "build_connector_worker_meta", "build_kv_connector_stats", "build_prom_metrics", "clear_connector_metadata",
    "finish_forward", "get_block_ids_with_load_errors", "get_external_cache_hit_sources", "get_finished",
    "get_finished_count", "get_handshake_metadata", "get_kv_connector_kv_cache_events",
    "get_kv_connector_stats", "get_loaded_kv_cache_group_ids", "get_mem_pool_context",
    "get_num_new_matched_tokens", "get_required_kvcache_layout", "get_transfer_results", "handle_preemptions",
    "has_connector_metadata", "has_pending_block_frees", "has_pending_push_work", "on_new_request",
    "prefer_cross_layer_blocks", "register_cross_layers_kv_cache", "register_finished_partial_tail",
    "register_kv_caches", "request_finished", "requires_kv_delivery", "requires_piecewise_for_cudagraph",
    "reset_cache", "reset_capture_state", "role", "save_kv_layer", "set_host_xfer_buffer_ops",
    "set_xfer_handshake_metadata", "set_xfer_handshake_metadata_pp_aware", "shutdown", "start_load_kv",
    "supports_divergent_local_hybrid_hits", "take_events", "update_connector_output",
    "update_state_after_alloc", "wait_for_layer_load", "wait_for_save",
))
# fmt: on


def unknown_calls(base: type[Any]) -> list[str]:
    """Public names of vLLM's connector class `base` that this connector has never heard of."""
    return sorted(name for name in dir(base) if not name.startswith("_") and name not in KNOWN)


def differences(base: type[Any], version: str) -> str | None:
    """What to say of a vLLM of this version, whose connector class is `base`; None: nothing."""
    unknown = unknown_calls(base)
    newer = _release(version) > NEWEST
    missing = sorted(KNOWN - _GONE - set(dir(base))) if newer else []
    said = [f"it has calls that vLLM's defaults answer: {', '.join(unknown)}"] if unknown else []
    said += [f"it lacks calls that TENT answers: {', '.join(missing)}"] if missing else []
    if newer and not said:
        said = ["its connector interface has the same calls"]
    if not said:
        return None
    read = ".".join(str(part) for part in NEWEST)
    older = (
        f"is newer than {read}, the newest that TENT was tested with" if newer else "is not as TENT knows it"
    )
    return f"vLLM {version} {older}; {'; '.join(said)}"


def _release(version: str) -> tuple[int, int]:
    """(major, minor), of whatever build; (0, 0) where there is none to be read."""
    parts = version.split(".")[:2]
    if len(parts) < 2 or not all(part.isdigit() for part in parts):
        return 0, 0
    return int(parts[0]), int(parts[1])
