"""vLLM in one process with the connector, driven over pipes: a prefill or a decode server without its HTTP front.

Standard input: TENT's configuration, then a request a line. Standard output: an answer a line. Between requests vLLM
goes on with its steps, as a server does as long as blocks are held.
"""

from __future__ import annotations

import json
import os
import select
import sys
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
STEP_S = 0.02


class Server:
    def __init__(self, model: str, config: dict[str, Any]) -> None:
        from vllm import LLM

        self.llm = LLM(
            model,
            dtype="float32",
            enforce_eager=True,
            max_model_len=8192,
            disable_log_stats=False,
            kv_transfer_config={
                "kv_connector": "TentConnector",
                "kv_connector_module_path": "tent_vllm.connector",
                "kv_role": "kv_both",
                "kv_connector_extra_config": config,
            },
        )

    def ask(
        self, prompt: list[int], tokens: int, handoff: dict[str, Any] | None = None, salt: str | None = None
    ) -> dict[str, Any]:
        from vllm import SamplingParams

        extra = None if handoff is None else {"kv_transfer_params": handoff}
        params = SamplingParams(
            temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=1, extra_args=extra
        )
        asked = {"prompt_token_ids": prompt} | ({} if salt is None else {"cache_salt": salt})
        output = self.llm.generate(asked, params, use_tqdm=False)[0]
        steps = zip(output.outputs[0].logprobs, output.outputs[0].token_ids, strict=True)
        return {
            "logprobs": [step[token].logprob for step, token in steps],
            "handoff": output.kv_transfer_params,
        }

    def reset(self) -> bool:
        return bool(self.llm.reset_prefix_cache())

    def state(self) -> dict[str, Any]:
        """The share of blocks that requests hold, the connector's counters, and the tokens that came through it."""
        self.ask([5, 6, 7], 1)  # vLLM frees and counts while it works
        scheduler = self.llm.llm_engine.engine_core.engine_core.scheduler
        metrics = self.llm.get_metrics()
        events = {m.labels["event"]: m.value for m in metrics if m.name == "vllm:tent_events"}
        moved = {m.labels["direction"]: m.value for m in metrics if m.name == "vllm:tent_bytes"}
        external = sum(m.value for m in metrics if m.name == "vllm:external_prefix_cache_hits")
        return {
            "held": scheduler.kv_cache_manager.usage,
            "events": events,
            "bytes": moved,
            "external": external,
        }


def main(model: str) -> None:
    # What libraries print is no answer.
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    server = Server(model, json.loads(sys.stdin.buffer.raw.readline()))
    print(json.dumps("ready"), file=answers, flush=True)
    while True:
        if not select.select([0], [], [], STEP_S)[0]:
            server.llm.llm_engine.step()
            continue
        line = sys.stdin.buffer.raw.readline()
        if not line:
            return
        name, arguments = json.loads(line)
        print(json.dumps(getattr(server, name)(**arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
