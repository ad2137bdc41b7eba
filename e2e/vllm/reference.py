"""vLLM in one process, without a connector: {name: token ids} on standard input, {name: answer} on standard output."""

from __future__ import annotations

import json
import os
import sys

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    DO_NOT_TRACK="1",
    OMP_NUM_THREADS="1",
    TORCHDYNAMO_DISABLE="1",
)


def main(model: str, new_tokens: int) -> None:
    from vllm import LLM, SamplingParams

    prompts = json.load(sys.stdin)
    llm = LLM(model, dtype="float32", enforce_eager=True, max_model_len=8192)
    params = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, logprobs=1)
    answers = {}
    for name, tokens in prompts.items():
        output = llm.generate({"prompt_token_ids": tokens}, params, use_tqdm=False)[0].outputs[0]
        logprobs = [
            step[token].logprob for step, token in zip(output.logprobs, output.token_ids, strict=True)
        ]
        answers[name] = {"tokens": list(output.token_ids), "logprobs": logprobs}
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
