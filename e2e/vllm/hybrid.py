"""vLLM in one process on a model with several kinds of attention: with the connector, or without any.

Standard input: {"config": TENT's configuration or null, "prompts": {name: token ids}}.
Standard output: {name: log-probabilities}; with the connector each prompt twice, "NAME again" being the one loaded, and
what the connector counted.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from one_process import Vllm


def main(model: str) -> None:
    task = json.load(sys.stdin)
    vllm = Vllm(model, task["config"])
    answers: dict[str, Any] = {}
    for name, tokens in task["prompts"].items():
        before = vllm.count("vllm:tent_events", event="save.stored")
        answers[name] = vllm.ask(tokens)["logprobs"]
        if task["config"] is not None:
            vllm.wait_stored(int(before) + task["pages"])
            vllm.reset()
            hits = vllm.count("vllm:external_prefix_cache_hits")
            answers[f"{name} again"] = vllm.ask(tokens)["logprobs"]
            answers[f"{name} hits"] = vllm.count("vllm:external_prefix_cache_hits") - hits
    answers["loaded"] = vllm.count("vllm:tent_events", event="load.hit")
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
