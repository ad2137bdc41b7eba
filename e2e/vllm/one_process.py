"""vLLM in one process, for the small programs beside this one: its environment, its start, an answer, its counters."""

from __future__ import annotations

import os
import time
from typing import Any

# Before vLLM is imported.
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


class Vllm:
    """`config`: TENT's; None: no connector."""

    def __init__(self, model: str, config: dict[str, Any] | None, **transfer: Any) -> None:
        """`transfer`: further keys of vLLM's kv_transfer_config."""
        from vllm import LLM

        options: dict[str, Any] = {}
        if config is not None:
            options["kv_transfer_config"] = {
                "kv_connector": "TentConnector",
                "kv_connector_module_path": "tent_vllm.connector",
                "kv_role": "kv_both",
                "kv_connector_extra_config": config,
                **transfer,
            }
        self.llm = LLM(
            model, dtype="float32", enforce_eager=True, max_model_len=8192, disable_log_stats=False, **options
        )

    def ask(
        self,
        prompt: list[int],
        tokens: int = 8,
        handoff: dict[str, Any] | None = None,
        salt: str | None = None,
    ) -> dict[str, Any]:
        """A greedy completion."""
        from vllm import SamplingParams

        extra = None if handoff is None else {"kv_transfer_params": handoff}
        params = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=1, extra_args=extra
        )
        asked = {"prompt_token_ids": prompt} | ({} if salt is None else {"cache_salt": salt})
        output = self.llm.generate(asked, params, use_tqdm=False)[0]
        answer = output.outputs[0]
        steps = zip(answer.logprobs or (), answer.token_ids, strict=True)
        return {
            "tokens": list(answer.token_ids),
            "logprobs": [step[token].logprob for step, token in steps],
            "reason": answer.finish_reason,
            "handoff": output.kv_transfer_params,
        }

    def reset(self) -> bool:
        """Forgets the local prefix cache."""
        return bool(self.llm.reset_prefix_cache())

    def count(self, name: str, **labels: str) -> float:
        """The sum of a metric over the rows that carry `labels`."""
        found = [metric for metric in self.llm.get_metrics() if metric.name == name]
        return sum(metric.value for metric in found if labels.items() <= metric.labels.items())

    def by_label(self, name: str, label: str) -> dict[str, float]:
        return {m.labels[label]: m.value for m in self.llm.get_metrics() if m.name == name}

    def wait_stored(self, pages: int) -> None:
        """Saves go on after the answer, and are counted when vLLM works."""
        deadline = time.monotonic() + 60
        while self.count("vllm:tent_events", event="save.stored") < pages:
            assert time.monotonic() < deadline, f"{pages} pages are not stored"
            self.ask([5, 6, 7], 1)
