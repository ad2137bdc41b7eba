"""Make a model with random weights and a real tokenizer, offline.

    python demo_model.py DIRECTORY [--size tiny|demo|large|hybrid|latent]

Run it with the *serving engine's* interpreter, by path: it needs torch, transformers and tokenizers, which TENT's
own environment lacks, and imports nothing of TENT. The directory appears whole or not at all, so two processes may
make the same one at once. The same size and seed give the same weights on one machine.

The tokenizer is byte-level BPE trained on English prose that Python itself carries (the language reference in
``pydoc_data`` and the docstrings of the standard library), so that text becomes tokens of a realistic length.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# At transformers' default of 0.02 random weights emit one token for ever, which would hide wrong KV cache.
INITIALIZER_RANGE = 0.05
VOCABULARY = 8192
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

# Head size 64 throughout: the CPU attention kernels of vLLM and SGLang both take it.
SIZES: dict[str, dict[str, Any]] = {
    # 6 M parameters, 4 KiB of KV a token in fp32: prefill is nearly free; for tests.
    "tiny": dict(arch="llama", hidden=256, layers=4, heads=4, kv_heads=2, inner=688),
    # 85 M parameters, 16 KiB of KV a token in fp32: prefill is expensive, a start is not.
    "demo": dict(arch="llama", hidden=768, layers=8, heads=12, kv_heads=4, inner=3072),
    # 200 M parameters, 32 KiB of KV a token in fp32: for benchmarks.
    "large": dict(arch="llama", hidden=1024, layers=16, heads=16, kv_heads=4, inner=2816),
    # Sliding-window and full attention in turn (the hybrid KV-cache groups of vLLM).
    "hybrid": dict(arch="gemma3", hidden=256, layers=6, heads=4, kv_heads=2, inner=688),
    # Latent attention (MLA): one small cache that all heads share.
    "latent": dict(arch="deepseek", hidden=256, layers=3, heads=4, kv_heads=4, inner=688),
}


def prose() -> Iterator[str]:
    """English text that every Python installation carries."""
    standard_library = Path(sysconfig.get_paths()["stdlib"])
    budget = 6_000_000
    for path in [standard_library / "pydoc_data" / "topics.py", *sorted(standard_library.glob("*.py"))]:
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 60:
                budget -= len(node.value)
                yield node.value
        if budget < 0:
            return


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(prose(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=32768,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_config(size: str, vocabulary: int) -> Any:
    from transformers import DeepseekV2Config, Gemma3TextConfig, LlamaConfig

    shape = SIZES[size]
    common: dict[str, Any] = dict(
        vocab_size=vocabulary,
        hidden_size=shape["hidden"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=64,
        max_position_embeddings=32768,
        initializer_range=INITIALIZER_RANGE,
        # Tied to its input, a random model repeats one token.
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    if shape["arch"] == "gemma3":
        return Gemma3TextConfig(**common, sliding_window=256)
    if shape["arch"] == "deepseek":
        latent = dict(
            kv_lora_rank=64, q_lora_rank=None, qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=32
        )
        # SGLang's CPU engine knows these models' own stretched positions only. Every layer is a dense one: no experts.
        positions = dict(
            rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=4096,
            beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0,
        )  # fmt: skip
        return DeepseekV2Config(
            **{**common, "head_dim": 32},
            **latent,
            rope_parameters=positions,
            first_k_dense_replace=shape["layers"],
        )
    return LlamaConfig(**common)


def write_model(directory: Path, size: str, seed: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(directory)
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float32)
    # A multiple of 64 whatever the trainer found: kernels like it.
    config = make_config(size, (len(tokenizer) + 63) // 64 * 64)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.do_sample = False
    model.save_pretrained(directory)


def make_model(directory: Path, size: str, seed: int = 7) -> None:
    """Write the model unless the directory has one. Atomic: a killed run leaves no half of a model behind."""
    if (directory / "config.json").exists():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=directory.name + ".", dir=directory.parent))
    try:
        write_model(scratch, size, seed)
        try:
            os.rename(scratch, directory)
        except OSError:
            if not (directory / "config.json").exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make a random-weight model with a real tokenizer, offline.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args(argv)
    make_model(args.directory, args.size, args.seed)
    print(args.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
