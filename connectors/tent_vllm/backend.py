"""What has to be asked of vLLM's own modules: the attention backend's name, and this worker's ranks."""

from __future__ import annotations

from typing import Any


def attention_backend(vllm_config: Any) -> str:
    """Names of the attention backends of all layers; on a CPU with the instruction set that orders a block's elements.

    Two hosts whose CPUs differ may keep one block's elements in different orders under one shape.
    """
    names = set()
    for layer in vllm_config.compilation_config.static_forward_context.values():
        get = getattr(layer, "get_attn_backend", None)
        if get is not None:
            names.add(f"{get().get_name()}{_instruction_set(vllm_config, layer)}")
    return ",".join(sorted(names))


def _instruction_set(vllm_config: Any, layer: Any) -> str:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return ""
    try:
        from vllm.v1.attention.backends.cpu_attn import _get_attn_isa
    except ImportError:
        return f":{current_platform.get_cpu_architecture()}"
    cache = vllm_config.cache_config
    isa = _get_attn_isa(
        vllm_config.model_config.dtype, cache.block_size, getattr(layer, "head_size", None), cache.cache_dtype
    )
    return f":{isa}"


def ranks_of_this_worker() -> dict[str, int]:
    """Tensor- and pipeline-parallel rank."""
    from vllm.distributed.parallel_state import get_pp_group, get_tp_group

    return {"tp": get_tp_group().rank_in_group, "pp": get_pp_group().rank_in_group}


def hash_unit(vllm_config: Any, kv_cache_config: Any) -> int:
    """Tokens of one of a request's block hashes."""
    try:
        from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
    except ImportError:
        return int(vllm_config.cache_config.block_size)
    return int(resolve_kv_cache_block_sizes(kv_cache_config, vllm_config)[1])
