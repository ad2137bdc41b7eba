"""What makes two pages the same page: the fields of a namespace.

SGLang's page keys are hashes of the tokens (with LoRA and cache salt in their seed), and nothing else. Everything
besides that changes the bytes of a page, or what they mean, goes into the namespace here; two servers share pages
exactly when every field agrees. A field too many costs a hit, one too few costs a wrong answer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import Any

from .heads import HeadGroups

# Version of this list of fields and of the order of bytes in a page.
FORMAT = "sglang-1"

# Pools that are cut by tensor-parallel rank even where the model's main cache is the same on every rank.
_ALWAYS_SHARDED = frozenset({"mamba"})

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_SAMPLES, _SAMPLE_BYTES = 64, 4096


def namespace_fields(
    config: Any,
    pool: Any,
    pool_name: str,
    form: str,
    part_lengths: Iterable[int],
    model: dict[str, str],
    groups: HeadGroups | None = None,
) -> dict[str, str]:
    """Fields for the pages of one host pool.

    `config`: SGLang's HiCacheStorageConfig. `form`: "parts" (a page's buffers, in the pool's order) or "flat" (the
    pool's flat copy of a page). `part_lengths`: bytes of each of a page's parts. `model`: see `model_fields`. `groups`:
    how the page is cut; then which group it is stands in its key, and the rank does not matter.
    """
    fields = {
        "engine": f"sglang-{sglang_version()}",
        "format": FORMAT,
        "form": form,
        "pool": str(pool_name),
        "pool_class": type(pool).__name__,
        "parts": _runs(part_lengths),
        "model": str(config.model_name or ""),
        "tp": _tensor_parallel(config, pool, str(pool_name)),
        "pp": f"{config.pp_rank}/{config.pp_size}",
        "cp": f"{getattr(config, 'attn_cp_rank', 0)}/{getattr(config, 'attn_cp_size', 1)}",
        "dcp": f"{getattr(config, 'dcp_rank', 0)}/{getattr(config, 'dcp_size', 1)}",
    }
    for name in (
        "dtype",
        "layout",
        "page_size",
        "layer_num",
        "start_layer",
        "end_layer",
        "head_num",
        "head_dim",
    ):
        fields[name] = str(getattr(pool, name, ""))
    for name in ("v_head_dim", "kv_lora_rank", "qk_rope_head_dim", "head_group_num", "storage_format_tag"):
        fields[name] = str(getattr(pool, name, ""))
    if groups is not None:
        fields["tp"] = f"heads/{groups.of}"
        fields["head_num"] = str(int(pool.head_num) // groups.count)
    fields.update(model)
    return fields


def replicated(config: Any, pool: Any, pool_name: str) -> bool:
    """Whether every tensor-parallel rank holds the same bytes, written by one of them (MLA and its kin).

    A sidecar that is cut by heads stays per rank: what its rank did not write is a miss, never another rank's bytes.
    """
    if not config.is_mla_model or pool_name in _ALWAYS_SHARDED:
        return False
    return pool_name == "kv" or "MHA" not in type(pool).__name__


def _tensor_parallel(config: Any, pool: Any, pool_name: str) -> str:
    return "shared" if replicated(config, pool, pool_name) else f"{config.tp_rank}/{config.tp_size}"


def rank_of_process(config: Any) -> int:
    """A number for this scheduler process that no other of the same server has."""
    rank = 0
    for kind in ("dp", "pp", "tp", "attn_cp"):
        rank = rank * int(getattr(config, f"{kind}_size", 1) or 1) + int(
            getattr(config, f"{kind}_rank", 0) or 0
        )
    return rank


def _runs(lengths: Iterable[int]) -> str:
    """Part lengths in brief: [8, 8, 8, 2] is "3x8,1x2"."""
    return ",".join(f"{len(list(group))}x{length}" for length, group in groupby(int(n) for n in lengths))


def sglang_version() -> str:
    """Releases change what a page holds; pages of two of them are not mixed."""
    try:
        return version("sglang")
    except PackageNotFoundError:
        return "source"


def model_fields(server: Any) -> dict[str, str]:
    """Fields that say which weights run, and how they are read, from SGLang's server arguments.

    Read once an attachment: it looks into the weight files.
    """
    fields = {
        name: str(getattr(server, name, None) or "")
        for name in (
            "revision",
            "weight_version",
            "dtype",
            "quantization",
            "kv_cache_dtype",
            "quantization_param_path",
            "json_model_override_args",
            # A draft model's layers may lie in the same pages.
            "speculative_algorithm",
            "speculative_draft_model_revision",
        )
    }
    fields["model_dtype"] = fields.pop("dtype")
    draft = str(getattr(server, "speculative_draft_model_path", None) or "")
    fields["draft"] = weights_digest(draft) or draft
    load_format = str(getattr(server, "load_format", "") or "")
    if load_format == "dummy":
        # Weights that were never read from anywhere, but drawn.
        fields["weights"] = f"dummy:{getattr(server, 'random_seed', '')}"
    else:
        fields["weights"] = weights_digest(str(getattr(server, "model_path", "") or ""))
    return fields


def weights_digest(folder: str) -> str:
    """Digest of a local model folder: its config.json, and the name, size and samples of every weight file.

    Not every byte is read: 64 samples of 4 KiB a file tell models apart that share a name and a shape, in
    milliseconds. "" for a model named by its hub id; its revision stands for it then.
    """
    if not os.path.isdir(folder):
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name == "config.json":
            with open(path, "rb") as file:
                digest.update(file.read())
        elif name.endswith(_WEIGHT_SUFFIXES) and os.path.isfile(path):
            _add_samples(digest, name, path)
    return digest.hexdigest()


def _add_samples(digest: Any, name: str, path: str) -> None:
    size = os.path.getsize(path)
    digest.update(f"{name}\0{size}\0".encode())
    with open(path, "rb") as file:
        for i in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
