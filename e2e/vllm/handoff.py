"""vLLM in one process with the connector, driven over pipes: a prefill or a decode server without its HTTP front.

Standard input: {"config": TENT's configuration, "transfer": further keys of vLLM's}, then a request a line. Standard
output: an answer a line. Between requests vLLM goes on with its steps, as a server does as long as blocks are held.
"""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any

from one_process import Vllm

STEP_S = 0.02


class Server(Vllm):
    def state(self) -> dict[str, Any]:
        """The share of blocks that requests hold, the connector's counters, and the tokens that came through it."""
        self.ask([5, 6, 7], 1)  # vLLM frees and counts while it works
        scheduler = self.llm.llm_engine.engine_core.engine_core.scheduler
        return {
            "held": scheduler.kv_cache_manager.usage,
            "events": self.by_label("vllm:tent_events", "event"),
            "bytes": self.by_label("vllm:tent_bytes", "direction"),
            "external": self.count("vllm:external_prefix_cache_hits"),
        }


def main(model: str) -> None:
    # What libraries print is no answer.
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    options = json.loads(sys.stdin.buffer.raw.readline())
    server = Server(model, options["config"], **options["transfer"])
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
