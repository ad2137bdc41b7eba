"""vLLM in one process with the connector: pages that are found and then do not come, with rubbish in their blocks.

Standard input: {"config": TENT's configuration, "prompt": token ids, "pages": pages of the prompt}.
Standard output: the answers computed, loaded, and after each failed load, with the counters.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

from one_process import Vllm


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
    task = json.load(sys.stdin)
    vllm = Vllm(model, task["config"])

    def ask() -> dict[str, Any]:
        answer = vllm.ask(task["prompt"])
        vllm.reset()
        return {**answer, "hits": vllm.count("vllm:external_prefix_cache_hits")}

    answers = {"computed": ask()}
    vllm.wait_stored(task["pages"])
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
