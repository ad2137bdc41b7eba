"""What makes two pages the same page: the fields of a namespace.

vLLM's block hashes carry the tokens, the LoRA adapter, multimodal inputs, prompt embeddings and the cache salt, and
nothing else. Everything besides that changes the bytes of a page, or what they mean, goes into the namespace here;
two servers share pages exactly when every field agrees. A field too many costs a hit, one too few a wrong answer.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from tent_core.errors import Unsupported

from .groups import Groups

# Version of this list of fields and of the order of bytes in a page.
FORMAT = "vllm-1"

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_SAMPLES, _SAMPLE_BYTES = 16, 4096
# Keys of a model's configuration that say where it came from, not what it computes.
_CONFIG_NOISE = frozenset({"_name_or_path", "name_or_path", "transformers_version", "_commit_hash"})


def check_supported(vllm_config: Any) -> None:
    """Raises Unsupported for what this version leaves alone whatever the attention: a block that holds a stride of
    tokens (context parallelism)."""
    parallel = vllm_config.parallel_config
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) not in (None, 1):
            raise Unsupported(
                f"TentConnector does not work with {name} > 1 yet; requests are computed as without it"
            )


def namespace_fields(
    vllm_config: Any,
    groups: Groups,
    group: int,
    layout_signature: str,
    backend: str,
    ranks: dict[str, int],
    version: str,
    model_id: str = "",
) -> dict[str, str]:
    """Fields for the pages of one rank and KV-cache group.

    `backend`: attention backend and, on a CPU, its instruction set, which decides the order of elements in a block.
    `ranks`: tp and pp ranks. `version`: vLLM's. `model_id`: replaces what is read off the model's files.
    """
    model, cache, parallel = vllm_config.model_config, vllm_config.cache_config, vllm_config.parallel_config
    fields = {
        "engine": f"vllm-{'.'.join(version.split('.')[:2])}",
        "format": FORMAT,
        "weights": model_id or weights_identity(vllm_config),
        "config": _config_digest(model),
        "dtype": str(model.dtype),
        "quantization": str(getattr(model, "quantization", None) or ""),
        "kv_dtype": str(cache.cache_dtype),
        "block_size": str(groups.all[group].tokens),
        "hash": str(getattr(cache, "prefix_caching_hash_algo", "")),
        "attention": groups.all[group].kind,
        "backend": backend,
        "layout": hashlib.blake2b(layout_signature.encode(), digest_size=16).hexdigest(),
        "tp": f"{ranks.get('tp', 0)}/{parallel.tensor_parallel_size}",
        "pp": f"{ranks.get('pp', 0)}/{parallel.pipeline_parallel_size}",
        "draft": _draft_identity(vllm_config),
    }
    if len(groups.all) > 1:
        own = groups.all[group]
        fields["group"] = f"{group}/{len(groups.all)}:{own.window}:{own.chunk}:{groups.unit}"
    if "longrope" in fields["config"]:
        # The only rope that vLLM bakes differently for different lengths of context.
        fields["context"] = str(model.max_model_len)
    return fields


def weights_identity(vllm_config: Any) -> str:
    """Which weights run. Read once at start: it looks into the weight files."""
    model = vllm_config.model_config
    load_format = str(getattr(vllm_config.load_config, "load_format", ""))
    if load_format == "dummy":
        # Weights that were never read from anywhere, but drawn.
        return f"dummy:{model.model}:{getattr(model, 'seed', '')}"
    path = str(model.model)
    revision = str(getattr(model, "revision", None) or "")
    return f"{path}@{revision}:{load_format}:{weights_digest(path)}"


def weights_digest(folder: str) -> str:
    """Digest of a local model folder: the name, size, date and samples of every weight file.

    Not every byte is read: 16 samples of 4 KiB a file, in milliseconds; the date tells apart what the samples might
    not (a copy of the files that does not keep it shares no pages unless `model_id` says that it is the same). "" for
    a model named by its hub id; its revision stands for it then.
    """
    if not os.path.isdir(folder):
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.endswith(_WEIGHT_SUFFIXES) and os.path.isfile(path):
            about = os.stat(path)
            digest.update(f"{name}\0{about.st_size}\0{int(about.st_mtime)}\0".encode())
            with open(path, "rb") as file:
                for i in range(_SAMPLES):
                    file.seek(max(0, about.st_size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _config_digest(model: Any) -> str:
    """Digest of the model's configuration after overrides, with the rope scaling's name in clear."""
    config = model.hf_config.to_dict()
    text = json.dumps(_without_noise(config), sort_keys=True, default=str)
    rope = "longrope:" if "longrope" in text else ""
    return rope + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _without_noise(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _without_noise(v) for k, v in value.items() if k not in _CONFIG_NOISE}
    if isinstance(value, list | tuple):
        return [_without_noise(v) for v in value]
    return value


def _draft_identity(vllm_config: Any) -> str:
    """The speculative model, whose layers lie in the same pages; "" without one."""
    speculative = getattr(vllm_config, "speculative_config", None)
    if speculative is None:
        return ""
    draft = str(getattr(speculative, "model", "") or "")
    return f"{getattr(speculative, 'method', '')}:{draft}:{weights_digest(draft)}"
