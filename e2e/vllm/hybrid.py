"""vLLM in one process on a model with several kinds of attention: with the connector, or without any.

Standard input: {"config": TENT's configuration or null, "prompts": {name: token ids}}.
Standard output: {name: log-probabilities}; with the connector each prompt twice, "NAME again" being the one loaded, and
what the connector counted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

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


def main(model: str) -> None:
    from vllm import LLM, SamplingParams

    task = json.load(sys.stdin)
    options: dict[str, Any] = {}
    if task["config"] is not None:
        options["kv_transfer_config"] = {
            "kv_connector": "TentConnector",
            "kv_connector_module_path": "tent_vllm.connector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": task["config"],
        }
    llm = LLM(
        model, dtype="float32", enforce_eager=True, max_model_len=4096, disable_log_stats=False, **options
    )
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=1)

    def ask(tokens: list[int]) -> list[float]:
        output = llm.generate({"prompt_token_ids": tokens}, params, use_tqdm=False)[0].outputs[0]
        steps = zip(output.logprobs, output.token_ids, strict=True)
        return [step[token].logprob for step, token in steps]

    def count(name: str, **labels: str) -> float:
        found = [m for m in llm.get_metrics() if m.name == name]
        return sum(m.value for m in found if labels.items() <= m.labels.items())

    def wait_stored(pages: int) -> None:
        deadline = time.monotonic() + 60
        while count("vllm:tent_events", event="save.stored") < pages:
            assert time.monotonic() < deadline, f"{pages} pages are not stored"
            ask([5, 6, 7])

    answers: dict[str, Any] = {}
    for name, tokens in task["prompts"].items():
        before = count("vllm:tent_events", event="save.stored")
        answers[name] = ask(tokens)
        if task["config"] is not None:
            wait_stored(int(before) + task["pages"])
            llm.reset_prefix_cache()
            hits = count("vllm:external_prefix_cache_hits")
            answers[f"{name} again"] = ask(tokens)
            answers[f"{name} hits"] = count("vllm:external_prefix_cache_hits") - hits
    answers["loaded"] = count("vllm:tent_events", event="load.hit")
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
