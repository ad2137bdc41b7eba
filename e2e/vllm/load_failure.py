"""vLLM in one process with the connector: pages that are found and then do not come, with rubbish in their blocks.

Standard input: {"config": TENT's configuration, "prompt": token ids, "pages": pages of the prompt}.
Standard output: the answers computed, loaded, and after each failed load, with the counters.
"""

from __future__ import annotations

import ctypes
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


def lose_pages(lost: list[int]) -> None:
    """From now on the pages at these places of each load come as rubbish and are reported lost."""
    from tent_vllm.worker import WorkerSide

    load = WorkerSide._load

    def load_and_lose(self: Any, plan: Any) -> set[int]:
        failed = load(self, plan)
        blocks = plan.load.blocks[[i for i in lost if i < len(plan.load)]]
        layout = self._pages._layouts[0]
        for row in layout.addresses(blocks):
            for address, length in zip(row, layout.lengths, strict=True):
                ctypes.memset(int(address), 0x3F, int(length))
        return failed | set(blocks.tolist())

    WorkerSide._load = load_and_lose  # type: ignore[method-assign]


def main(model: str) -> None:
    from vllm import LLM, SamplingParams

    task = json.load(sys.stdin)
    llm = LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=8192,
        disable_log_stats=False,
        kv_transfer_config={
            "kv_connector": "TentConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": task["config"],
        },
    )
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=1)

    def ask() -> dict[str, Any]:
        output = llm.generate({"prompt_token_ids": task["prompt"]}, params, use_tqdm=False)[0]
        steps = zip(output.outputs[0].logprobs, output.outputs[0].token_ids, strict=True)
        llm.reset_prefix_cache()
        hits = sum(m.value for m in llm.get_metrics() if m.name == "vllm:external_prefix_cache_hits")
        return {
            "logprobs": [step[token].logprob for step, token in steps],
            "reason": output.outputs[0].finish_reason,
            "hits": hits,
        }

    def wait_stored(pages: int) -> None:
        """Saves go on after the answer, and are counted when vLLM works."""
        deadline = time.monotonic() + 60
        while (
            sum(
                metric.value
                for metric in llm.get_metrics()
                if metric.name == "vllm:tent_events" and metric.labels["event"] == "save.stored"
            )
            < pages
        ):
            assert time.monotonic() < deadline, f"{pages} pages are not stored"
            llm.generate({"prompt_token_ids": [5, 6, 7]}, params, use_tqdm=False)

    answers = {"computed": ask()}
    wait_stored(task["pages"])
    answers["loaded"] = ask()
    lose_pages([3, 7])
    answers["lost in the middle"] = ask()
    # The lost pages are not offered for a while; those before them are, and the first of those is lost now.
    lose_pages([0])
    answers["lost from the start"] = ask()
    answers["nothing offered"] = ask()
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
